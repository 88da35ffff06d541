/** Where a path leads, asked of the kernel: a system call or three, however many names it has, and no exception. */
import { errno, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'

const AT_FDCWD = -100
const O_DIRECTORY = 0o200000n
const O_PATH = 0o10000000n
const O_CLOEXEC = 0o2000000n
const RESOLVE_NO_MAGICLINKS = 2n
const RESOLVE_NO_SYMLINKS = 4n
/**
 * struct open_how: u64 flags · u64 mode · u64 resolve; then the path, a directory's and one in it; then a link's
 * target.
 */
const HOW_BYTES = 24
const MAX_PATH_BYTES = 2 * 4096
const TARGET_AT = HOW_BYTES + MAX_PATH_BYTES + 1
const MAX_TARGET_BYTES = 4096

let area: { address: number; bytes: Buffer; how: DataView } | undefined

function memory() {
  if (!area) {
    const { address, buffer } = scratch(TARGET_AT + MAX_TARGET_BYTES)
    area = { address, bytes: Buffer.from(buffer), how: new DataView(buffer) }
  }
  return area
}

function open(path: string, flags: bigint, resolve: bigint): number {
  const { address, bytes, how } = memory()
  how.setBigUint64(0, O_PATH | O_CLOEXEC | flags, true)
  how.setBigUint64(16, resolve, true)
  bytes.write(`${path}\0`, HOW_BYTES, 'latin1')
  return libc('syscall', SYS.openat2, AT_FDCWD, address + HOW_BYTES, address, HOW_BYTES)
}

/**
 * True when every name of `path` that is there is no link, the last one included. False when one is, and when that
 * cannot be told: no permission, no openat2. `path` has a character for each byte (latin1).
 */
export function hasNoLink(path: string): boolean {
  if (path.length > MAX_PATH_BYTES) return false
  // As a directory: nearly every path is a file's, and what could not be opened need not be closed.
  const number = open(path, O_DIRECTORY, RESOLVE_NO_SYMLINKS)
  if (number >= 0) {
    libc('close', number)
    return true
  }
  const code = errno()
  return code === 'ENOENT' || code === 'ENOTDIR'
}

/**
 * The path without links of what is at the end of `path`. Undefined when nothing is there, when a link on the way is
 * one of /proc that leads to a file and not to a name (another process has others), and when it cannot be told. Both
 * have a character for each byte (latin1).
 */
export function realPath(path: string): string | undefined {
  if (path.length > MAX_PATH_BYTES) return undefined
  const number = open(path, 0n, RESOLVE_NO_MAGICLINKS)
  if (number < 0) return undefined
  const real = readLink(`/proc/self/fd/${number}`)
  libc('close', number)
  return real
}

/** What a link says; undefined when there is none. Both have a character for each byte (latin1). */
export function readLink(path: string): string | undefined {
  if (path.length > MAX_PATH_BYTES) return undefined
  const { address, bytes } = memory()
  bytes.write(`${path}\0`, HOW_BYTES, 'latin1')
  const length = libc('readlink', address + HOW_BYTES, address + TARGET_AT, MAX_TARGET_BYTES)
  return length < 0 ? undefined : bytes.toString('latin1', TARGET_AT, TARGET_AT + length)
}
