/** The memory file of luod's records, as their storage. */
import type { RecordStorage } from '../abi/records.js'
import type { Fd } from '../sys/fd.js'
import { fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'

/** Memory that is used for each reading of no more than this: new memory costs more than what is read into it. */
const KEPT_BYTES = 64 * 1024

export function recordsStorage(fd: Fd): RecordStorage {
  const kept = new Uint8Array(KEPT_BYTES)
  return {
    size: () => fileSize(fd),
    read: (offset, length) => {
      const bytes = length > KEPT_BYTES ? new Uint8Array(length) : kept.subarray(0, length)
      return bytes.subarray(0, readAt(fd, bytes, offset))
    },
    write: (bytes, offset) => writeAt(fd, bytes, offset),
    resize: (size) => truncate(fd, size),
  }
}
