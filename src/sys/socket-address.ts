/**
 * Addresses of the Internet as values: a text that people read, a port, and for link-local addresses the interface by
 * its name, since its number is another one after the next boot. Anything that is no such address is EINVAL.
 */
import { isIPv4, isIPv6, SocketAddress } from 'node:net'
import { LuoError } from '../errors.js'
import { integer, libc } from './ffi.js'
import { AF } from './socket.js'

const MAX_PORT = 65535
/** IFNAMSIZ, with the NUL. */
const INTERFACE_NAME_BYTES = 16
const IPV4_BYTES = 16
const IPV6_BYTES = 28

export interface InternetAddress {
  family: 'ipv4' | 'ipv6'
  address: string
  port: number
  /** Of IPv6; 0 when there is none. */
  flowInfo?: number
  /** Of a link-local address: "eth0". */
  interface?: string
}

export function decodeAddress(bytes: Uint8Array): InternetAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const family = bytes.length < 2 ? 0 : view.getUint16(0, true)
  if (family === AF.ipv4 && bytes.length >= IPV4_BYTES) {
    return { family: 'ipv4', address: [...bytes.subarray(4, 8)].join('.'), port: view.getUint16(2) }
  }
  if (family !== AF.ipv6 || bytes.length < IPV6_BYTES) {
    throw new LuoError('EINVAL', `an address of family ${family} and ${bytes.length} bytes is none of IPv4 or IPv6`)
  }
  const groups = Array.from({ length: 8 }, (_, index) => view.getUint16(8 + index * 2).toString(16))
  const flowInfo = view.getUint32(4)
  const scope = view.getUint32(24, true)
  return {
    family: 'ipv6',
    address: new SocketAddress({ address: groups.join(':'), family: 'ipv6' }).address,
    port: view.getUint16(2),
    ...(flowInfo === 0 ? {} : { flowInfo }),
    ...(scope === 0 ? {} : { interface: interfaceName(scope) }),
  }
}

export function encodeAddress({ family, address, port, flowInfo = 0, interface: device }: InternetAddress): Uint8Array {
  integer(port, 0, MAX_PORT, 'a port')
  if (!(family === 'ipv4' ? isIPv4(address) : isIPv6(address)) || address.includes('%')) {
    throw new LuoError('EINVAL', `"${address}" is no address of ${family}`)
  }
  const bytes = new Uint8Array(family === 'ipv4' ? IPV4_BYTES : IPV6_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, AF[family], true)
  view.setUint16(2, port)
  if (family === 'ipv4') {
    bytes.set(address.split('.').map(Number), 4)
    return bytes
  }
  view.setUint32(4, integer(flowInfo, 0, 2 ** 32 - 1, 'a flow label'))
  bytes.set(ipv6Bytes(address), 8)
  view.setUint32(24, device === undefined ? 0 : interfaceIndex(device), true)
  return bytes
}

/** Of a text that isIPv6 has accepted. */
function ipv6Bytes(text: string): number[] {
  const dotted = /(?<=:)[\d.]+$/.exec(text)?.[0]
  const [a = 0, b = 0, c = 0, d = 0] = dotted?.includes('.') ? dotted.split('.').map(Number) : []
  const groups = dotted?.includes('.')
    ? `${text.slice(0, -dotted.length)}${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`
    : text
  const [head = '', tail] = groups.split('::')
  const numbers = (part: string) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)))
  const [first, last] = [numbers(head), numbers(tail ?? '')]
  const zeros = tail === undefined ? [] : new Array<number>(8 - first.length - last.length).fill(0)
  return [...first, ...zeros, ...last].flatMap((group) => [group >> 8, group & 0xff])
}

export function addressText({ family, address, port, interface: device }: InternetAddress): string {
  const zone = device === undefined ? '' : `%${device}`
  return family === 'ipv4' ? `${address}:${port}` : `[${address}${zone}]:${port}`
}

/** ENODEV when there is no such interface. */
export function interfaceName(index: number): string {
  const name = new Uint8Array(INTERFACE_NAME_BYTES)
  if (libc('if_indextoname', integer(index, 1, 2 ** 31 - 1, 'the number of an interface'), name) === 0) {
    throw new LuoError('ENODEV', `there is no network interface ${index}`)
  }
  return Buffer.from(name.subarray(0, name.indexOf(0))).toString()
}

/** ENODEV when there is no such interface. */
export function interfaceIndex(name: string): number {
  const index = name.includes('\0') ? 0 : libc('if_nametoindex', name)
  if (index === 0) throw new LuoError('ENODEV', `there is no network interface "${name}"`)
  return index
}
