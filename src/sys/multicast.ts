/**
 * Which multicast groups a socket is a member of. No call lists them, but the kernel has a list of the groups of the
 * whole network namespace, and of each of them a socket can be asked.
 */
import { readFileSync } from 'node:fs'
import { isLuoError, LuoError } from '../errors.js'
import type { Fd } from './fd.js'
import { setSocketOption, socketOption } from './socket.js'
import { decodeAddress, encodeAddress, type InternetAddress, interfaceIndex, interfaceName } from './socket-address.js'

const LEVELS = { ipv4: 0, ipv6: 41 } as const
const MCAST_JOIN_GROUP = 42
const MCAST_MSFILTER = 48
/** struct group_req: u32 interface, padded, then a struct sockaddr_storage. */
const GROUP_AT = 8
const STORAGE_BYTES = 128
const REQUEST_BYTES = GROUP_AT + STORAGE_BYTES
/** struct group_filter: the same, then u32 mode and u32 number of sources. */
const MODE_AT = REQUEST_BYTES
const SOURCES_AT = MODE_AT + 4
const FILTER_BYTES = SOURCES_AT + 4
/** From all senders. */
const MCAST_EXCLUDE = 0
/** Groups of a network namespace that are looked at; a machine has some ten. */
const MAX_GROUPS = 10_000
const IGMP_TABLES = { ipv4: '/proc/self/net/igmp', ipv6: '/proc/self/net/igmp6' } as const

type Family = InternetAddress['family']

export interface Membership {
  /** A socket of IPv6 may be a member of groups of IPv4 too. */
  family: Family
  group: string
  interface: string
}

/** LUO_UNSUPPORTED when it takes a group from some senders only, or when there are too many groups to ask for. */
export function memberships(fd: Fd, socketFamily: Family): Membership[] {
  const families: Family[] = socketFamily === 'ipv6' ? ['ipv6', 'ipv4'] : ['ipv4']
  return families.flatMap((family) => membershipsIn(fd, family))
}

function membershipsIn(fd: Fd, family: Family): Membership[] {
  const groups = joinedGroups(family)
  if (groups.length > MAX_GROUPS) {
    throw new LuoError('LUO_UNSUPPORTED', `there are ${groups.length} multicast groups, and ${MAX_GROUPS} at most here`)
  }
  return groups
    .filter(({ group, index }) => isMember(fd, family, group, index))
    .map(({ group, index }) => ({ family, group, interface: interfaceName(index) }))
}

function isMember(fd: Fd, family: Family, group: string, index: number): boolean {
  const question = new Uint8Array(FILTER_BYTES)
  const view = new DataView(question.buffer)
  view.setUint32(0, index, true)
  question.set(encodeAddress({ family, address: group, port: 0 }), GROUP_AT)
  let answer: Uint8Array | undefined
  try {
    answer = socketOption(fd, LEVELS[family], MCAST_MSFILTER, FILTER_BYTES, question)
  } catch (error) {
    if (error instanceof LuoError && error.code === 'EADDRNOTAVAIL') return false
    throw error
  }
  if (!answer) return false
  const filter = new DataView(answer.buffer, answer.byteOffset)
  if (filter.getUint32(MODE_AT, true) === MCAST_EXCLUDE && filter.getUint32(SOURCES_AT, true) === 0) return true
  throw new LuoError('LUO_UNSUPPORTED', `the socket takes the multicast group ${group} from some senders only`)
}

/** LUO_UNSUPPORTED: the machine takes no more groups for one socket. */
export function joinGroup(fd: Fd, { family, group, interface: device }: Membership): void {
  const request = new Uint8Array(REQUEST_BYTES)
  new DataView(request.buffer).setUint32(0, interfaceIndex(device), true)
  request.set(encodeAddress({ family, address: group, port: 0 }), GROUP_AT)
  const what = `the multicast group ${group} at ${device}`
  try {
    setSocketOption(fd, LEVELS[family], MCAST_JOIN_GROUP, request, what)
  } catch (error) {
    if (!isLuoError(error, 'ENOBUFS')) throw error
    const limit = 'the socket has as many as net.ipv4.igmp_max_memberships allows; raise it'
    throw new LuoError('LUO_UNSUPPORTED', `join ${what}: ${limit}`, { cause: error })
  }
}

/** Joined by anybody. In the table of IPv4 a line of an interface comes before the lines of its groups. */
function joinedGroups(family: Family): { group: string; index: number }[] {
  const found: { group: string; index: number }[] = []
  let current = 0
  for (const line of tableOf(family).split('\n')) {
    if (family === 'ipv6') {
      const [, index, hex] = /^(\d+)\s+\S+\s+([0-9a-f]{32})\s/.exec(line) ?? []
      if (hex) found.push({ group: ipv6Text(hex), index: Number(index) })
      continue
    }
    const index = /^(\d+)\t/.exec(line)?.[1]
    if (index) current = Number(index)
    const hex = /^\t+([0-9A-F]{8})\s/.exec(line)?.[1]
    // A number of the machine's byte order, which is the wrong way round.
    const bytes = hex && Buffer.from(hex, 'hex').reverse()
    if (bytes) found.push({ group: bytes.join('.'), index: current })
  }
  return found
}

function tableOf(family: Family): string {
  try {
    return readFileSync(IGMP_TABLES[family], 'latin1')
  } catch {
    // A kernel without multicast, or without IPv6.
    return ''
  }
}

function ipv6Text(hex: string): string {
  const bytes = new Uint8Array(28)
  bytes[0] = 10
  bytes.set(Buffer.from(hex, 'hex'), 8)
  return decodeAddress(bytes).address
}
