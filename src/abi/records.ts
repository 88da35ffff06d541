/**
 * luod's durable records, `luod-records/3`: what it knows beside the files that it holds. A log of entries in one
 * growing file; an aligned word in the header, written last, says which part of the file is valid. So a transaction is
 * there as a whole or not at all, at whatever instant the process ends, and the same holds for a compaction.
 *
 *     header, 64 bytes   magic "LUODREC\0" · u32 version · u32 0 · u64 range
 *     range              22 bits start, in units of 64 bytes · 26 bits length, in units of 8 bytes · 16 bits: the low
 *                        half of the CRC-32 of the 6 bytes before
 *     entry, from start  u32 bytes of JSON · u32 CRC-32 of what follows · u8 operation · u8 type · u16 0 · u32 0
 *                        · u64 key · JSON, padded to 8 bytes
 *
 * Little-endian. Damaged bytes are LUO_RECORDS, another version is LUO_RECORDS_VERSION; neither changes anything.
 * `salvage` reads what is sound of damaged records, and says what is not.
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

/** `value` undefined takes the record away. `key`: a u64 in decimal. */
export interface Change {
  type: RecordType
  key: string
  value: Json | undefined
}

export interface RecordStorage {
  size(): number
  read(offset: number, length: number): Uint8Array
  write(bytes: Uint8Array, offset: number): void
  resize(size: number): void
}

export const RECORDS_MAGIC = 'LUODREC\0'
const HEADER_BYTES = 64
const VERSION_AT = 8
const RANGE_AT = 16
const UNIT = 8
/** A log begins at a multiple of this: so its place and its length fit into one word with their checksum. */
const START_UNIT = 64
const START_BITS = 22
const LENGTH_BITS = 26
/** Of the range that the checksum is of. */
const RANGE_BYTES = 6
const ENTRY_BYTES = 24
const CRC_FROM = 8
const PUT = 1
const DELETE = 2
/** No record is longer; a longer one would be a defect. */
const MAX_JSON_BYTES = 1024 * 1024
/** A log shorter than this is not worth compacting. */
const COMPACT_FROM_BYTES = 256 * 1024
/** The file grows in steps, so that not every transaction resizes it. */
const GROW_BYTES = 64 * 1024

type Entries = Map<RecordType, Map<string, Json>>

/** Where an entry is in the file. */
interface Place {
  at: number
  bytes: number
}
type Places = Map<RecordType, Map<string, Place>>

/** Changes that are written down, and count from the next commit on. */
interface Pending {
  changes: Change[]
  sizes: number[]
  bytes: Uint8Array[]
  length: number
}

export class Records {
  readonly #storage: RecordStorage
  readonly #entries: Entries
  /** Where each record is: they are copied as they are when the log is compacted. */
  readonly #places: Places
  #start: number
  #end: number
  /** Bytes that the current entries would take alone. */
  #live = 0
  #pending = nothingPending()

  /** Empty records; what `storage` had is overwritten. */
  static create(storage: RecordStorage): Records {
    storage.resize(GROW_BYTES)
    const header = new Uint8Array(HEADER_BYTES)
    header.set(Buffer.from(RECORDS_MAGIC, 'latin1'))
    new DataView(header.buffer).setUint32(VERSION_AT, RECORDS_VERSION, true)
    header.set(encodeRange(HEADER_BYTES, HEADER_BYTES), RANGE_AT)
    storage.write(header, 0)
    return new Records(storage, nothingDecoded())
  }

  /** The records that are there. They go on in the same file. */
  static open(storage: RecordStorage): Records {
    return new Records(storage, decode(storage.read(0, storage.size())))
  }

  /**
   * What is sound of the records that are there, and why the rest is not. Damage is written over, so that they are whole
   * again; of another version they are LUO_RECORDS_VERSION as ever, and nothing is changed.
   */
  static salvage(storage: RecordStorage): { records: Records; damage: string[] } {
    const damage: string[] = []
    const decoded = decode(storage.read(0, storage.size()), (why) => damage.push(why))
    if (damage.length > 0 && decoded.end === HEADER_BYTES) return { records: Records.create(storage), damage }
    const records = new Records(storage, decoded)
    if (damage.length > 0) records.#compact()
    return { records, damage }
  }

  private constructor(storage: RecordStorage, { entries, places, start, end }: Decoded) {
    this.#storage = storage
    this.#entries = entries
    this.#places = places
    this.#start = start
    this.#end = end
    for (const records of places.values()) for (const { bytes } of records.values()) this.#live += bytes
  }

