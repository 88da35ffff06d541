/** Whether a path has a symbolic link on its way: one system call, however many names it has. */
import { errno, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'

const AT_FDCWD = -100
const O_PATH = 0o10000000n
const O_CLOEXEC = 0o2000000n
const RESOLVE_NO_SYMLINKS = 4n
/** struct open_how: u64 flags · u64 mode · u64 resolve; then the path, a directory's and one in it. */
const HOW_BYTES = 24
const MAX_PATH_BYTES = 2 * 4096

let area: { address: number; bytes: Buffer } | undefined

function memory() {
  if (!area) {
    const { address, buffer } = scratch(HOW_BYTES + MAX_PATH_BYTES + 1)
    const view = new DataView(buffer)
    view.setBigUint64(0, O_PATH | O_CLOEXEC, true)
    view.setBigUint64(16, RESOLVE_NO_SYMLINKS, true)
    area = { address, bytes: Buffer.from(buffer) }
  }
  return area
}

/**
 * True when every name of `path` that is there is no link, the last one included. False when one is, and when that
 * cannot be told: no permission, no openat2. `path` has a character for each byte (latin1).
 */
export function hasNoLink(path: string): boolean {
  if (path.length > MAX_PATH_BYTES) return false
  const { address, bytes } = memory()
  bytes.write(`${path}\0`, HOW_BYTES, 'latin1')
  const number = libc('syscall', SYS.openat2, AT_FDCWD, address + HOW_BYTES, address, HOW_BYTES)
  if (number >= 0) {
    libc('close', number)
    return true
  }
  const code = errno()
  return code === 'ENOENT' || code === 'ENOTDIR'
}
