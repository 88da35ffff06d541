/** Proofs for TCP, MPTCP and UDP, over the loopback interface. */
import { writeSync } from 'node:fs'
import { expect } from 'vitest'
import type { Fd } from '../../src/sys/fd.js'
import { checked, errno, libc } from '../../src/sys/ffi.js'
import {
  AF_INET,
  accept,
  address,
  bind,
  call,
  connect,
  failsWith,
  getOption,
  IPPROTO_MPTCP,
  IPPROTO_TCP,
  type Kit,
  listen,
  loopback,
  memory,
  O_NONBLOCK,
  queued,
  read,
  readAll,
  SOCK,
  SOL_SOCKET,
  setOption,
  socket,
  waits,
  write,
} from './kit.js'
import type { Proof } from './proofs.js'

const SO_BROADCAST = 6
const SO_RCVBUF = 8
const SO_KEEPALIVE = 9
const TCP_NODELAY = 1
const SHUT_WR = 1
const MSG_DONTWAIT = 0x40
const IPPROTO_IP = 0
const IP_ADD_MEMBERSHIP = 35
const BACKLOG = 3

type StreamProtocol = typeof IPPROTO_TCP | typeof IPPROTO_MPTCP

export function stream(kit: Kit, protocol: StreamProtocol): Fd {
  return socket(kit, AF_INET, SOCK.stream, protocol)
}

function listener(kit: Kit, protocol: StreamProtocol): Fd {
  const fd = stream(kit, protocol)
  bind(fd, loopback())
  listen(fd, BACKLOG)
  return fd
}

/** The end that is preserved, and its peer. */
export function connected(kit: Kit, protocol: StreamProtocol): { fd: Fd; peer: Fd } {
  const server = listener(kit, protocol)
  const peer = stream(kit, protocol)
  connect(peer, address(server))
  const fd = accept(kit, server)
  server.close()
  return { fd, peer }
}

const listening =
  (protocol: StreamProtocol): Proof =>
  (kit, cross) => {
    const server = listener(kit, protocol)
    const where = address(server)
    const first = stream(kit, protocol)
    connect(first, where)
    write(first, 'waited in the queue')
    const second = stream(kit, protocol)
    const [back] = cross([server], () => {
      connect(second, where)
      write(second, 'came meanwhile')
    })
    expect(address(back)).toEqual(where)
    expect(read(accept(kit, back))).toBe('waited in the queue')
    expect(read(accept(kit, back))).toBe('came meanwhile')
    expect(waits(back)).toBe(false)
    // The backlog: one more than it fit in the queue (tcp(7), listen(2)), and then clients wait.
    const clients = Array.from({ length: BACKLOG + 1 }, () => stream(kit, protocol))
    for (const client of clients) connect(client, where)
    const late = socket(kit, AF_INET, SOCK.stream | O_NONBLOCK, protocol)
    expect(failsWith(() => connect(late, where))).toBe('EINPROGRESS')
    for (const _ of clients) accept(kit, back)
  }

const goesOn =
  (protocol: StreamProtocol): Proof =>
  (kit, cross) => {
    const { fd, peer } = connected(kit, protocol)
    const [back] = cross([fd], () => {
      // Neither the end of the file nor a reset: nothing at all.
      expect(waits(peer)).toBe(false)
      write(peer, 'meanwhile')
    })
    expect(read(back)).toBe('meanwhile')
    write(back, 'answer')
    expect(read(peer)).toBe('answer')
    expect(waits(peer)).toBe(false)
  }

const unread =
  (protocol: StreamProtocol): Proof =>
  (kit, cross) => {
    const { fd, peer } = connected(kit, protocol)
    write(peer, 'x'.repeat(20_000))
    expect(read(fd, 5_000)).toHaveLength(5_000)
    const [back] = cross([fd])
    expect(readAll(back, 15_000)).toHaveLength(15_000)
    expect(waits(back)).toBe(false)
  }

const options =
  (protocol: StreamProtocol): Proof =>
  (kit, cross) => {
    const { fd } = connected(kit, protocol)
    setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    setOption(fd, SOL_SOCKET, SO_RCVBUF, 50_000)
    const size = getOption(fd, SOL_SOCKET, SO_RCVBUF)
    const [back] = cross([fd])
    expect(getOption(back, IPPROTO_TCP, TCP_NODELAY)).toBe(1)
    expect(getOption(back, SOL_SOCKET, SO_KEEPALIVE)).toBe(1)
    expect(getOption(back, SOL_SOCKET, SO_RCVBUF)).toBe(size)
  }

const unsent: Proof = (kit, cross) => {
  const { fd, peer } = connected(kit, IPPROTO_TCP)
  const piece = new Uint8Array(64 * 1024).fill(0x78)
  let sent = 0
  for (;;) {
    const got = libc('sendto', fd.number, piece, piece.length, MSG_DONTWAIT, new Uint8Array(0), 0)
    if (got === -1) break
    sent += got
  }
  expect(errno()).toBe('EAGAIN')
  const [back] = cross([fd])
  expect(queued(back, 'out')).toBeGreaterThan(0)
  expect(readAll(peer, sent)).toHaveLength(sent)
  expect(waits(peer)).toBe(false)
}

