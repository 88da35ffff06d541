/**
 * Sockets of any family: made, named, and their options read and set. Addresses and values are the kernel's bytes; what
 * they mean is the caller's to know (socket-address.ts). Close-on-exec and non-blocking until told otherwise.
 */
import { Fd } from './fd.js'
import { checked, errno, failure, integer, libc } from './ffi.js'

export const AF = { unix: 1, ipv4: 2, ipv6: 10, netlink: 16 } as const
export const SOCK = { stream: 1, datagram: 2, raw: 3, packets: 5 } as const
export const SOCK_CLOEXEC = 0o2000000
export const SOCK_NONBLOCK = 0o4000
export const SOL_SOCKET = 1
const SO_TYPE = 3
const SO_DOMAIN = 39
const SO_NETNS_COOKIE = 71
const IPPROTO_TCP = 6
const TCP_INFO = 11
/** In struct tcp_info of a listener `tcpi_sacked` is the length of its queue at most, as listen(2) was told. */
const TCP_INFO_BYTES = 104
const TCPI_SACKED_AT = 28
/** struct sockaddr_storage. */
const MAX_ADDRESS_BYTES = 128
const MAX_BACKLOG = 2 ** 31 - 1
const MAX_OPTION_BYTES = 64 * 1024
const F_GETFL = 3
const F_SETFL = 4

export function openSocket(domain: number, type: number, protocol = 0): Fd {
  return Fd.adopt(checked('open a socket', 'socket', domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol))
}

export function bindSocket(fd: Fd, address: Uint8Array, what: string): void {
  checked(`bind to ${what}`, 'bind', fd.number, address, address.length)
}

export function connectSocket(fd: Fd, address: Uint8Array, what: string): void {
  checked(`connect to ${what}`, 'connect', fd.number, address, address.length)
}

export function listenSocket(fd: Fd, backlog: number, what: string): void {
  integer(backlog, 0, MAX_BACKLOG, 'a backlog')
  checked(`listen at ${what}`, 'listen', fd.number, backlog)
}

/** A struct sockaddr. */
export function socketName(fd: Fd): Uint8Array {
  return nameOf(fd, 'getsockname') ?? new Uint8Array(0)
}

/** Undefined when it is not connected. */
export function peerName(fd: Fd): Uint8Array | undefined {
  return nameOf(fd, 'getpeername')
}

function nameOf(fd: Fd, call: 'getsockname' | 'getpeername'): Uint8Array | undefined {
  const address = new Uint8Array(MAX_ADDRESS_BYTES)
  const size = Uint32Array.of(MAX_ADDRESS_BYTES)
  if (libc(call, fd.number, address, size) === -1) {
    const code = errno()
    if (code === 'ENOTCONN') return undefined
    throw failure('read the address of a socket', code)
  }
  return address.slice(0, size[0])
}

/**
 * The value of an option; undefined when the kernel, or a socket of this kind, does not know it. `given`: what the
 * kernel reads before it answers, for the few that are asked a question.
 */
export function socketOption(
  fd: Fd,
  level: number,
  name: number,
  bytes: number,
  given?: Uint8Array,
): Uint8Array | undefined {
  const value = new Uint8Array(integer(bytes, 0, MAX_OPTION_BYTES, 'the size of a socket option'))
  if (given) value.set(given)
  const size = Uint32Array.of(bytes)
  if (libc('getsockopt', fd.number, level, name, value, size) === -1) {
    const code = errno()
    if (UNKNOWN_OPTION.has(code)) return undefined
    throw failure(`read the option ${level}/${name} of a socket`, code)
  }
  return value.subarray(0, size[0])
}

/** ENOTCONN: asked of a socket that is none of IPv6, or is not connected. */
const UNKNOWN_OPTION: ReadonlySet<string> = new Set(['ENOPROTOOPT', 'EOPNOTSUPP', 'EINVAL', 'ENOTCONN'])

export function setSocketOption(fd: Fd, level: number, name: number, value: Uint8Array, what: string): void {
  checked(`set ${what}`, 'setsockopt', fd.number, level, name, value, value.length)
}

function number(fd: Fd, name: number): number {
  const value = socketOption(fd, SOL_SOCKET, name, 4)
  return value ? new DataView(value.buffer).getInt32(0, true) : -1
}

export function socketDomain(fd: Fd): number {
  return number(fd, SO_DOMAIN)
}

export function socketType(fd: Fd): number {
  return number(fd, SO_TYPE)
}

/** Which network namespace it is of; undefined before Linux 5.14. */
export function networkOf(fd: Fd): bigint | undefined {
  const value = socketOption(fd, SOL_SOCKET, SO_NETNS_COOKIE, 8)
  return value && new DataView(value.buffer).getBigUint64(0, true)
}

/** What listen(2) was told, at most `net.core.somaxconn`. For TCP, and MPTCP, whose first subflow listens. */
export function tcpBacklog(fd: Fd): number | undefined {
  const info = socketOption(fd, IPPROTO_TCP, TCP_INFO, TCP_INFO_BYTES)
  if (!info || info.length < TCPI_SACKED_AT + 4) return undefined
  return new DataView(info.buffer).getUint32(TCPI_SACKED_AT, true)
}

/** The flags of fcntl(F_GETFL): what it was opened for, and what F_SETFL can change. */
export function statusFlags(fd: Fd): number {
  return checked('read the flags of a file', 'fcntl', fd.number, F_GETFL, 0)
}

export function setStatusFlags(fd: Fd, flags: number): void {
  checked('set the flags of a file', 'fcntl', fd.number, F_SETFL, integer(flags, 0, MAX_BACKLOG, 'flags'))
}

export const O_NONBLOCK = 0o4000

export function setNonblocking(fd: Fd, nonblocking: boolean): void {
  const flags = statusFlags(fd)
  const wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK
  if (wanted !== flags) setStatusFlags(fd, wanted)
}
