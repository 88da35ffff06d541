/**
 * luod's durable records, `luod-records/2`: what it knows beside the files that it holds. A log of entries in one
 * growing file; an aligned word in the header, written last, says which part of the file is valid. So a transaction is
 * there as a whole or not at all, at whatever instant the process ends, and the same holds for a compaction.
 *
 *     header, 64 bytes   magic "LUODREC\0" · u32 version · u32 0 · u32 start · u32 length (both in units of 8 bytes)
 *     entry, from start  u32 bytes of JSON · u32 CRC-32 of what follows · u8 operation · u8 type · u16 0 · u32 0
 *                        · u64 key · JSON, padded to 8 bytes
 *
 * Little-endian. Damaged bytes are LUO_RECORDS, another version is LUO_RECORDS_VERSION; neither changes anything.
 */
import { crc32 } from 'node:zlib'
import { LuoError } from '../errors.js'

export const RECORDS_VERSION = 2
export const RECORD_TYPES = ['meta', 'workload', 'session', 'file', 'update', 'history'] as const
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

export class Records {
  readonly #storage: RecordStorage
  readonly #entries: Entries
  /** Where each record is: they are copied as they are when the log is compacted. */
  readonly #places: Places
  #start: number
  #end: number
  /** Bytes that the current entries would take alone. */
  #live = 0

  /** Empty records; what `storage` had is overwritten. */
  static create(storage: RecordStorage): Records {
    storage.resize(GROW_BYTES)
    const header = new Uint8Array(HEADER_BYTES)
    header.set(Buffer.from(RECORDS_MAGIC, 'latin1'))
    const view = new DataView(header.buffer)
    view.setUint32(VERSION_AT, RECORDS_VERSION, true)
    view.setUint32(RANGE_AT, HEADER_BYTES / UNIT, true)
    storage.write(header, 0)
    return new Records(storage, {
      entries: emptyEntries(),
      places: emptyPlaces(),
      start: HEADER_BYTES,
      end: HEADER_BYTES,
    })
  }

  /** The records that are there. */
  static open(storage: RecordStorage): Records {
    return new Records(storage, decode(storage.read(0, storage.size())))
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

  /** All changes, or none when it throws. */
  transaction(changes: readonly Change[]): void {
    if (changes.length === 0) return
    const { bytes, sizes } = encode(changes)
    // Before, not after: when this throws nothing has changed, and the caller knows.
    if (this.#outdated > COMPACT_FROM_BYTES + this.#live) this.#compact()
    let at = this.#end
    this.#append(bytes)
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
    if (this.#outdated > (COMPACT_FROM_BYTES + this.#live) / 2) this.#compact()
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

  #append(bytes: Uint8Array): void {
    this.#reserve(this.#end + bytes.length)
    this.#storage.write(bytes, this.#end)
    this.#setRange(this.#start, this.#end + bytes.length)
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
    const start = HEADER_BYTES + length <= this.#start ? HEADER_BYTES : this.#end
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
    const word = new Uint8Array(8)
    const view = new DataView(word.buffer)
    view.setUint32(0, start / UNIT, true)
    view.setUint32(4, (end - start) / UNIT, true)
    this.#storage.write(word, RANGE_AT)
    this.#start = start
    this.#end = end
  }
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

function decode(bytes: Uint8Array): Decoded {
  const damaged = (why: string) => new LuoError('LUO_RECORDS', `read records of ${bytes.length} bytes: ${why}`)
  if (bytes.length < HEADER_BYTES || Buffer.from(bytes.subarray(0, 8)).toString('latin1') !== RECORDS_MAGIC) {
    throw damaged('they do not begin as records do')
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const version = view.getUint32(VERSION_AT, true)
  if (version !== RECORDS_VERSION) {
    throw new LuoError('LUO_RECORDS_VERSION', `read records of version ${version}: version ${RECORDS_VERSION} is known`)
  }
  const start = view.getUint32(RANGE_AT, true) * UNIT
  const end = start + view.getUint32(RANGE_AT + 4, true) * UNIT
  if (start < HEADER_BYTES || end > bytes.length) throw damaged(`the range ${start} to ${end} is not in the file`)
  const entries = emptyEntries()
  const places = emptyPlaces()
  for (let at = start; at < end; ) {
    if (at + ENTRY_BYTES > end) throw damaged(`the entry at ${at} is cut off`)
    const length = view.getUint32(at, true)
    const next = at + padded(ENTRY_BYTES + length)
    if (length > MAX_JSON_BYTES || next > end) throw damaged(`the entry at ${at} has ${length} bytes`)
    if (crc32(bytes.subarray(at + CRC_FROM, at + ENTRY_BYTES + length)) !== view.getUint32(at + 4, true)) {
      throw damaged(`the checksum of the entry at ${at} is wrong`)
    }
    const type = RECORD_TYPES[view.getUint8(at + 9)]
    const records = type && entries.get(type)
    const operation = view.getUint8(at + 8)
    if (!records || (operation !== PUT && operation !== DELETE)) throw damaged(`the entry at ${at} is of no known type`)
    const key = String(view.getBigUint64(at + 16, true))
    if (operation === DELETE) {
      records.delete(key)
      places.get(type)?.delete(key)
    } else {
      records.set(key, parse(bytes.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + length), damaged))
      places.get(type)?.set(key, { at, bytes: next - at })
    }
    at = next
  }
  return { entries, places, start, end }
}

function parse(bytes: Uint8Array, damaged: (why: string) => LuoError): Json {
  try {
    return JSON.parse(Buffer.from(bytes).toString()) as Json
  } catch {
    throw damaged('an entry is not JSON')
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

function padded(bytes: number): number {
  return Math.ceil(bytes / UNIT) * UNIT
}

function steps(size: number): number {
  return Math.ceil(size / GROW_BYTES) * GROW_BYTES
}
