/**
 * Unix sockets with files, credentials and pidfds, non-blocking and close-on-exec throughout.
 *
 * Everything goes through one scratch area at a fixed address, so no address of a JavaScript object is ever given to
 * the kernel. All calls are synchronous, so one area is enough.
 *
 * Traps that are dealt with here: a control buffer with room for n files accepts n + 1 (alignment), so every file that
 * arrives is taken, and the count is the caller's to check; truncated control data (`truncated`), by a full buffer or
 * by RLIMIT_NOFILE, is reported and what did arrive is owned.
 */
import { chmodSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { closeAll, Fd } from './fd.js'
import { checked, errno, failure, integer, libc } from './ffi.js'
import { closingWaits } from './file-info.js'
import { scratch } from './mapping.js'
import { pidfdOwner } from './pidfd.js'
import { AF, openSocket, SOCK, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET } from './socket.js'

const SO_PEERCRED = 17
const SO_PEERPIDFD = 77
const SCM_RIGHTS = 1
const MSG_PEEK = 0x02
const MSG_DONTWAIT = 0x40
const MSG_CTRUNC = 0x08
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x40000000
/** The kernel's SCM_MAX_FD. */
export const MAX_FDS_PER_MESSAGE = 253
/** sun_path has 108 bytes, one of which is the NUL. */
export const MAX_SOCKET_PATH_BYTES = 107
const BACKLOG = 128

/** struct msghdr, struct iovec and struct cmsghdr on 64-bit Linux. */
const MSGHDR_BYTES = 56
const IOVEC_BYTES = 16
const CMSG_HEADER_BYTES = 16
const CONTROL_BYTES = CMSG_HEADER_BYTES + 256 * 4
const DATA_BYTES = 64 * 1024
const IOVEC_AT = MSGHDR_BYTES + 8
const CONTROL_AT = IOVEC_AT + IOVEC_BYTES
const DATA_AT = 2048

interface Scratch {
  address: number
  bytes: Uint8Array
  view: DataView
}

let area: Scratch | undefined

function memory(): Scratch {
  if (!area) {
    const { address, buffer } = scratch(DATA_AT + DATA_BYTES)
    area = { address, bytes: new Uint8Array(buffer), view: new DataView(buffer) }
  }
  return area
}

/** A sockaddr_un. Paths only, and abstract names (`@name`). */
export function unixAddress(path: string): Uint8Array {
  const name = Buffer.from(path)
  const abstract = path.startsWith('@')
  const limit = MAX_SOCKET_PATH_BYTES + (abstract ? 1 : 0)
  if (name.length < 2 || name.length > limit || name.includes(0) || !(abstract || path.startsWith('/'))) {
    const code = name.length > limit ? 'ENAMETOOLONG' : 'EINVAL'
    throw new LuoError(code, `"${path}" is no address of a Unix socket: absolute, ${limit} bytes at most`)
  }
  const address = Buffer.alloc(2 + name.length + (abstract ? 0 : 1))
  address[0] = AF.unix
  name.copy(address, 2)
  if (abstract) address[2] = 0
  return address
}

/** Listens at `path`, which must not exist; the socket file gets `mode`. EADDRINUSE when something is there. */
export function listenUnix(path: string, mode = 0o600): Fd {
  const address = unixAddress(path)
  const fd = openSocket(AF.unix, SOCK.stream)
  try {
    checked(`listen at ${path}`, 'bind', fd.number, address, address.length)
    // Nobody can connect before listen(), so there is no moment with the wrong mode.
    if (path.startsWith('/')) chmodSync(path, mode)
    checked(`listen at ${path}`, 'listen', fd.number, BACKLOG)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** A socket that another process listened on: whoever connects from here on is told that it is this one. */
export function listenAgain(listener: Fd): void {
  checked('listen again', 'listen', listener.number, BACKLOG)
}

/** ECONNREFUSED and ENOENT when nobody is there, EAGAIN when the listener's queue is full: try again later. */
export function connectUnix(path: string): Fd {
  const address = unixAddress(path)
  const fd = openSocket(AF.unix, SOCK.stream)
  try {
    checked(`connect to ${path}`, 'connect', fd.number, address, address.length)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** packets: what is sent at once is received at once (SOCK_SEQPACKET). */
export function socketPair(kind: 'stream' | 'packets' = 'stream'): [Fd, Fd] {
  const pair = new Int32Array(2)
  const type = kind === 'packets' ? SOCK.packets : SOCK.stream
  checked('make a pair of sockets', 'socketpair', AF.unix, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)
  const [a = -1, b = -1] = pair
  return [Fd.adopt(a), Fd.adopt(b)]
}

/** One waiting connection, or undefined when there is none. EMFILE leaves it waiting. */
export function acceptUnix(listener: Fd): Fd | undefined {
  for (;;) {
    const number = libc('accept4', listener.number, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK)
    if (number >= 0) return Fd.adopt(number)
    const code = errno()
    if (code === 'EAGAIN') return undefined
    if (code !== 'EINTR' && code !== 'ECONNABORTED') throw failure('accept a connection', code)
  }
}

/**
 * Sends as much of `bytes` as goes now, and with the first of them `fds` (253 at most). Answers how many bytes went; 0
 * means: nothing, not even the files; wait until it is writable. At least one byte is needed.
 */
export function send(socket: Fd, bytes: Uint8Array, fds: readonly Fd[] = []): number {
  integer(bytes.length, 1, Number.MAX_SAFE_INTEGER, 'the length of a message')
  integer(fds.length, 0, MAX_FDS_PER_MESSAGE, 'the number of files in a message')
  const { address, bytes: area, view } = memory()
  const length = Math.min(bytes.length, DATA_BYTES)
  area.set(bytes.length === length ? bytes : bytes.subarray(0, length), DATA_AT)
  const controlBytes = fds.length === 0 ? 0 : CMSG_HEADER_BYTES + fds.length * 4
  header(length, controlBytes === 0 ? 0 : Math.ceil(controlBytes / 8) * 8)
  if (controlBytes > 0) {
    view.setBigUint64(CONTROL_AT, BigInt(controlBytes), true)
    view.setInt32(CONTROL_AT + 8, SOL_SOCKET, true)
    view.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true)
    fds.forEach((fd, index) => {
      view.setInt32(CONTROL_AT + CMSG_HEADER_BYTES + index * 4, fd.number, true)
    })
  }
  for (;;) {
    const sent = libc('sendmsg', socket.number, address, MSG_DONTWAIT | MSG_NOSIGNAL)
    if (sent >= 0) return sent
    const code = errno()
    // ETOOMANYREFS: too many files are under way to readers that do not read; it passes when they do.
    if (code === 'EAGAIN' || code === 'ETOOMANYREFS') return 0
    if (code !== 'EINTR') throw failure(`send ${length} bytes and ${fds.length} files`, code)
  }
}

export interface Received {
  /** A copy; empty at the end of the stream. */
  bytes: Uint8Array
  /** Owned by the caller from here on. */
  fds: Fd[]
  /** Files were lost: the control data did not fit, or this process may open no more. */
  truncated: boolean
}

/** What is there now, 64 KiB at most, or undefined when there is nothing yet. */
export function receive(socket: Fd): Received | undefined {
  const { address, bytes, view } = memory()
  header(DATA_BYTES, CONTROL_BYTES)
  for (;;) {
    const got = libc('recvmsg', socket.number, address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
    if (got >= 0) {
      const truncated = (view.getInt32(48, true) & MSG_CTRUNC) !== 0
      return { bytes: bytes.slice(DATA_AT, DATA_AT + got), fds: receivedFds(view), truncated }
    }
    const code = errno()
    if (code === 'EAGAIN') return undefined
    if (code !== 'EINTR') throw failure('receive from a Unix socket', code)
  }
}

function header(length: number, controlBytes: number): void {
  const { address, view } = memory()
  view.setBigUint64(0, 0n, true)
  view.setBigUint64(8, 0n, true)
  view.setBigUint64(16, BigInt(address + IOVEC_AT), true)
  view.setBigUint64(24, 1n, true)
  view.setBigUint64(32, controlBytes === 0 ? 0n : BigInt(address + CONTROL_AT), true)
  view.setBigUint64(40, BigInt(controlBytes), true)
  view.setInt32(48, 0, true)
  view.setBigUint64(IOVEC_AT, BigInt(address + DATA_AT), true)
  view.setBigUint64(IOVEC_AT + 8, BigInt(length), true)
}

/** Every file in every control message: there may be more than were meant to fit. */
function receivedFds(view: DataView): Fd[] {
  const fds: Fd[] = []
  const end = CONTROL_AT + Number(view.getBigUint64(40, true))
  let at = CONTROL_AT
  try {
    while (at + CMSG_HEADER_BYTES <= end) {
      const length = Number(view.getBigUint64(at, true))
      if (length < CMSG_HEADER_BYTES || at + length > end) break
      if (view.getInt32(at + 8, true) === SOL_SOCKET && view.getInt32(at + 12, true) === SCM_RIGHTS) {
        for (let fd = at + CMSG_HEADER_BYTES; fd + 4 <= at + length; fd += 4) {
          fds.push(Fd.foreign(view.getInt32(fd, true), closingWaits))
        }
      }
      at += Math.ceil(length / 8) * 8
    }
    return fds
  } catch (error) {
    closeAll(fds)
    throw error
  }
}

const SHUT_RDWR = 2

/** Ends a connection for both sides, whoever else has copies of it. What was sent before can still be read. */
export function endConnection(socket: Fd): void {
  // ENOTCONN: it has ended.
  libc('shutdown', socket.number, SHUT_RDWR)
}

/** Whether the peer of a stream has closed it, and everything that it sent before is read. */
export function peerHasClosed(socket: Fd): boolean {
  const { address } = memory()
  header(1, 0)
  for (;;) {
    const got = libc('recvmsg', socket.number, address, MSG_DONTWAIT | MSG_PEEK)
    if (got >= 0) return got === 0
    const code = errno()
    if (code !== 'EINTR') return code !== 'EAGAIN'
  }
}

/** Who connected, as the kernel knows it; it cannot be forged. `pid` is 0 when it is of another pid namespace. */
export interface Credentials {
  pid: number
  uid: number
  gid: number
}

export function peerCredentials(socket: Fd): Credentials {
  const value = new Uint8Array(12)
  checked("read a peer's credentials", 'getsockopt', socket.number, SOL_SOCKET, SO_PEERCRED, value, sizeOf(12))
  const view = new DataView(value.buffer)
  return { pid: view.getInt32(0, true), uid: view.getUint32(4, true), gid: view.getUint32(8, true) }
}

/** A pidfd of the process that connected, or undefined before Linux 6.5 and when it is gone. */
export function peerPidfd(socket: Fd): Fd | undefined {
  const value = new Uint8Array(4)
  const result = libc('getsockopt', socket.number, SOL_SOCKET, SO_PEERPIDFD, value, sizeOf(4))
  return result === -1 ? undefined : Fd.adopt(new DataView(value.buffer).getInt32(0, true))
}

/**
 * Whether the other end of this Unix socket is this process's, or the socket itself is: the kernel names as its peer
 * who made the pair, and who listened. That is so wherever a copy of it comes from.
 */
export function madeHere(socket: Fd): boolean {
  if (peerCredentials(socket).pid !== process.pid) return false
  // The number of a process that has ended may be ours by now: its pidfd names no process any more.
  using pidfd = peerPidfd(socket)
  return pidfd === undefined || pidfdOwner(pidfd)?.pid === process.pid
}

function sizeOf(bytes: number): Uint32Array {
  return Uint32Array.of(bytes)
}

/** One datagram to the socket at `path`; it fails rather than waits. */
export function sendDatagram(path: string, bytes: Uint8Array): void {
  const address = unixAddress(path)
  using fd = openSocket(AF.unix, SOCK.datagram)
  checked(`notify ${path}`, 'sendto', fd.number, bytes, bytes.length, MSG_NOSIGNAL, address, address.length)
}
