/**
 * The kernel's own handler for memory files, `memfd-v2`, for an emulated device: the same files are taken and refused,
 * with the same errno, and what comes back is what the kernel would give. The record is the kernel's; the contents stay
 * in the open file, which travels beside the memory that is handed over.
 *
 * What a kernel does and this cannot: while a file is preserved its size and its allocation can still be changed.
 */
import { openSync } from 'node:fs'
import type { HandoverMemory } from '../abi/handover-memory.js'
import { decodeMemfd, encodeMemfd, freeMemfd, MEMFD_COMPATIBLE } from '../abi/memfd.js'
import type { FileHandler } from '../core/handler.js'
import { LuoError } from '../errors.js'
import { Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { addSeals, allocate, fileSize, position, sealBits, setPosition } from '../sys/memfd.js'
import type { HeldFile } from './held-file.js'
import { type FileSlots, slotOf } from './slots.js'

/** SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE, EXEC. */
const KNOWN_SEALS = 0x3f
const SEAL_EXEC = 0x20
/** u64 position and size in the record. */
const POSITION_AT = 0n
const MAX_PAGES = 2 ** 32 - 1
const PAGE_BYTES = 4096

export function kernelMemfdHandler(context: {
  slots: FileSlots
  memory: HandoverMemory
  received(): HandoverMemory
}): FileHandler<HeldFile> {
  const { slots, memory, received } = context
  return {
    compatible: MEMFD_COMPATIBLE,
    canPreserve: ({ info }) => info.kind === 'memfd' || info.kind === 'shmem',
    preserve: (file) => {
      const seals = sealBits(file.fd)
      const unknown = seals & ~KNOWN_SEALS
      if (unknown !== 0) throw new LuoError('EOPNOTSUPP', `preserve a memfd with the seals 0x${unknown.toString(16)}`)
      const size = fileSize(file.fd)
      if (size > MAX_PAGES * PAGE_BYTES) throw new LuoError('EFBIG', `preserve a memfd of ${size} bytes`)
      if (size > 0) fillHoles(file.fd, size)
      const state = { position: 0n, size: BigInt(size), seals, flags: 0, folios: [] }
      const data = encodeMemfd(memory, state)
      slots.add(file, slotOf(data))
      return { data }
    },
    adopt: (file, data) => {
      decodeMemfd(memory, data)
      slots.add(file, slotOf(data))
      return { data }
    },
    unpreserve: ({ data }) => {
      slots.drop(slotOf(data))
      freeMemfd(memory, data)
    },
    freeze: ({ data }, { fd }) => {
      const record = new BigUint64Array([BigInt(position(fd)), BigInt(fileSize(fd))])
      memory.write(data + POSITION_AT, new Uint8Array(record.buffer))
      return data
    },
    retrieve: (data) => {
      const { position: at, seals } = decodeMemfd(received(), data)
      const { fd: original } = slots.retrieve(slotOf(data))
      try {
        const fd = reopen(original)
        try {
          setPosition(fd, Number(at))
          // A kernel that puts this seal on a file which may be executed seals it against writing too.
          if (seals & SEAL_EXEC) addSeals(fd, ['shrink', 'grow', 'write', 'futureWrite'])
          return { fd, info: fileInfo(fd) }
        } catch (error) {
          fd.close()
          throw error
        }
      } finally {
        original.close()
      }
    },
    finish: ({ data }) => {
      slots.finish(slotOf(data))
      freeMemfd(received(), data)
    },
    getId: ({ info }) => `${info.dev}:${info.ino}`,
  }
}

/** A new open file, for reading and writing, as the kernel makes one whatever the old one was. */
function reopen(fd: Fd): Fd {
  return Fd.adopt(openSync(`/proc/self/fd/${fd.number}`, 'r+'))
}

function fillHoles(fd: Fd, size: number): void {
  // The descriptor may be for reading only.
  using writable = reopen(fd)
  allocate(writable, size)
}
