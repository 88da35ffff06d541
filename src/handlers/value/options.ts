/**
 * Options of sockets by value. What differs from a new socket of the same kind is written down, so that whatever nobody
 * has set is what the next kernel has as its default, and no privilege is needed for it. What is set is read again: an
 * option that the kernel did not take is LUO_UNSUPPORTED, and not lost in silence.
 */
import { LuoError } from '../../errors.js'
import type { Fd } from '../../sys/fd.js'
import { setSocketOption, socketOption } from '../../sys/socket.js'
import { interfaceIndex, interfaceName } from '../../sys/socket-address.js'
import type { Check } from './check.js'

const SOL_SOCKET = 1
const IP = 0
const TCP = 6
const UDP = 17
const IPV6 = 41

const INT_BYTES = 4

interface Option {
  level: number
  name: number
  /** Of the value. Default: 4, an int. */
  bytes?: number
  /** The number of an interface, which is written down by its name. */
  interface?: true
  /** Its default is a setting of the machine, or it decides about who else may bind. */
  always?: true
}

function option(level: number, name: number, more: Omit<Option, 'level' | 'name'> = {}): Option {
  return { level, name, ...more }
}

/** In the order in which they are set: IP_TOS sets SO_PRIORITY too. */
const OPTIONS = {
  SO_REUSEADDR: option(SOL_SOCKET, 2, { always: true }),
  SO_REUSEPORT: option(SOL_SOCKET, 15, { always: true }),
  IPV6_V6ONLY: option(IPV6, 26, { always: true }),
  SO_BINDTODEVICE: option(SOL_SOCKET, 25, { bytes: 16 }),
  IP_TRANSPARENT: option(IP, 19),
  IP_FREEBIND: option(IP, 15),
  IPV6_TRANSPARENT: option(IPV6, 75),
  IPV6_FREEBIND: option(IPV6, 78),
  IP_TOS: option(IP, 1),
  IPV6_TCLASS: option(IPV6, 67),
  SO_PRIORITY: option(SOL_SOCKET, 12),
  SO_MARK: option(SOL_SOCKET, 36),
  SO_DONTROUTE: option(SOL_SOCKET, 5),
  SO_BROADCAST: option(SOL_SOCKET, 6),
  SO_KEEPALIVE: option(SOL_SOCKET, 9),
  SO_OOBINLINE: option(SOL_SOCKET, 10),
  SO_NO_CHECK: option(SOL_SOCKET, 11),
  SO_LINGER: option(SOL_SOCKET, 13, { bytes: 8 }),
  SO_PASSCRED: option(SOL_SOCKET, 16),
  SO_RCVLOWAT: option(SOL_SOCKET, 18),
  SO_RCVTIMEO: option(SOL_SOCKET, 20, { bytes: 16 }),
  SO_SNDTIMEO: option(SOL_SOCKET, 21, { bytes: 16 }),
  SO_TIMESTAMP: option(SOL_SOCKET, 29),
  SO_PASSSEC: option(SOL_SOCKET, 34),
  SO_TIMESTAMPNS: option(SOL_SOCKET, 35),
  SO_TIMESTAMPING: option(SOL_SOCKET, 37),
  SO_RXQ_OVFL: option(SOL_SOCKET, 40),
  SO_PEEK_OFF: option(SOL_SOCKET, 42),
  SO_BUSY_POLL: option(SOL_SOCKET, 46),
  SO_MAX_PACING_RATE: option(SOL_SOCKET, 47, { bytes: 8 }),
  SO_ZEROCOPY: option(SOL_SOCKET, 60),
  SO_PREFER_BUSY_POLL: option(SOL_SOCKET, 69),
  SO_PASSPIDFD: option(SOL_SOCKET, 76),
  IP_TTL: option(IP, 2),
  IP_PKTINFO: option(IP, 8),
  IP_MTU_DISCOVER: option(IP, 10),
  IP_RECVERR: option(IP, 11),
  IP_RECVTTL: option(IP, 12),
  IP_RECVTOS: option(IP, 13),
  IP_RECVORIGDSTADDR: option(IP, 20),
  IP_MINTTL: option(IP, 21),
  IP_BIND_ADDRESS_NO_PORT: option(IP, 24),
  IP_MULTICAST_IF: option(IP, 32),
  IP_MULTICAST_TTL: option(IP, 33),
  IP_MULTICAST_LOOP: option(IP, 34),
  IP_MULTICAST_ALL: option(IP, 49),
  IPV6_UNICAST_HOPS: option(IPV6, 16),
  IPV6_MULTICAST_IF: option(IPV6, 17, { interface: true }),
  IPV6_MULTICAST_HOPS: option(IPV6, 18),
  IPV6_MULTICAST_LOOP: option(IPV6, 19),
  IPV6_MTU_DISCOVER: option(IPV6, 23),
  IPV6_RECVERR: option(IPV6, 25),
  IPV6_MULTICAST_ALL: option(IPV6, 29),
  IPV6_RECVPKTINFO: option(IPV6, 49),
  IPV6_RECVHOPLIMIT: option(IPV6, 51),
  IPV6_DONTFRAG: option(IPV6, 62),
  IPV6_RECVTCLASS: option(IPV6, 66),
  IPV6_AUTOFLOWLABEL: option(IPV6, 70),
  IPV6_MINHOPCOUNT: option(IPV6, 73),
  IPV6_RECVORIGDSTADDR: option(IPV6, 74),
  TCP_NODELAY: option(TCP, 1),
  TCP_MAXSEG: option(TCP, 2),
  TCP_CORK: option(TCP, 3),
  TCP_KEEPIDLE: option(TCP, 4),
  TCP_KEEPINTVL: option(TCP, 5),
  TCP_KEEPCNT: option(TCP, 6),
  TCP_SYNCNT: option(TCP, 7),
  TCP_LINGER2: option(TCP, 8),
  TCP_DEFER_ACCEPT: option(TCP, 9),
  TCP_WINDOW_CLAMP: option(TCP, 10),
  TCP_CONGESTION: option(TCP, 13, { bytes: 16 }),
  TCP_USER_TIMEOUT: option(TCP, 18),
  TCP_FASTOPEN: option(TCP, 23),
  TCP_NOTSENT_LOWAT: option(TCP, 25),
  TCP_SAVE_SYN: option(TCP, 27),
  TCP_FASTOPEN_NO_COOKIE: option(TCP, 34),
  TCP_INQ: option(TCP, 36),
  UDP_CORK: option(UDP, 1),
  UDP_NO_CHECK6_TX: option(UDP, 101),
  UDP_NO_CHECK6_RX: option(UDP, 102),
  UDP_SEGMENT: option(UDP, 103),
  UDP_GRO: option(UDP, 104),
} as const satisfies Record<string, Option>

