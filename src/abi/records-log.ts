/**
 * The bytes of luod's records (`records.ts` says what they are): entries are made and read here, of a whole file or of
 * a piece of it, and nothing is kept. What was read before and is the same is not decoded again.
 */
import { crc32 } from 'node:zlib'
import { LuoError } from '../errors.js'

export const RECORDS_VERSION = 3
/** Each has a shape in `record-shapes.ts`. */
export const RECORD_TYPES = [
  'meta',
  'workload',
  'session',
  'file',
  'update',
  'history',
  'member',
  'lifetime',
  'answer',
  'flb',
] as const
export type RecordType = (typeof RECORD_TYPES)[number]
export type Json = Record<string, unknown>

/** Keys are numbers that are counted up: an order for sorting, of the lower one first. */
export function compareKeys(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length
  return a < b ? -1 : a > b ? 1 : 0
}

/** `value` undefined takes the record away. `key`: a u64 in decimal. */
export interface Change {
  type: RecordType
  key: string
  value: Json | undefined
}

export const RECORDS_MAGIC = 'LUODREC\0'
export const HEADER_BYTES = 64
export const VERSION_AT = 8
export const RANGE_AT = 16
export const UNIT = 8
/** A log begins at a multiple of this: so its place and its length fit into one word with their checksum. */
export const START_UNIT = 64
const START_BITS = 22
const LENGTH_BITS = 26
/** Of the range that the checksum is of. */
const RANGE_BYTES = 6
const ENTRY_BYTES = 24
const CRC_FROM = 8
const CHECK_AT = 12
/** Of an entry, what its check is of: length, operation and type, key. */
const HEAD = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23] as const
/** FNV-1a, of 32 bits. */
const FNV_START = 0x811c9dc5
const FNV_PRIME = 0x01000193
const PUT = 1
const DELETE = 2
/** No record is longer; a longer one would be a defect. */
const MAX_JSON_BYTES = 1024 * 1024
export type Entries = Map<RecordType, Map<string, Json>>

/** Where an entry is in the file. */
export interface Place {
  at: number
  bytes: number
}
export type Places = Map<RecordType, Map<string, Place>>

export function encodeRange(start: number, end: number): Uint8Array {
  const at = start / START_UNIT
  const length = (end - start) / UNIT
  if (at >= 2 ** START_BITS || length >= 2 ** LENGTH_BITS) {
    throw new LuoError('LUO_LIMIT', `records of ${end - start} bytes from ${start} on: no more can be`)
  }
  const word = Buffer.alloc(UNIT)
  word.writeUIntLE(at + length * 2 ** START_BITS, 0, RANGE_BYTES)
  word.writeUInt16LE(crc32(word.subarray(0, RANGE_BYTES)) & 0xffff, RANGE_BYTES)
  return word
}

/** Undefined when its checksum is wrong. */
function decodeRange(bytes: Uint8Array): Range | undefined {
  const word = Buffer.from(bytes.subarray(RANGE_AT, RANGE_AT + UNIT))
  if (word.readUInt16LE(RANGE_BYTES) !== (crc32(word.subarray(0, RANGE_BYTES)) & 0xffff)) return undefined
  const both = word.readUIntLE(0, RANGE_BYTES)
  const start = (both % 2 ** START_BITS) * START_UNIT
  return { start, end: start + Math.floor(both / 2 ** START_BITS) * UNIT }
}

/** Of the file, in bytes: what of it counts. */
export interface Range {
  start: number
  end: number
}

export interface Decoded extends Range {
  entries: Entries
  places: Places
  /** Bytes that the entries would take alone. */
  live: number
}

export function nothingDecoded(start = HEADER_BYTES): Decoded {
  return { entries: emptyEntries(), places: emptyPlaces(), start, end: start, live: 0 }
}

/** What was decoded before, and the bytes that it was decoded from: those from its start to its end. */
export interface Known {
  decoded: Decoded
  bytes: Buffer
}

interface DecodeOptions {
  /**
   * Told of each damage, which is passed over then where it is known what comes next. Without it damage is LUO_RECORDS.
   */
  salvage?: ((why: string) => void) | undefined
  /** What is in it and has not changed is not decoded again. */
  known?: Known | undefined
  /** Told of each entry that is read. */
  onEntry?: (type: RecordType, key: string) => void
}

/** Of a whole file. LUO_RECORDS_VERSION for another version. */
export function decode(bytes: Uint8Array, { salvage, known, onEntry }: DecodeOptions = {}): Decoded {
  const report = reporter(bytes.length, salvage)
  const range = rangeOf(bytes, report)
  if (!range) return nothingDecoded()
  const { start } = range
  let { end } = range
  if (end > bytes.length) {
    report(`the range ${start} to ${end} is not in the file`)
    end = Math.max(start, bytes.length)
  }
  const into = nothingDecoded(start)
  readEntries({ bytes, base: 0 }, into, end, { report, known, onEntry })
  into.end = end
  return into
}