const halfClosed: Proof = (kit, cross) => {
  const { fd, peer } = connected(kit, IPPROTO_TCP)
  call('shutdown', fd.number, SHUT_WR)
  const [back] = cross([fd])
  expect(read(peer)).toBe('')
  expect(failsWith(() => writeSync(back.number, 'x'))).toBe('EPIPE')
  write(peer, 'still open')
  expect(read(back)).toBe('still open')
}

export function boundUdp(kit: Kit): Fd {
  const fd = socket(kit, AF_INET, SOCK.dgram)
  bind(fd, loopback())
  return fd
}

/** A datagram, and the address of its sender. */
function receiveFrom(fd: Fd): { text: string; sender: Uint8Array } {
  // struct msghdr, the iovec, the address and the data, one after the other.
  const [iovec, name, data, bytes] = [64, 128, 256, 1024]
  memory.bytes.fill(0, 0, data)
  memory.view.setBigUint64(0, BigInt(memory.address + name), true)
  memory.view.setUint32(8, 16, true)
  memory.view.setBigUint64(16, BigInt(memory.address + iovec), true)
  memory.view.setBigUint64(24, 1n, true)
  memory.view.setBigUint64(iovec, BigInt(memory.address + data), true)
  memory.view.setBigUint64(iovec + 8, BigInt(bytes), true)
  const got = checked('receive a datagram', 'recvmsg', fd.number, memory.address, 0)
  return {
    text: Buffer.from(memory.bytes.slice(data, data + got)).toString(),
    sender: memory.bytes.slice(name, name + 16),
  }
}

const UDP_PROOFS = {
  bound: ((kit, cross) => {
    const fd = boundUdp(kit)
    const where = address(fd)
    const sender = boundUdp(kit)
    connect(sender, where)
    const [back] = cross([fd], () => write(sender, 'meanwhile'))
    expect(address(back)).toEqual(where)
    expect(read(back)).toBe('meanwhile')
  }) satisfies Proof,
  connected: ((kit, cross) => {
    const [fd, peer, stranger] = [boundUdp(kit), boundUdp(kit), boundUdp(kit)]
    connect(fd, address(peer))
    connect(stranger, address(fd))
    connect(peer, address(fd))
    const [back] = cross([fd])
    expect(address(back, 'getpeername')).toEqual(address(peer))
    write(stranger, 'not for us')
    write(peer, 'for us')
    expect(read(back)).toBe('for us')
    write(back, 'answer')
    expect(read(peer)).toBe('answer')
  }) satisfies Proof,
  unread: ((kit, cross) => {
    const fd = boundUdp(kit)
    const senders = [boundUdp(kit), boundUdp(kit)]
    for (const sender of senders) connect(sender, address(fd))
    senders.forEach((sender, index) => {
      write(sender, `datagram ${index}`)
    })
    const [back] = cross([fd])
    expect(senders.map(() => receiveFrom(back))).toEqual(
      senders.map((sender, index) => ({ text: `datagram ${index}`, sender: address(sender) })),
    )
  }) satisfies Proof,
  options: ((kit, cross) => {
    const fd = boundUdp(kit)
    setOption(fd, SOL_SOCKET, SO_BROADCAST, 1)
    setOption(fd, SOL_SOCKET, SO_RCVBUF, 50_000)
    const size = getOption(fd, SOL_SOCKET, SO_RCVBUF)
    const membership = Uint8Array.of(239, 1, 2, 3, 127, 0, 0, 1)
    memory.bytes.set(membership)
    call('setsockopt', fd.number, IPPROTO_IP, IP_ADD_MEMBERSHIP, memory.address, membership.length)
    const [back] = cross([fd])
    expect(getOption(back, SOL_SOCKET, SO_BROADCAST)).toBe(1)
    expect(getOption(back, SOL_SOCKET, SO_RCVBUF)).toBe(size)
    // A member already: the kernel knows.
    memory.bytes.set(membership)
    const again = () =>
      call('setsockopt', back.number, IPPROTO_IP, IP_ADD_MEMBERSHIP, memory.address, membership.length)
    expect(failsWith(again)).toBe('EADDRINUSE')
  }) satisfies Proof,
}

const streamProofs = (protocol: StreamProtocol) => ({
  listening: listening(protocol),
  connected: goesOn(protocol),
  unread: unread(protocol),
  options: options(protocol),
})

export const NETWORK_PROOFS = {
  tcp: { ...streamProofs(IPPROTO_TCP), unsent, 'half-closed': halfClosed },
  mptcp: streamProofs(IPPROTO_MPTCP),
  udp: UDP_PROOFS,
}