type OptionName = keyof typeof OPTIONS
export const OPTION_NAMES = Object.keys(OPTIONS) as OptionName[]

const SO_BUF_LOCK = 72
const BUFFERS = {
  SO_SNDBUF: { locked: 1, name: 7, force: 32 },
  SO_RCVBUF: { locked: 2, name: 8, force: 33 },
} as const
type BufferName = keyof typeof BUFFERS
const BUFFER_NAMES = Object.keys(BUFFERS) as BufferName[]
const MAX_BUFFER_BYTES = 2 ** 31 - 1
const HEX = /^([0-9a-f]{2}){0,16}$/

export interface OptionValue {
  option: OptionName
  /** The kernel's bytes, in hexadecimal; or the name of an interface. */
  value: string
}

export interface SocketOptions {
  options: OptionValue[]
  /**
   * Those that somebody has set; the kernel chooses the others. In bytes as the kernel counts, twice what was asked.
   */
  buffers: { buffer: BufferName; bytes: number }[]
}

/** `fresh`: a new socket of the same kind. */
export function describeOptions(fd: Fd, fresh: Fd): SocketOptions {
  const options = OPTION_NAMES.flatMap((name) => {
    const { always, interface: device }: Option = OPTIONS[name]
    const value = optionHex(fd, name)
    if (value === undefined || (!always && value === optionHex(fresh, name))) return []
    return [{ option: name, value: device ? interfaceName(littleEndian(value)) : value }]
  })
  const locked = int(fd, SO_BUF_LOCK)
  const buffers = BUFFER_NAMES.filter((name) => locked & BUFFERS[name].locked)
  return { options, buffers: buffers.map((buffer) => ({ buffer, bytes: int(fd, BUFFERS[buffer].name) })) }
}

