/**
 * What the proofs of test/kinds make real files with: system calls that the project itself does not need. All of it is
 * synchronous and in one process; what waits, waits for RECEIVE_LIMIT_S at most.
 */
import { mkdtempSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { closeAll, Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { scratch } from '../../src/sys/mapping.js'

/** Numbers of system calls on x86-64 and arm64. */
const NUMBERS = {
  eventfd2: [290, 19],
  fallocate: [285, 47],
  fanotify_init: [300, 262],
  getdents64: [217, 61],
  getpeername: [52, 205],
  getsockname: [51, 204],
  inotify_add_watch: [254, 27],
  inotify_init1: [294, 26],
  io_uring_setup: [425, 425],
  ioctl: [16, 29],
  lseek: [8, 62],
  pipe2: [293, 59],
  setsockopt: [54, 208],
  shutdown: [48, 210],
  signalfd4: [289, 74],
  timerfd_create: [283, 85],
  timerfd_gettime: [287, 87],
  timerfd_settime: [286, 86],
} as const

export const O_CLOEXEC = 0o2000000
export const O_NONBLOCK = 0o4000
export const AF_INET = 2
export const SOCK = { stream: 1, dgram: 2, seqpacket: 5 } as const
export const SOL_SOCKET = 1
export const IPPROTO_TCP = 6
export const IPPROTO_MPTCP = 262
const SO_RCVTIMEO = 20
const RECEIVE_LIMIT_S = 5
const F_GETFL = 3
const SEEK_CUR = 1

const AREA_BYTES = 64 * 1024
const area = scratch(AREA_BYTES)
/** At a fixed address, for arguments and results of system calls; each call of ours leaves its own there. */
export const memory = {
  address: area.address,
  bytes: new Uint8Array(area.buffer),
  view: new DataView(area.buffer),
}

export function call(name: keyof typeof NUMBERS, ...args: number[]): number {
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = args
  return checked(name, 'syscall', NUMBERS[name][process.arch === 'x64' ? 0 : 1], a, b, c, d, e)
}

export function put(bytes: Uint8Array): number {
  memory.bytes.set(bytes)
  return memory.address
}

/** Ends of everything that a test opened, and its files. */
export class Kit implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'luo-kinds-'))
  readonly #owned: Fd[] = []
  readonly #ends: (() => void)[] = []

  own(fd: Fd): Fd {
    this.#owned.push(fd)
    return fd
  }

  adopt(number: number): Fd {
    return this.own(Fd.adopt(number))
  }

  atEnd(run: () => void): void {
    this.#ends.push(run)
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  [Symbol.dispose](): void {
    for (const end of this.#ends.reverse()) end()
    closeAll(this.#owned)
    rmSync(this.directory, { recursive: true })
  }
}

// --- any file --------------------------------------------------------------------------------------------------------

export function write(fd: Fd, text: string): void {
  writeSync(fd.number, text)
}

/** One read(2), as text; "" at the end of the file. */
export function read(fd: Fd, bytes = 4096): string {
  const buffer = Buffer.alloc(bytes)
  return buffer.toString('latin1', 0, readSync(fd.number, buffer))
}

/** Reads until there are `bytes`. */
export function readAll(fd: Fd, bytes: number): string {
  let text = ''
  while (text.length < bytes) {
    const more = read(fd, bytes - text.length)
    if (more === '') break
    text += more
  }
  return text
}

/** The name of the errno that `run` fails with, or undefined. */
export function failsWith(run: () => unknown): unknown {
  try {
    run()
    return undefined
  } catch (error) {
    return (error as { code?: unknown }).code
  }
}

export function flags(fd: Fd): number {
  return checked('read the flags', 'fcntl', fd.number, F_GETFL, 0)
}

export function position(fd: Fd): number {
  return call('lseek', fd.number, 0, SEEK_CUR)
}

// --- sockets ---------------------------------------------------------------------------------------------------------

export function socket(kit: Kit, domain: number, type: number, protocol = 0): Fd {
  const fd = kit.adopt(checked('open a socket', 'socket', domain, type | O_CLOEXEC, protocol))
  setReceiveLimit(fd)
  return fd
}

export function setReceiveLimit(fd: Fd): void {
  memory.view.setBigInt64(0, BigInt(RECEIVE_LIMIT_S), true)
  memory.view.setBigInt64(8, 0n, true)
  call('setsockopt', fd.number, SOL_SOCKET, SO_RCVTIMEO, memory.address, 16)
}

export function setOption(fd: Fd, level: number, name: number, value: number): void {
  memory.view.setInt32(0, value, true)
  call('setsockopt', fd.number, level, name, memory.address, 4)
}

export function getOption(fd: Fd, level: number, name: number): number {
  const value = new Int32Array(1)
  checked('read an option', 'getsockopt', fd.number, level, name, value, Uint32Array.of(4))
  return value[0] ?? 0
}

const LOOPBACK = [127, 0, 0, 1]

/** A sockaddr_in. */
export function loopback(port = 0): Uint8Array {
  return Uint8Array.from([AF_INET, 0, port >> 8, port & 0xff, ...LOOPBACK, ...new Uint8Array(8)])
}

export function bind(fd: Fd, address: Uint8Array): void {
  checked('bind', 'bind', fd.number, address, address.length)
}

export function connect(fd: Fd, address: Uint8Array): void {
  checked('connect', 'connect', fd.number, address, address.length)
}

/** The address of the socket or, `getpeername`, of its peer. */
export function address(fd: Fd, which: 'getsockname' | 'getpeername' = 'getsockname'): Uint8Array {
  memory.view.setUint32(0, 128, true)
  call(which, fd.number, memory.address + 8, memory.address)
  return memory.bytes.slice(8, 8 + memory.view.getUint32(0, true))
}

export function listen(fd: Fd, backlog: number): void {
  checked('listen', 'listen', fd.number, backlog)
}

export function accept(kit: Kit, listener: Fd): Fd {
  const fd = kit.adopt(checked('accept', 'accept4', listener.number, 0, 0, O_CLOEXEC))
  setReceiveLimit(fd)
  return fd
}

/** Whether there is something to accept or to read, without waiting. */
export function waits(fd: Fd): boolean {
  const epoll = Fd.adopt(checked('open an epoll', 'epoll_create1', O_CLOEXEC))
  try {
    const EPOLL_CTL_ADD = 1
    const EPOLLIN = 1
    checked('watch', 'epoll_ctl', epoll.number, EPOLL_CTL_ADD, fd.number, Uint8Array.of(EPOLLIN, ...new Uint8Array(15)))
    return checked('look', 'epoll_wait', epoll.number, new Uint8Array(16), 1, 0) === 1
  } finally {
    epoll.close()
  }
}

/** How many bytes can be read, or are in the queue to be sent. */
export function queued(fd: Fd, which: 'in' | 'out'): number {
  const request = { in: 0x541b, out: 0x5411 }[which]
  call('ioctl', fd.number, request, memory.address)
  return memory.view.getInt32(0, true)
}

// --- pipes and descriptors of the kernel's own -----------------------------------------------------------------------

/** The reading end, and the writing end. */
export function pipe(kit: Kit, more = 0): [Fd, Fd] {
  call('pipe2', memory.address, O_CLOEXEC | more)
  return [kit.adopt(memory.view.getInt32(0, true)), kit.adopt(memory.view.getInt32(4, true))]
}

/** Describes a file and closes it, does `meanwhile`, and answers what was made of the description. */
export type Again = (fd: Fd, meanwhile?: () => void) => Fd
/** That what makes a file of this kind what it is crosses by value. */
export type ByValueProof = (kit: Kit, again: Again) => void