  get(type: RecordType, key: string): Json | undefined {
    return this.#entries.get(type)?.get(key)
  }

  entries(type: RecordType): ReadonlyMap<string, Json> {
    return this.#entries.get(type) ?? new Map()
  }

  /** All changes, or none when it throws, with what was added before. */
  transaction(changes: readonly Change[]): void {
    const before = this.#pending
    this.#pending = { ...before, changes: [...before.changes], sizes: [...before.sizes], bytes: [...before.bytes] }
    try {
      this.add(changes)
      this.commit()
    } catch (error) {
      this.#pending = before
      throw error
    }
  }

  /** Part of the next transaction: there is room for it, and it will count with `commit`. All of it, or none. */
  add(changes: readonly Change[]): void {
    if (changes.length === 0) return
    const { bytes, sizes } = encode(changes)
    const pending = this.#pending
    // Before, not after: when this throws nothing has changed, and the caller knows.
    if (pending.length === 0 && this.#outdated > COMPACT_FROM_BYTES + this.#live) this.#compact()
    this.#reserve(this.#end + pending.length + bytes.length)
    for (const change of changes) pending.changes.push(change)
    for (const size of sizes) pending.sizes.push(size)
    pending.bytes.push(bytes)
    pending.length += bytes.length
  }

  /** All that was added since the last commit counts from here on, or nothing of it when this throws. */
  commit(): void {
    const { changes, sizes, bytes, length } = this.#pending
    if (length === 0) return
    let at = this.#end
    const [only] = bytes
    this.#storage.write(bytes.length === 1 && only ? only : Buffer.concat(bytes), at)
    this.#setRange(this.#start, this.#end + length)
    this.#pending = nothingPending()
    changes.forEach(({ type, key, value }, index) => {
      const records = this.#entries.get(type)
      if (value === undefined) records?.delete(key)
      else records?.set(key, value)
      const size = sizes[index] ?? 0
      this.#place(type, key, value === undefined ? undefined : { at, bytes: size })
      at += size
    })
  }

  /** Compacts before it has to be, for a moment when nobody waits: it takes milliseconds. */
  tidy(): void {
    if (this.#pending.length === 0 && this.#outdated > (COMPACT_FROM_BYTES + this.#live) / 2) this.#compact()
  }

  /** Bytes of the log that nobody needs. */
  get #outdated(): number {
    return this.#end - this.#start - this.#live
  }

  #place(type: RecordType, key: string, place: Place | undefined): void {
    const places = this.#places.get(type)
    this.#live += (place?.bytes ?? 0) - (places?.get(key)?.bytes ?? 0)
    if (place) places?.set(key, place)
    else places?.delete(key)
  }

  /** A copy without what is outdated, before the log when it fits there, else behind it. */
  #compact(): void {
    const log = this.#storage.read(this.#start, this.#end - this.#start)
    const bytes = new Uint8Array(this.#live)
    let length = 0
    const places = [...this.#places.values()].flatMap((records) => [...records.values()])
    for (const place of places) {
      const from = place.at - this.#start
      bytes.set(log.subarray(from, from + place.bytes), length)
      length += place.bytes
    }
    const start = HEADER_BYTES + length <= this.#start ? HEADER_BYTES : padded(this.#end, START_UNIT)
    this.#reserve(start + length)
    this.#storage.write(bytes, start)
    this.#setRange(start, start + length)
    let at = start
    for (const place of places) {
      place.at = at
      at += place.bytes
    }
    if (start === HEADER_BYTES) this.#storage.resize(steps(this.#end))
  }

  #reserve(size: number): void {
    if (size > this.#storage.size()) this.#storage.resize(steps(size))
  }

  /** The one word that makes everything before it count. */
  #setRange(start: number, end: number): void {
    this.#storage.write(encodeRange(start, end), RANGE_AT)
    this.#start = start
    this.#end = end
  }
}

function nothingPending(): Pending {
  return { changes: [], sizes: [], bytes: [], length: 0 }
}

