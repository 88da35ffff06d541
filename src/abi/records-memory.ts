/** A place for records in memory: for those that go elsewhere as a whole. Writing behind its end is a RangeError. */
import type { RecordStorage } from './records.js'

export class MemoryStorage implements RecordStorage {
  bytes: Uint8Array<ArrayBuffer>

  /** Begins with a copy of `bytes`. */
  constructor(bytes: Uint8Array = new Uint8Array(0)) {
    this.bytes = new Uint8Array(bytes)
  }

  size(): number {
    return this.bytes.length
  }

  read(offset: number, length: number): Uint8Array {
    return this.bytes.subarray(offset, offset + length)
  }

  write(bytes: Uint8Array, offset: number): void {
    this.bytes.set(bytes, offset)
  }

  resize(size: number): void {
    const before = this.bytes.subarray(0, size)
    this.bytes = new Uint8Array(size)
    this.bytes.set(before)
  }
}
