/**
 * Listening TCP and MPTCP sockets, and bound UDP sockets, by value: address, peer, options, backlog, membership of
 * multicast groups. Connections, also those that wait in a listener's queue, end with the kernel that has them; so do
 * datagrams that were not read. An address that is taken is EADDRINUSE, one that is not there yet EADDRNOTAVAIL.
 */
import { LuoError } from '../../errors.js'
import type { Fd } from '../../sys/fd.js'
import { joinGroup, type Membership, memberships } from '../../sys/multicast.js'
import { howOpened } from '../../sys/same-file.js'
import {
  AF,
  bindSocket,
  connectSocket,
  listenSocket,
  networkOf,
  openSocket,
  peerName,
  SOCK,
  setNonblocking,
  socketName,
  tcpBacklog,
} from '../../sys/socket.js'
import { addressText, decodeAddress, encodeAddress, type InternetAddress } from '../../sys/socket-address.js'
import type { HeldFile } from '../held-file.js'
import type { Check } from './check.js'
import { describeOptions, readOptions, type SocketOptions, setOptions, whyOptionsCannot } from './options.js'

const PROTOCOLS = { tcp: 6, mptcp: 262, udp: 17 } as const
type Kind = keyof typeof PROTOCOLS
const MAX_BACKLOG = 2 ** 31 - 1
/** A machine's limit (net.ipv4.igmp_max_memberships) is 20 unless told otherwise. */
const MAX_MEMBERSHIPS = 1000
const INTERFACE = /^[^/]{1,15}$/
const IP_TEXT = /^[0-9a-f.:]{2,45}$/
const FAMILIES = ['ipv4', 'ipv6'] as const

export interface InternetDescription extends SocketOptions {
  address: InternetAddress
  nonblock: boolean
  /** Of TCP and MPTCP. */
  backlog?: number
  /** Of UDP. */
  peer?: InternetAddress
  memberships?: Membership[]
}

/** Why it cannot cross, if it cannot. */
export function whyInternetCannot(kind: Kind, { fd, info }: HeldFile): string | undefined {
  if (kind !== 'udp' && !info.listening) return 'a connection ends with this kernel; only a listening socket crosses'
  const { family, port } = decodeAddress(socketName(fd))
  if (port === 0) return 'it is not bound to a port'
  using fresh = openSocket(AF[family], kind === 'udp' ? SOCK.datagram : SOCK.stream, PROTOCOLS[kind])
  if (networkOf(fd) !== networkOf(fresh)) return 'it is of another network namespace than luod'
  if (kind !== 'udp' && tcpBacklog(fd) === undefined) return 'this kernel does not tell its backlog'
  return whyOptionsCannot(fd)
}

export function describeInternet(kind: Kind, { fd }: HeldFile): InternetDescription {
  const address = decodeAddress(socketName(fd))
  const { family } = address
  using fresh = openSocket(AF[family], kind === 'udp' ? SOCK.datagram : SOCK.stream, PROTOCOLS[kind])
  const common = {
    address,
    nonblock: howOpened(fd).flags.includes('nonblock'),
    ...describeOptions(fd, fresh),
  }
  if (kind !== 'udp') return { ...common, backlog: tcpBacklog(fd) ?? 0 }
  const peer = peerName(fd)
  return {
    ...common,
    ...(peer ? { peer: decodeAddress(peer) } : {}),
    memberships: memberships(fd, family),
  }
}

export function readInternetDescription(kind: Kind, check: Check): InternetDescription {
  const common = {
    address: readAddress(check.within('address')),
    nonblock: check.flag('nonblock'),
    ...readOptions(check),
  }
  if (kind !== 'udp') return { ...common, backlog: check.integer('backlog', 0, MAX_BACKLOG) }
  return {
    ...common,
    ...(check.has('peer') ? { peer: readAddress(check.within('peer')) } : {}),
    memberships: check.list('memberships', MAX_MEMBERSHIPS).map((each) => ({
      family: each.oneOf('family', FAMILIES),
      group: each.text('group', IP_TEXT),
      interface: each.text('interface', INTERFACE),
    })),
  }
}

function readAddress(check: Check): InternetAddress {
  const address: InternetAddress = {
    family: check.oneOf('family', FAMILIES),
    address: check.text('address', IP_TEXT),
    port: check.integer('port', 1, 65535),
    ...(check.has('flowInfo') ? { flowInfo: check.integer('flowInfo', 0, 2 ** 32 - 1) } : {}),
  }
  try {
    encodeAddress(address)
  } catch (error) {
    throw check.wrong(error instanceof LuoError ? error.message : String(error))
  }
  return check.has('interface') ? { ...address, interface: check.text('interface', INTERFACE) } : address
}

export function recreateInternet(kind: Kind, description: InternetDescription): Fd {
  const { address, backlog, peer, nonblock } = description
  const where = addressText(address)
  const fd = openSocket(AF[address.family], kind === 'udp' ? SOCK.datagram : SOCK.stream, PROTOCOLS[kind])
  try {
    setOptions(fd, description)
    bindSocket(fd, encodeAddress(address), where)
    for (const membership of description.memberships ?? []) joinGroup(fd, membership)
    if (peer) connectSocket(fd, encodeAddress(peer), addressText(peer))
    if (backlog !== undefined) listenSocket(fd, backlog, where)
    setNonblocking(fd, nonblock)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}
