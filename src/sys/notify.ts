/**
 * One datagram to a Unix socket, as systemd's notification protocol wants it (sd_notify(3)): Node has no datagram
 * sockets of that family. Paths and abstract names (`@name`) are taken. A manager that is gone or does not read is an
 * error with the errno's name; nothing blocks.
 */
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'

/** linux/socket.h and asm-generic/fcntl.h, the same on x86-64 and arm64. */
const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const SOCK_NONBLOCK = 0o4000
const MSG_NOSIGNAL = 0x4000
/** sun_path has 108 bytes; a path needs one of them for its NUL. */
const SUN_PATH = 108

interface Calls {
  socket(domain: number, type: number, protocol: number): number
  sendto(fd: number, bytes: Uint8Array, length: number, flags: number, address: Uint8Array, size: number): number
  errno(): number
}

let calls: Calls | undefined

function load(): Calls {
  if (calls) return calls
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const libc = koffi.load(null)
  const socket = libc.func('int socket(int domain, int type, int protocol)')
  const sendto = libc.func(
    'int64_t sendto(int fd, const uint8_t *bytes, size_t length, int flags, const uint8_t *address, uint32_t size)',
  )
  calls = {
    socket: (...args) => Number(socket(...args)),
    sendto: (...args) => Number(sendto(...args)),
    errno: () => koffi.errno(),
  }
  return calls
}

/** `address` of a Unix socket: family in the machine's byte order, then the path. */
function unixAddress(path: string): Uint8Array {
  const name = Buffer.from(path)
  const abstract = path.startsWith('@')
  if (!(abstract || path.startsWith('/')) || name.length < 2 || name.length > SUN_PATH - (abstract ? 0 : 1)) {
    throw new LuoError('EINVAL', `"${path}" is not the address of a notification socket`)
  }
  if (abstract) name[0] = 0
  const family = Buffer.from(Uint16Array.of(AF_UNIX).buffer)
  return Buffer.concat(abstract ? [family, name] : [family, name, Buffer.alloc(1)])
}

/** Sends `message` to the socket at `path` as one datagram. */
export function notify(path: string, message: string): void {
  const address = unixAddress(path)
  const bytes = Buffer.from(message)
  const { socket, sendto, errno } = load()
  const number = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
  if (number < 0) throw failure(errno(), `open a datagram socket for ${path}`)
  using fd = Fd.adopt(number)
  if (sendto(fd.number, bytes, bytes.length, MSG_NOSIGNAL, address, address.length) < 0) {
    throw failure(errno(), `notify ${path}`)
  }
}

function failure(errno: number, action: string): LuoError {
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `E${errno}`
  return new LuoError(name as `E${string}`, `${action}: ${name}`)
}
