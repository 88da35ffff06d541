/**
 * Records that another process writes, read meanwhile: each entry is decoded once, soon after it was written, so that
 * whoever goes on with them when that process has ended has little left to read.
 *
 * What is read while somebody writes is of no consequence: it may be torn by a compaction (LUO_RECORDS), and is read
 * again then. Only `finish`, when nobody writes any more, says what the records are. It looks at every byte, and what
 * it answers is the same whatever was read before.
 */
import { LuoError } from '../errors.js'
import { type RecordStorage, Records } from './records.js'
import {
  type Decoded,
  decode,
  HEADER_BYTES,
  type Json,
  nothingDecoded,
  type RecordType,
  rangeOf,
  readEntries,
  reporter,
} from './records-log.js'

/** As much as a storage reads without taking memory for it. */
const COMPARED_BYTES = 64 * 1024

export interface RecordKey {
  type: RecordType
  key: string
}

export class RecordsFollower {
  readonly #storage: RecordStorage
  #decoded: Decoded | undefined
  /** What that was decoded from, and room for more. */
  #bytes: Buffer = Buffer.alloc(0)
  #length = 0
  #changed: RecordKey[] = []
  /** It stopped in the middle: what is decoded is not what the bytes say. */
  #torn = false

  constructor(storage: RecordStorage) {
    this.#storage = storage
  }

  get(type: RecordType, key: string): Json | undefined {
    return this.#decoded?.entries.get(type)?.get(key)
  }

  entries(type: RecordType): ReadonlyMap<string, Json> {
    return this.#decoded?.entries.get(type) ?? new Map()
  }

  /**
   * Reads on, about `maxBytes` of it, and one entry at least. Answers which records are others now than before, or are
   * not there any more, and whether there is more to read. LUO_RECORDS: not now.
   */
  refresh(maxBytes: number): { changed: RecordKey[]; more: boolean } {
    const range = rangeOf(this.#storage.read(0, HEADER_BYTES)) ?? nothingDecoded()
    const into = this.#decoded ?? nothingDecoded(range.start)
    if (this.#torn || range.start !== into.start || range.end < into.end) {
      const { decoded, bytes } = this.#readAll()
      this.#bytes = Buffer.from(bytes.subarray(decoded.start, decoded.end))
      this.#length = this.#bytes.length
    } else this.#readOn(into, range.end, maxBytes)
    return { changed: this.#changed.splice(0), more: (this.#decoded?.end ?? range.end) < range.end }
  }

  /**
   * Nobody else writes any more: the records as they are, to go on with. With `salvage` damage is told, and passed
   * over; without it is LUO_RECORDS. LUO_RECORDS_VERSION.
   */
  finish(salvage?: (why: string) => void): { records: Records; changed: RecordKey[] } {
    const damage: string[] = []
    const tell = (why: string) => {
      damage.push(why)
      salvage?.(why)
    }
    const decoded = this.#readRest(salvage && tell) ?? this.#readAll(salvage && tell).decoded
    return { records: Records.of(this.#storage, decoded, damage), changed: this.#changed.splice(0) }
  }

  /** If what was read before is still there as it was, byte for byte. */
  #readRest(salvage?: (why: string) => void): Decoded | undefined {
    const into = this.#torn ? undefined : this.#decoded
    const size = this.#storage.size()
    const { start, end } = rangeOf(this.#storage.read(0, HEADER_BYTES), () => {}) ?? { start: 0, end: 0 }
    if (!into || start !== into.start || end < into.end || end > size || !this.#isUnchanged(start)) return undefined
    const rest = { bytes: this.#storage.read(into.end, end - into.end), base: into.end }
    readEntries(rest, into, end, { report: reporter(size, salvage), onEntry: this.#onEntry })
    return into
  }

  #isUnchanged(start: number): boolean {
    for (let at = 0; at < this.#length; at += COMPARED_BYTES) {
      const there = this.#storage.read(start + at, Math.min(COMPARED_BYTES, this.#length - at))
      if (this.#bytes.compare(there, 0, there.length, at, Math.min(at + COMPARED_BYTES, this.#length)) !== 0)
        return false
    }
    return true
  }

  #readOn(into: Decoded, end: number, maxBytes: number): void {
    this.#decoded = into
    const from = into.end
    this.#torn = true
    for (let want = maxBytes; into.end === from && from < end; want *= 2) {
      const bytes = this.#storage.read(from, Math.min(want, end - from))
      readEntries({ bytes, base: from }, into, end, { onEntry: this.#onEntry })
      this.#remember(bytes.subarray(0, into.end - from))
      if (into.end === from && want >= end - from) throw new LuoError('LUO_RECORDS', 'read records: some are missing')
    }
    this.#torn = false
  }

  #readAll(salvage?: (why: string) => void): { decoded: Decoded; bytes: Uint8Array } {
    const bytes = this.#storage.read(0, this.#storage.size())
    const before = this.#decoded
    const known = before && !this.#torn ? { decoded: before, bytes: this.#bytes.subarray(0, this.#length) } : undefined
    this.#torn = true
    const after = decode(bytes, { salvage, known, onEntry: this.#onEntry })
    if (before) this.#tellGone(before, after)
    this.#decoded = after
    this.#torn = false
    return { decoded: after, bytes }
  }

  #tellGone(before: Decoded, after: Decoded): void {
    for (const [type, records] of before.entries) {
      const left = after.entries.get(type)
      for (const key of records.keys()) if (!left?.has(key)) this.#changed.push({ type, key })
    }
  }

  readonly #onEntry = (type: RecordType, key: string): void => {
    this.#changed.push({ type, key })
  }

  #remember(bytes: Uint8Array): void {
    const length = this.#length + bytes.length
    if (length > this.#bytes.length) {
      const larger = Buffer.alloc(length * 2)
      larger.set(this.#bytes.subarray(0, this.#length))
      this.#bytes = larger
    }
    this.#bytes.set(bytes, this.#length)
    this.#length = length
  }
}