/** Why it cannot be read is reported, or thrown. */
export function reporter(length: number, salvage?: (why: string) => void): (why: string) => void {
  return (why) => {
    if (!salvage) throw new LuoError('LUO_RECORDS', `read records of ${length} bytes: ${why}`)
    salvage(why)
  }
}

/** Of the header, at least. */
export function rangeOf(bytes: Uint8Array, report = reporter(bytes.length)): Range | undefined {
  if (bytes.length < HEADER_BYTES || Buffer.from(bytes.subarray(0, 8)).toString('latin1') !== RECORDS_MAGIC) {
    report('they do not begin as records do')
    return undefined
  }
  const version = new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(VERSION_AT, true)
  if (version !== RECORDS_VERSION) {
    throw new LuoError('LUO_RECORDS_VERSION', `read records of version ${version}: version ${RECORDS_VERSION} is known`)
  }
  const range = decodeRange(bytes)
  if (range && range.start >= HEADER_BYTES) return range
  report('the checksum of the range is wrong')
  return undefined
}

/** A part of a file, and where in it that is. */
export interface Piece {
  bytes: Uint8Array
  base: number
}

interface ReadOptions extends Pick<DecodeOptions, 'known' | 'onEntry'> {
  report?: (why: string) => void
}

/** Reads on, up to the entry that is not wholly in this piece of a log that ends at `end`. */
export function readEntries(piece: Piece, into: Decoded, end: number, options: ReadOptions): void {
  const { bytes, base } = piece
  const { report = reporter(bytes.length), known, onEntry } = options
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const there = Math.min(end, base + bytes.length)
  while (into.end < end) {
    const at = into.end
    if (at + ENTRY_BYTES > there && there < end) return
    const length = at + ENTRY_BYTES > end ? undefined : view.getUint32(at - base, true)
    const next = at + padded(ENTRY_BYTES + (length ?? 0))
    if (length === undefined || length > MAX_JSON_BYTES || next > end) {
      report(length === undefined ? `the entry at ${at} is cut off` : `the entry at ${at} has ${length} bytes`)
      into.end = nextSound(piece, view, at + UNIT, end)
      continue
    }
    if (next > there) return
    const wrong = readEntry(piece, view, { at, length, next }, into, known, onEntry)
    if (wrong) report(`the entry at ${at}${wrong.of ?? ''}: ${wrong.why}`)
    into.end = wrong?.isHeadBad ? nextSound(piece, view, at + UNIT, end) : next
  }
}

/** Where the next entry is that is sound as a whole; the end if there is none. Only of those that have a check. */
function nextSound({ bytes, base }: Piece, view: DataView, from: number, end: number): number {
  for (let at = from; at + ENTRY_BYTES <= end; at += UNIT) {
    const length = view.getUint32(at - base, true)
    if (length > MAX_JSON_BYTES || at + padded(ENTRY_BYTES + length) > end) continue
    if (view.getUint32(at - base + CHECK_AT, true) !== headCheck(bytes, at - base)) continue
    if (isSound(bytes, view, at - base, length)) return at
  }
  return end
}

/** So that damage behind it leaves it known which record is damaged, and where the next one is. */
function headCheck(bytes: Uint8Array, from: number): number {
  let hash = FNV_START
  for (const offset of HEAD) hash = Math.imul(hash ^ (bytes[from + offset] ?? 0), FNV_PRIME)
  return hash >>> 0
}

function isSound(bytes: Uint8Array, view: DataView, from: number, length: number): boolean {
  return crc32(bytes.subarray(from + CRC_FROM, from + ENTRY_BYTES + length)) === view.getUint32(from + 4, true)
}

const WRONG_CHECKSUM = 'its checksum is wrong'

interface Wrong {
  why: string
  /** The record, if that is known. */
  of?: string
  /** Not even its length is known. */
  isHeadBad?: boolean
}

