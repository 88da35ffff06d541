/**
 * luod's durable records, `luod-records/3`: what it knows beside the files that it holds. A log of entries in one
 * growing file; an aligned word in the header, written last, says which part of the file is valid. So a transaction is
 * there as a whole or not at all, at whatever instant the process ends, and the same holds for a compaction.
 *
 *     header, 64 bytes   magic "LUODREC\0" · u32 version · u32 0 · u64 range
 *     range              22 bits start, in units of 64 bytes · 26 bits length, in units of 8 bytes · 16 bits: the low
 *                        half of the CRC-32 of the 6 bytes before
 *     entry, from start  u32 bytes of JSON · u32 CRC-32 of what follows · u8 operation · u8 type · u16 0 · u32 check
 *                        · u64 key · JSON, padded to 8 bytes
 *     check              FNV-1a of the first 4 bytes, operation, type, 0 and key; 0 in entries of older builds
 *
 * Little-endian. Damaged bytes are LUO_RECORDS, another version is LUO_RECORDS_VERSION; neither changes anything.
 * `salvageRecords`, and `finish` of a follower (`records-follow.ts`), read what is sound of damaged records, and say
 * what is not.
 */
import {
  type Change,
  type Decoded,
  decode,
  type Entries,
  encode,
  encodeRange,
  HEADER_BYTES,
  type Json,
  nothingDecoded,
  padded,
  place,
  RANGE_AT,
  RECORDS_MAGIC,
  RECORDS_VERSION,
  type RecordType,
  START_UNIT,
  VERSION_AT,
} from './records-log.js'

export {
  type Change,
  compareKeys,
  type Json,
  RECORD_TYPES,
  RECORDS_MAGIC,
  RECORDS_VERSION,
  type RecordType,
} from './records-log.js'

export interface RecordStorage {
  size(): number
  /** What it answers is good until the next call. */
  read(offset: number, length: number): Uint8Array
  write(bytes: Uint8Array, offset: number): void
  resize(size: number): void
}

/** A log shorter than this is not worth compacting. */
const COMPACT_FROM_BYTES = 256 * 1024
/** The file grows in steps, so that not every transaction resizes it. */
const GROW_BYTES = 64 * 1024

/** Changes that are written down, and count from the next commit on. */
interface Pending {
  changes: Change[]
  sizes: number[]
  bytes: Uint8Array[]
  length: number
}

export class Records {
  readonly #storage: RecordStorage
  /** What counts, and where each record is: they are copied as they are when the log is compacted. */
  readonly #log: Decoded
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

  /** What was decoded of `storage`; what was damaged is written over. */
  static of(storage: RecordStorage, decoded: Decoded, damage: readonly string[]): Records {
    if (damage.length > 0 && decoded.end === HEADER_BYTES) return Records.create(storage)
    const records = new Records(storage, decoded)
    if (damage.length > 0) records.#compact()
    return records
  }

  private constructor(storage: RecordStorage, log: Decoded) {
    this.#storage = storage
    this.#log = log
  }

  get(type: RecordType, key: string): Json | undefined {
    return this.#log.entries.get(type)?.get(key)
  }

  entries(type: RecordType): ReadonlyMap<string, Json> {
    return this.#log.entries.get(type) ?? new Map()
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
    if (pending.length === 0 && this.#outdated > COMPACT_FROM_BYTES + this.#log.live) this.#compact()
    this.#reserve(this.#log.end + pending.length + bytes.length)
    for (const change of changes) pending.changes.push(change)
    for (const size of sizes) pending.sizes.push(size)
    pending.bytes.push(bytes)
    pending.length += bytes.length
  }

  /** All that was added since the last commit counts from here on, or nothing of it when this throws. */
  commit(): void {
    const { changes, sizes, bytes, length } = this.#pending
    if (length === 0) return
    let at = this.#log.end
    const [only] = bytes
    this.#storage.write(bytes.length === 1 && only ? only : Buffer.concat(bytes), at)
    this.#setRange(this.#log.start, this.#log.end + length)
    this.#pending = nothingPending()
    changes.forEach(({ type, key, value }, index) => {
      const records = this.#log.entries.get(type)
      if (value === undefined) records?.delete(key)
      else records?.set(key, value)
      const size = sizes[index] ?? 0
      place(this.#log, type, key, value === undefined ? undefined : { at, bytes: size })
      at += size
    })
  }

  /** Compacts before it has to be, for a moment when nobody waits: it takes milliseconds. */
  tidy(): void {
    if (this.#pending.length === 0 && this.#outdated > (COMPACT_FROM_BYTES + this.#log.live) / 2) this.#compact()
  }

  /** Bytes of the log that nobody needs. */
  get #outdated(): number {
    return this.#log.end - this.#log.start - this.#log.live
  }

  /** A copy without what is outdated, before the log when it fits there, else behind it. */
  #compact(): void {
    const log = this.#storage.read(this.#log.start, this.#log.end - this.#log.start)
    const bytes = new Uint8Array(this.#log.live)
    let length = 0
    const places = [...this.#log.places.values()].flatMap((records) => [...records.values()])
    for (const place of places) {
      const from = place.at - this.#log.start
      bytes.set(log.subarray(from, from + place.bytes), length)
      length += place.bytes
    }
    const start = HEADER_BYTES + length <= this.#log.start ? HEADER_BYTES : padded(this.#log.end, START_UNIT)
    this.#reserve(start + length)
    this.#storage.write(bytes, start)
    this.#setRange(start, start + length)
    let at = start
    for (const place of places) {
      place.at = at
      at += place.bytes
    }
    if (start === HEADER_BYTES) this.#storage.resize(steps(this.#log.end))
  }

  #reserve(size: number): void {
    if (size > this.#storage.size()) this.#storage.resize(steps(size))
  }

  /** The one word that makes everything before it count. */
  #setRange(start: number, end: number): void {
    this.#storage.write(encodeRange(start, end), RANGE_AT)
    this.#log.start = start
    this.#log.end = end
  }
}

function nothingPending(): Pending {
  return { changes: [], sizes: [], bytes: [], length: 0 }
}

/** What is in the bytes of a records file. */
export function decodeRecords(bytes: Uint8Array): { version: number; entries: Entries } {
  return { version: RECORDS_VERSION, entries: decode(bytes).entries }
}

/** As much of it as is sound, and why the rest is not. LUO_RECORDS_VERSION for another version. */
export function salvageRecords(bytes: Uint8Array): { entries: Entries; damage: string[] } {
  const damage: string[] = []
  return { entries: decode(bytes, { salvage: (why) => damage.push(why) }).entries, damage }
}

function steps(size: number): number {
  return Math.ceil(size / GROW_BYTES) * GROW_BYTES
}