function optionHex(fd: Fd, name: OptionName): string | undefined {
  const { level, name: number, bytes = INT_BYTES }: Option = OPTIONS[name]
  const value = socketOption(fd, level, number, bytes)
  return value && Buffer.from(value).toString('hex')
}

function littleEndian(hex: string): number {
  return Buffer.from(hex, 'hex').readInt32LE()
}

function int(fd: Fd, name: number): number {
  const value = socketOption(fd, SOL_SOCKET, name, 4)
  return value ? Buffer.from(value).readInt32LE() : 0
}

export function readOptions(check: Check): SocketOptions {
  const options = check.list('options', OPTION_NAMES.length).map((each) => {
    const name = each.oneOf('option', OPTION_NAMES)
    const { interface: device, bytes = INT_BYTES }: Option = OPTIONS[name]
    const value = each.text('value', device ? /^[^/]{1,15}$/ : HEX)
    // Texts are shorter than what there is room for.
    const fits = value.length === 2 * bytes || (bytes > INT_BYTES && value.length < 2 * bytes)
    if (!device && !fits) throw each.wrong(`"value" of ${name} has the wrong length`)
    return { option: name, value }
  })
  const buffers = check.list('buffers', BUFFER_NAMES.length).map((each) => ({
    buffer: each.oneOf('buffer', BUFFER_NAMES),
    bytes: each.integer('bytes', 1, MAX_BUFFER_BYTES),
  }))
  return { options, buffers }
}

/** Before the socket is bound. */
export function setOptions(fd: Fd, { options, buffers }: SocketOptions): void {
  for (const { option: name, value } of options) {
    const { level, name: number, interface: device }: Option = OPTIONS[name]
    const bytes = device ? new Uint8Array(Int32Array.of(interfaceIndex(value)).buffer) : Buffer.from(value, 'hex')
    const wanted = Buffer.from(bytes).toString('hex')
    if (optionHex(fd, name) === wanted) continue
    setSocketOption(fd, level, number, bytes, `${name} to ${value}`)
    if (optionHex(fd, name) !== wanted) throw notTaken(name, value)
  }
  for (const { buffer, bytes } of buffers) setBuffer(fd, buffer, bytes)
}

/** Root may go beyond the machine's limit, as whoever set it before did, or the limit was another. */
function setBuffer(fd: Fd, buffer: BufferName, bytes: number): void {
  const { name, force } = BUFFERS[buffer]
  const half = new Uint8Array(Int32Array.of(Math.floor(bytes / 2)).buffer)
  try {
    setSocketOption(fd, SOL_SOCKET, force, half, buffer)
  } catch {
    setSocketOption(fd, SOL_SOCKET, name, half, buffer)
  }
  if (int(fd, name) !== bytes) throw notTaken(buffer, `${bytes} bytes`)
}

function notTaken(name: string, value: string): LuoError {
  return new LuoError('LUO_UNSUPPORTED', `set ${name} of a socket to ${value}: the kernel did not take it`)
}

/** What cannot be read off a socket, but that it is there. */
export function whyOptionsCannot(fd: Fd): string | undefined {
  const ULP = { level: TCP, name: 31, bytes: 16 }
  const ENCAP = { level: UDP, name: 100 }
  if (hasFilter(fd)) return 'a filter is attached to it (SO_ATTACH_FILTER or SO_ATTACH_BPF)'
  const ulp = Buffer.from(socketOption(fd, ULP.level, ULP.name, ULP.bytes) ?? [])
    .toString('latin1')
    .replace(/\0.*/s, '')
  // That of MPTCP is the kernel's own.
  if (ulp !== '' && ulp !== 'mptcp') return `it has a TCP_ULP (${ulp})`
  if (socketOption(fd, ENCAP.level, ENCAP.name, 4)?.some((byte) => byte !== 0)) return 'it has a UDP_ENCAP'
  return undefined
}

function hasFilter(fd: Fd): boolean {
  const SO_GET_FILTER = 26
  const MAX_FILTER_BYTES = 4096 * 8
  try {
    return (socketOption(fd, SOL_SOCKET, SO_GET_FILTER, MAX_FILTER_BYTES)?.length ?? 0) > 0
  } catch {
    // There is one, of eBPF, which nobody can read.
    return true
  }
}
