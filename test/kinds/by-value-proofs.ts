/** Proofs of what crosses a kexec by value. */
import { chmodSync, chownSync, lstatSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { Fd } from '../../src/sys/fd.js'
import { fileInfo } from '../../src/sys/file-info.js'
import { joinGroup, memberships } from '../../src/sys/multicast.js'
import {
  AF,
  bindSocket,
  connectSocket,
  listenSocket,
  openSocket,
  peerName,
  SOCK,
  setNonblocking,
  setSocketOption,
  socketName,
  socketOption,
  statusFlags,
  tcpBacklog,
} from '../../src/sys/socket.js'
import { decodeAddress, encodeAddress } from '../../src/sys/socket-address.js'
import { unixSocketDetails } from '../../src/sys/unix-diag.js'
import { DIRECTORY, FILE } from './by-value-files.js'
import { type Again, type ByValueProof, failsWith, type Kit, O_NONBLOCK, read, waits, write } from './kit.js'
import { add, count, eventfd } from './proofs-kernel.js'

const IPPROTO = { tcp: 6, mptcp: 262, udp: 17 } as const
const SOL_SOCKET = 1
const IPPROTO_IPV6 = 41
const SO_RCVBUF = 8
const SO_KEEPALIVE = 9
const SO_LINGER = 13
const SO_PASSCRED = 16
const SO_REUSEPORT = 15
const SO_BINDTODEVICE = 25
const IP_TOS = 1
const IP_FREEBIND = 15
const IP_TRANSPARENT = 19
const IPV6_V6ONLY = 26
const IPV6_MULTICAST_IF = 17
const TCP_NODELAY = 1
const TCP_KEEPIDLE = 4
const TCP_DEFER_ACCEPT = 9
const TCP_CONGESTION = 13
const TCP_USER_TIMEOUT = 18
const TCP_FASTOPEN = 23
const SO_BROADCAST = 6
const SO_TIMESTAMPNS = 35
const IP_PKTINFO = 8
const BACKLOG = 7

const ANY_PORT = 0
type Protocol = keyof typeof IPPROTO

const LOOPBACKS = { ipv4: '127.0.0.1', ipv6: '::1' } as const

function socket(kit: Kit, protocol: Protocol, family: 'ipv4' | 'ipv6' = 'ipv4'): Fd {
  return kit.own(openSocket(AF[family], protocol === 'udp' ? SOCK.datagram : SOCK.stream, IPPROTO[protocol]))
}

function bound(fd: Fd, family: 'ipv4' | 'ipv6' = 'ipv4', address: string = LOOPBACKS[family], port = ANY_PORT): Fd {
  bindSocket(fd, encodeAddress({ family, address, port }), 'an address')
  return fd
}

function set(fd: Fd, level: number, name: number, value: number | Uint8Array): void {
  const bytes = typeof value === 'number' ? new Uint8Array(Int32Array.of(value).buffer) : value
  setSocketOption(fd, level, name, bytes, `option ${level}/${name}`)
}

function get(fd: Fd, level: number, name: number, bytes = 4): string {
  return Buffer.from(socketOption(fd, level, name, bytes) ?? []).toString('hex')
}

/** Sets the options, and finds each of them again. */
function optionsProof(
  again: Again,
  fd: Fd,
  options: readonly (readonly [number, number, number | Uint8Array])[],
  ready: () => void,
): Fd {
  for (const [level, name, value] of options) set(fd, level, name, value)
  ready()
  const size = (value: number | Uint8Array) => (typeof value === 'number' ? 4 : value.length)
  const before = options.map(([level, name, value]) => get(fd, level, name, size(value)))
  const back = again(fd)
  expect(options.map(([level, name, value]) => get(back, level, name, size(value)))).toEqual(before)
  return back
}

const STREAM_OPTIONS = [
  [SOL_SOCKET, SO_KEEPALIVE, 1],
  [SOL_SOCKET, SO_RCVBUF, 123_456],
  [SOL_SOCKET, SO_REUSEPORT, 1],
  [SOL_SOCKET, SO_LINGER, new Uint8Array(Int32Array.of(1, 3).buffer)],
  [IPPROTO.tcp, TCP_NODELAY, 1],
  [IPPROTO.tcp, TCP_KEEPIDLE, 77],
] as const

const listening =
  (protocol: 'tcp' | 'mptcp'): ByValueProof =>
  (kit, again) => {
    for (const family of ['ipv4', 'ipv6'] as const) {
      const fd = bound(socket(kit, protocol, family), family)
      listenSocket(fd, BACKLOG, 'an address')
      const where = socketName(fd)
      const back = again(fd)
      expect(socketName(back)).toEqual(where)
      expect(tcpBacklog(back)).toBe(BACKLOG)
      const client = socket(kit, protocol, family)
      setNonblocking(client, false)
      connectSocket(client, where, 'the listener')
      expect(waits(back)).toBe(true)
      back.close()
      client.close()
      // Somebody else has the port by then.
      const third = bound(socket(kit, protocol, family), family)
      listenSocket(third, 1, 'an address')
      const { port } = decodeAddress(socketName(third))
      expect(
        failsWith(() =>
          again(third, () =>
            listenSocket(bound(socket(kit, protocol, family), family, LOOPBACKS[family], port), 1, 'it'),
          ),
        ),
      ).toBe('EADDRINUSE')
    }
  }

const nonblocking =
  (make: (kit: Kit) => Fd): ByValueProof =>
  (kit, again) => {
    for (const wanted of [true, false]) {
      const fd = make(kit)
      setNonblocking(fd, wanted)
      expect((statusFlags(again(fd)) & O_NONBLOCK) !== 0).toBe(wanted)
    }
  }

function listener(kit: Kit, protocol: 'tcp' | 'mptcp'): Fd {
  const fd = bound(socket(kit, protocol))
  listenSocket(fd, BACKLOG, 'an address')
  return fd
}

const TCP = {
  listening: listening('tcp'),
  options: ((kit, again) => {
    const fd = socket(kit, 'tcp')
    const reno = Buffer.from('reno\0\0\0\0\0\0\0\0\0\0\0\0')
    const options = [
      ...STREAM_OPTIONS,
      [0, IP_TOS, 0x10],
      [0, IP_FREEBIND, 1],
      [0, IP_TRANSPARENT, 1],
      [SOL_SOCKET, SO_BINDTODEVICE, Buffer.from('lo\0')],
      [IPPROTO.tcp, TCP_CONGESTION, reno],
      [IPPROTO.tcp, TCP_DEFER_ACCEPT, 5],
      [IPPROTO.tcp, TCP_USER_TIMEOUT, 5000],
      [IPPROTO.tcp, TCP_FASTOPEN, 5],
    ] as const
    // Not of this machine: only with IP_FREEBIND or IP_TRANSPARENT can it be bound to.
    optionsProof(again, fd, options, () => listenSocket(bound(fd, 'ipv4', '192.0.2.1'), BACKLOG, 'it'))
    for (const only of [0, 1]) {
      const six = socket(kit, 'tcp', 'ipv6')
      optionsProof(again, six, [[IPPROTO_IPV6, IPV6_V6ONLY, only]], () =>
        listenSocket(bound(six, 'ipv6', '::'), BACKLOG, 'it'),
      )
    }
  }) satisfies ByValueProof,
  flags: nonblocking((kit) => listener(kit, 'tcp')),
}

const MPTCP = {
  listening: listening('mptcp'),
  options: ((kit, again) => {
    const fd = socket(kit, 'mptcp')
    optionsProof(again, fd, STREAM_OPTIONS, () => listenSocket(bound(fd), BACKLOG, 'it'))
  }) satisfies ByValueProof,
  flags: nonblocking((kit) => listener(kit, 'mptcp')),
}

const UDP = {
  bound: ((kit, again) => {
    for (const family of ['ipv4', 'ipv6'] as const) {
      const fd = bound(socket(kit, 'udp', family), family)
      const where = socketName(fd)
      const back = again(fd)
      const client = socket(kit, 'udp', family)
      connectSocket(client, where, 'it')
      write(client, 'hello')
      expect(read(back)).toBe('hello')
    }
  }) satisfies ByValueProof,
  connected: ((kit, again) => {
    const peer = bound(socket(kit, 'udp'))
    const fd = bound(socket(kit, 'udp'))
    connectSocket(fd, socketName(peer), 'the peer')
    const back = again(fd)
    expect(peerName(back)).toEqual(socketName(peer))
    write(back, 'to the peer')
    expect(read(peer)).toBe('to the peer')
  }) satisfies ByValueProof,
  multicast: ((kit, again) => {
    const fd = bound(socket(kit, 'udp'), 'ipv4', '0.0.0.0')
    const group = { family: 'ipv4', group: '239.1.2.3', interface: 'lo' } as const
    joinGroup(fd, group)
    expect(memberships(again(fd), 'ipv4')).toEqual([group])
    const six = bound(socket(kit, 'udp', 'ipv6'), 'ipv6', '::')
    const groups = [{ family: 'ipv6', group: 'ff02::1234', interface: 'lo' } as const, group]
    for (const each of groups) joinGroup(six, each)
    expect(memberships(again(six), 'ipv6')).toEqual(groups)
  }) satisfies ByValueProof,
  options: ((kit, again) => {
    const fd = socket(kit, 'udp')
    const options = [
      [SOL_SOCKET, SO_BROADCAST, 1],
      [SOL_SOCKET, SO_RCVBUF, 99_328],
      [SOL_SOCKET, SO_TIMESTAMPNS, 1],
      [0, IP_PKTINFO, 1],
    ] as const
    optionsProof(again, fd, options, () => bound(fd))
    const six = socket(kit, 'udp', 'ipv6')
    optionsProof(again, six, [[IPPROTO_IPV6, IPV6_MULTICAST_IF, 1]], () => bound(six, 'ipv6'))
  }) satisfies ByValueProof,
  flags: nonblocking((kit) => bound(socket(kit, 'udp'))),
}

type UnixType = 'stream' | 'datagram' | 'packets'

function unixAddress(name: string): Buffer {
  return Buffer.concat([Uint8Array.of(AF.unix, 0), Buffer.from(name.startsWith('\0') ? name : `${name}\0`)])
}

function unix(kit: Kit, name: string, type: UnixType = 'stream'): Fd {
  const fd = kit.own(openSocket(AF.unix, SOCK[type]))
  bindSocket(fd, unixAddress(name), name)
  if (type !== 'datagram') listenSocket(fd, BACKLOG, name)
  return fd
}

function unixListening(kit: Kit, again: Again, name: string, type: UnixType): void {
  const fd = unix(kit, name, type)
  const where = socketName(fd)
  const back = again(fd)
  expect(socketName(back)).toEqual(where)
  expect(unixSocketDetails(fileInfo(back).ino)?.backlog).toBe(BACKLOG)
  const client = kit.own(openSocket(AF.unix, SOCK[type]))
  connectSocket(client, where, name)
  expect(waits(back)).toBe(true)
}

const UNIX = {
  listening: ((kit, again) => {
    unixListening(kit, again, kit.path('socket'), 'stream')
    // Somebody has it by then; and something else is there.
    const taken = unix(kit, kit.path('taken'))
    expect(
      failsWith(() =>
        again(taken, () => {
          rmSync(kit.path('taken'))
          unix(kit, kit.path('taken'))
        }),
      ),
    ).toBe('EADDRINUSE')
    const other = unix(kit, kit.path('other'))
    expect(
      failsWith(() =>
        again(other, () => {
          rmSync(kit.path('other'))
          writeFileSync(kit.path('other'), 'a file of somebody')
        }),
      ),
    ).toBe('EEXIST')
    expect(readFileSync(kit.path('other'), 'utf8')).toBe('a file of somebody')
  }) satisfies ByValueProof,
  packets: ((kit, again) => unixListening(kit, again, kit.path('socket'), 'packets')) satisfies ByValueProof,
  datagrams: ((kit, again) => {
    for (const name of [kit.path('socket'), `\0luo-by-value-${process.pid}`]) {
      const back = again(unix(kit, name, 'datagram'))
      const client = kit.own(openSocket(AF.unix, SOCK.datagram))
      connectSocket(client, unixAddress(name), name)
      write(client, 'hello')
      expect(read(back)).toBe('hello')
    }
  }) satisfies ByValueProof,
  abstract: ((kit, again) =>
    unixListening(kit, again, `\0luo-by-value-${process.pid}`, 'stream')) satisfies ByValueProof,
  file: ((kit, again) => {
    chmodSync(kit.directory, 0o777)
    for (const directoryMode of [0o755, 0o777]) {
      chmodSync(kit.directory, directoryMode)
      for (const [mode, uid, gid] of [
        [0o642, 0, 0],
        [0o600, 65534, 65533],
      ] as const) {
        const path = kit.path(`${directoryMode}-${uid}`)
        for (const stale of [true, false]) {
          const fd = unix(kit, path)
          chmodSync(path, mode)
          chownSync(path, uid, gid)
          again(fd, stale ? () => {} : () => rmSync(path)).close()
          const now = lstatSync(path)
          expect([now.mode & 0o7777, now.uid, now.gid]).toEqual([mode, uid, gid])
          rmSync(path)
        }
      }
    }
  }) satisfies ByValueProof,
  options: ((kit, again) => {
    const fd = kit.own(openSocket(AF.unix, SOCK.stream))
    const options = [
      [SOL_SOCKET, SO_PASSCRED, 1],
      [SOL_SOCKET, SO_RCVBUF, 77_824],
    ] as const
    optionsProof(again, fd, options, () => {
      bindSocket(fd, unixAddress(kit.path('socket')), 'a path')
      listenSocket(fd, BACKLOG, 'a path')
    })
  }) satisfies ByValueProof,
  flags: ((kit, again) => {
    let number = 0
    nonblocking((each) => unix(each, kit.path(`socket-${number++}`)))(kit, again)
  }) satisfies ByValueProof,
}

const EFD_SEMAPHORE = 1

const EVENTFD = {
  counter: ((kit, again) => {
    for (const value of [0n, 5n, 2n ** 32n, 2n ** 64n - 2n]) {
      const fd = eventfd(kit, 0, O_NONBLOCK)
      if (value > 0n) add(fd, value)
      const back = again(fd)
      expect(value === 0n ? failsWith(() => count(back)) : count(back)).toBe(value === 0n ? 'EAGAIN' : value)
    }
  }) satisfies ByValueProof,
  semaphore: ((kit, again) => {
    const back = again(eventfd(kit, 2, EFD_SEMAPHORE | O_NONBLOCK))
    expect([count(back), count(back), failsWith(() => count(back))]).toEqual([1n, 1n, 'EAGAIN'])
    expect(count(again(eventfd(kit, 2)))).toBe(2n)
  }) satisfies ByValueProof,
  flags: nonblocking((kit) => eventfd(kit)),
}

export const BY_VALUE_PROOFS: Record<string, Record<string, ByValueProof>> = {
  file: FILE,
  directory: DIRECTORY,
  tcp: TCP,
  mptcp: MPTCP,
  udp: UDP,
  unix: UNIX,
  eventfd: EVENTFD,
}