function encodeRange(start: number, end: number): Uint8Array {
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
function decodeRange(bytes: Uint8Array): { start: number; end: number } | undefined {
  const word = Buffer.from(bytes.subarray(RANGE_AT, RANGE_AT + UNIT))
  if (word.readUInt16LE(RANGE_BYTES) !== (crc32(word.subarray(0, RANGE_BYTES)) & 0xffff)) return undefined
  const both = word.readUIntLE(0, RANGE_BYTES)
  const start = (both % 2 ** START_BITS) * START_UNIT
  return { start, end: start + Math.floor(both / 2 ** START_BITS) * UNIT }
}

interface Decoded {
  entries: Entries
  places: Places
  start: number
  end: number
}

/** What is in the bytes of a records file. */
export function decodeRecords(bytes: Uint8Array): { version: number; entries: Entries } {
  return { version: RECORDS_VERSION, entries: decode(bytes).entries }
}

/** As much of it as is sound, and why the rest is not. LUO_RECORDS_VERSION for another version. */
export function salvageRecords(bytes: Uint8Array): { entries: Entries; damage: string[] } {
  const damage: string[] = []
  return { entries: decode(bytes, (why) => damage.push(why)).entries, damage }
}

function nothingDecoded(): Decoded {
  return { entries: emptyEntries(), places: emptyPlaces(), start: HEADER_BYTES, end: HEADER_BYTES }
}

/** `salvage`: told of each damage, which is passed over then where it is known what comes next. */
function decode(bytes: Uint8Array, salvage?: (why: string) => void): Decoded {
  const damaged = (why: string) => new LuoError('LUO_RECORDS', `read records of ${bytes.length} bytes: ${why}`)
  const report = (why: string) => {
    if (!salvage) throw damaged(why)
    salvage(why)
  }
  if (bytes.length < HEADER_BYTES || Buffer.from(bytes.subarray(0, 8)).toString('latin1') !== RECORDS_MAGIC) {
    report('they do not begin as records do')
    return nothingDecoded()
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const version = view.getUint32(VERSION_AT, true)
  if (version !== RECORDS_VERSION) {
    throw new LuoError('LUO_RECORDS_VERSION', `read records of version ${version}: version ${RECORDS_VERSION} is known`)
  }
  const range = decodeRange(bytes)
  if (!range || range.start < HEADER_BYTES) {
    report('the checksum of the range is wrong')
    return nothingDecoded()
  }
  const { start } = range
  let { end } = range
  if (end > bytes.length) {
    report(`the range ${start} to ${end} is not in the file`)
    end = Math.max(start, bytes.length)
  }
  const entries = emptyEntries()
  const places = emptyPlaces()
  for (let at = start; at < end; ) {
    const length = at + ENTRY_BYTES > end ? undefined : view.getUint32(at, true)
    const next = at + padded(ENTRY_BYTES + (length ?? 0))
    if (length === undefined || length > MAX_JSON_BYTES || next > end) {
      report(length === undefined ? `the entry at ${at} is cut off` : `the entry at ${at} has ${length} bytes`)
      break
    }
    const wrong = readEntry(bytes, view, { at, length, next }, { entries, places })
    if (wrong) report(`the entry at ${at}: ${wrong}`)
    at = next
  }
  return { entries, places, start, end }
}

/** Answers why it cannot be read, if so. */
function readEntry(
  bytes: Uint8Array,
  view: DataView,
  { at, length, next }: { at: number; length: number; next: number },
  { entries, places }: Pick<Decoded, 'entries' | 'places'>,
): string | undefined {
  if (crc32(bytes.subarray(at + CRC_FROM, at + ENTRY_BYTES + length)) !== view.getUint32(at + 4, true)) {
    return 'its checksum is wrong'
  }
  const type = RECORD_TYPES[view.getUint8(at + 9)]
  const records = type && entries.get(type)
  const operation = view.getUint8(at + 8)
  if (!records || (operation !== PUT && operation !== DELETE)) return 'it is of no known type'
  const key = String(view.getBigUint64(at + 16, true))
  if (operation === DELETE) {
    records.delete(key)
    places.get(type)?.delete(key)
    return undefined
  }
  const value = parse(bytes.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + length))
  if (!value) return 'it is no JSON object'
  records.set(key, value)
  places.get(type)?.set(key, { at, bytes: next - at })
  return undefined
}

function parse(bytes: Uint8Array): Json | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString())
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined
  } catch {
    return undefined
  }
}

/** The entries, one after the other, and how long each is. */
function encode(changes: readonly Change[]): { bytes: Uint8Array; sizes: number[] } {
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

function padded(bytes: number, unit = UNIT): number {
  return Math.ceil(bytes / unit) * unit
}

function steps(size: number): number {
  return Math.ceil(size / GROW_BYTES) * GROW_BYTES
}
