/**
 * Memory files and plain reads and writes at an offset. Sizes are bytes, as numbers up to 2^53; seals are names.
 */
import { fstatSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { checked, integer, libc } from './ffi.js'

const MFD_CLOEXEC = 1
const MFD_ALLOW_SEALING = 2
const MFD_NOEXEC_SEAL = 8
const MFD_EXEC = 0x10
const F_ADD_SEALS = 1033
const F_GET_SEALS = 1034
const MAX_OFFSET = Number.MAX_SAFE_INTEGER
/** memfd_create(2): the name takes 249 bytes. */
const MAX_NAME_BYTES = 249
/** One read or write; a larger one is done in pieces. */
const MAX_PIECE = 2 ** 30

const SEALS = { seal: 1, shrink: 2, grow: 4, write: 8, futureWrite: 16, exec: 32 } as const
export type Seal = keyof typeof SEALS

export interface MemfdOptions {
  /** In bytes. Default: 0. */
  size?: number
  /**
   * For memory that is to cross a kexec: the kernel gives back as read-only what was made not executable (Linux 7.3).
   * A machine that forbids memory which may be executed (vm.memfd_noexec=2) gets such memory all the same.
   */
  overKexec?: boolean
}

/** A sealable memory file of `size` bytes, all zero. Sparse: it costs what is touched. */
export function createMemfd(name: string, options: MemfdOptions = {}): Fd {
  const bytes = Buffer.byteLength(name)
  if (bytes > MAX_NAME_BYTES || name.includes('\0')) {
    throw new LuoError('EINVAL', `create memory file: the name has ${bytes} bytes (${MAX_NAME_BYTES} at most), no NUL`)
  }
  const size = integer(options.size ?? 0, 0, MAX_OFFSET, `the size of ${name}`)
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
  // The kernel knows these flags since 6.3, and both at once never.
  let number = options.overKexec ? libc('memfd_create', name, flags | MFD_EXEC) : -1
  if (number === -1) number = libc('memfd_create', name, flags | MFD_NOEXEC_SEAL)
  if (number === -1) number = checked(`create memory file ${name}`, 'memfd_create', name, flags)
  const fd = Fd.adopt(number)
  try {
    if (size > 0) truncate(fd, size)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

export function getSeals(fd: Fd): Set<Seal> {
  const bits = checked('read the seals', 'fcntl', fd.number, F_GET_SEALS, 0)
  return new Set((Object.keys(SEALS) as Seal[]).filter((seal) => bits & SEALS[seal]))
}

export function addSeals(fd: Fd, seals: readonly Seal[]): void {
  const bits = seals.reduce((all, seal) => all | SEALS[seal], 0)
  checked(`add the seals ${seals.join(', ')}`, 'fcntl', fd.number, F_ADD_SEALS, bits)
}

/** The seals as the kernel has them, those included that have no name here. */
export function sealBits(fd: Fd): number {
  return checked('read the seals', 'fcntl', fd.number, F_GET_SEALS, 0)
}

/** Memory for every page of the file up to `size` bytes, also for its holes. ENOSPC or ENOMEM when there is none. */
export function allocate(fd: Fd, size: number): void {
  integer(size, 1, MAX_OFFSET, 'the size of a file')
  checked(`allocate ${size} bytes`, 'fallocate', fd.number, 0, 0, size)
}

const SEEK_SET = 0
const SEEK_CUR = 1

export function position(fd: Fd): number {
  return checked('read the position of a file', 'lseek', fd.number, 0, SEEK_CUR)
}

export function setPosition(fd: Fd, offset: number): void {
  integer(offset, 0, MAX_OFFSET, 'an offset')
  checked(`go to ${offset}`, 'lseek', fd.number, offset, SEEK_SET)
}

export function fileSize(fd: Fd): number {
  return fstatSync(fd.number).size
}

export function truncate(fd: Fd, size: number): void {
  integer(size, 0, MAX_OFFSET, 'the size of a file')
  checked(`set the size to ${size} bytes`, 'ftruncate', fd.number, size)
}

/** Reads up to `into.length` bytes at `offset`; answers how many there were, less only at the end of the file. */
export function readAt(fd: Fd, into: Uint8Array, offset: number): number {
  return transfer('pread', fd, into, offset)
}

/** Writes all of `bytes` at `offset`. ENOSPC and the like leave a part of them written. */
export function writeAt(fd: Fd, bytes: Uint8Array, offset: number): void {
  const written = transfer('pwrite', fd, bytes, offset)
  if (written !== bytes.length) throw new LuoError('ENOSPC', `write ${bytes.length} bytes: ${written} were written`)
}

function transfer(call: 'pread' | 'pwrite', fd: Fd, bytes: Uint8Array, offset: number): number {
  integer(offset, 0, MAX_OFFSET - bytes.length, 'an offset')
  let done = 0
  while (done < bytes.length) {
    const piece = bytes.subarray(done, done + MAX_PIECE)
    const action = `${call === 'pread' ? 'read' : 'write'} ${piece.length} bytes at ${offset + done}`
    const got = checked(action, call, fd.number, piece, piece.length, offset + done)
    if (got === 0) break
    done += got
  }
  return done
}