/** Answers why it cannot be read, if so. */
function readEntry(
  { bytes, base }: Piece,
  view: DataView,
  { at, length, next }: { at: number; length: number; next: number },
  into: Decoded,
  known: Known | undefined,
  onEntry: DecodeOptions['onEntry'],
): Wrong | undefined {
  const { entries } = into
  const from = at - base
  const type = RECORD_TYPES[view.getUint8(from + 9)]
  const key = String(view.getBigUint64(from + 16, true))
  const before = known && type && unchanged(bytes.subarray(from, next - base), type, key, known)
  if (before) {
    entries.get(type)?.set(key, before)
    place(into, type, key, { at, bytes: next - at })
    return undefined
  }
  const records = type && entries.get(type)
  const operation = view.getUint8(from + 8)
  const sound = isSound(bytes, view, from, length)
  const check = view.getUint32(from + CHECK_AT, true)
  if (!sound && check !== headCheck(bytes, from)) return { why: WRONG_CHECKSUM, isHeadBad: check !== 0 }
  if (!records || (operation !== PUT && operation !== DELETE)) {
    return { why: sound ? 'it is of no known type' : WRONG_CHECKSUM }
  }
  if (operation === DELETE) {
    records.delete(key)
    place(into, type, key)
  } else {
    if (!sound) return wrongRecord(type, key, records.has(key) ? 'as it was before' : 'not there')
    const value = parse(bytes.subarray(from + ENTRY_BYTES, from + ENTRY_BYTES + length))
    if (!value) return { why: 'it is no JSON object' }
    records.set(key, value)
    place(into, type, key, { at, bytes: next - at })
  }
  onEntry?.(type, key)
  return sound ? undefined : wrongRecord(type, key, 'taken away, as it says')
}

function wrongRecord(type: RecordType, key: string, now: string): Wrong {
  return { of: `, of ${type} ${key}`, why: `${WRONG_CHECKSUM}; that record is ${now}` }
}

/** Where a record is from here on; nowhere when it is taken away. */
export function place(into: Pick<Decoded, 'places' | 'live'>, type: RecordType, key: string, place?: Place): void {
  const places = into.places.get(type)
  into.live += (place?.bytes ?? 0) - (places?.get(key)?.bytes ?? 0)
  if (place) places?.set(key, place)
  else places?.delete(key)
}

/** The record, when it was decoded before from the very same bytes. */
function unchanged(entry: Uint8Array, type: RecordType, key: string, { decoded, bytes }: Known): Json | undefined {
  const place = decoded.places.get(type)?.get(key)
  if (place?.bytes !== entry.length) return undefined
  const from = place.at - decoded.start
  const same = bytes.compare(entry, 0, entry.length, from, from + entry.length) === 0
  return same ? decoded.entries.get(type)?.get(key) : undefined
}

function parse(bytes: Uint8Array): Json | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString())
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined
  } catch {
    return undefined
  }
}

/** The entries, one after the other, and how long each is. */
export function encode(changes: readonly Change[]): { bytes: Uint8Array; sizes: number[] } {
  const texts = changes.map(textOf)
  const sizes = texts.map(({ length }) => padded(ENTRY_BYTES + length))
  const bytes = Buffer.alloc(sizes.reduce((sum, size) => sum + size, 0))
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let at = 0
  changes.forEach(({ type, key, value }, index) => {
    const { text, length } = texts[index] ?? { text: '', length: 0 }
    view.setUint32(at, length, true)
    view.setUint8(at + 8, value === undefined ? DELETE : PUT)
    view.setUint8(at + 9, RECORD_TYPES.indexOf(type))
    view.setBigUint64(at + 16, BigInt(key), true)
    view.setUint32(at + CHECK_AT, headCheck(bytes, at), true)
    bytes.write(text, at + ENTRY_BYTES)
    view.setUint32(at + 4, crc32(bytes.subarray(at + CRC_FROM, at + ENTRY_BYTES + length)), true)
    at += sizes[index] ?? 0
  })
  return { bytes, sizes }
}

function textOf({ type, key, value }: Change): { text: string; length: number } {
  const text = value === undefined ? '' : JSON.stringify(value)
  const length = Buffer.byteLength(text)
  if (length > MAX_JSON_BYTES) {
    throw new LuoError('LUO_LIMIT', `record ${type} ${key}: ${length} bytes, and ${MAX_JSON_BYTES} are allowed`)
  }
  // Written another way it would be another record once it is read again.
  if (!isSmallInteger(key) && String(BigInt.asUintN(64, BigInt(key))) !== key) {
    throw new LuoError('EINVAL', `record ${type} ${key}: the key is not a u64 in decimal`)
  }
  return { text, length }
}

/** As nearly all keys are. */
function isSmallInteger(key: string): boolean {
  const number = Number(key)
  return Number.isSafeInteger(number) && number >= 0 && String(number) === key
}

function emptyPlaces(): Places {
  return new Map(RECORD_TYPES.map((type) => [type, new Map<string, Place>()]))
}

function emptyEntries(): Entries {
  return new Map(RECORD_TYPES.map((type) => [type, new Map<string, Json>()]))
}

export function padded(bytes: number, unit = UNIT): number {
  return Math.ceil(bytes / unit) * unit
}
