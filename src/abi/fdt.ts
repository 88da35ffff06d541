/**
 * Flattened device trees, version 17 (Devicetree Specification 0.4, chapter 5): the form in which KHO says what it
 * hands over. Only nodes and properties; what a property means is its reader's business. All numbers are big-endian.
 *
 *     header, 40 bytes   u32 magic · total size · structure offset · strings offset · reserve map offset · version ·
 *                        last compatible version · boot CPU · strings size · structure size
 *     reserve map        pairs of u64, ended by zeros; always empty here
 *     structure          u32 tokens: 1 node, its name · 2 end of node · 3 property, u32 length, u32 name offset,
 *                        value · 4 nothing · 9 end; names and values padded to 4 bytes
 *     strings            names of properties, each with a NUL
 *
 * Damaged bytes are LUO_RECORDS, another version is LUO_RECORDS_VERSION. Reading takes as long as the bytes are long.
 */
import { LuoError } from '../errors.js'
import { ByteReader, decodeName, encodeName, unknownVersion, viewOf } from './bytes.js'

export const FDT_MAGIC = 0xd00dfeed
const VERSION = 17
const LAST_COMPATIBLE_VERSION = 16
const HEADER_BYTES = 40
const RESERVE_MAP_BYTES = 16
const BEGIN_NODE = 1
const END_NODE = 2
const PROPERTY = 3
const NOTHING = 4
const END = 9
const MAX_DEPTH = 16
/** Of a node or a property. The specification has 31. */
const MAX_NAME_BYTES = 255
export const MAX_FDT_BYTES = 2 ** 20

export interface FdtNode {
  properties: Map<string, Uint8Array>
  children: Map<string, FdtNode>
}

export function fdtNode(properties: Iterable<[string, Uint8Array]> = []): FdtNode {
  return { properties: new Map(properties), children: new Map() }
}

/** EINVAL for a tree that `decodeFdt` would not take. */
export function encodeFdt(root: FdtNode): Uint8Array {
  const strings = new Strings()
  const structure: Uint8Array[] = []
  encodeNode(root, '', 0, structure, strings)
  structure.push(words(END))
  const structureBytes = Buffer.concat(structure)
  const structureAt = HEADER_BYTES + RESERVE_MAP_BYTES
  const stringsAt = structureAt + structureBytes.length
  const total = stringsAt + strings.bytes
  if (total > MAX_FDT_BYTES) throw new LuoError('EINVAL', `write a device tree: it has ${total} bytes`)
  const header = words(
    ...[FDT_MAGIC, total, structureAt, stringsAt, HEADER_BYTES, VERSION, LAST_COMPATIBLE_VERSION, 0],
    ...[strings.bytes, structureBytes.length],
  )
  return Buffer.concat([header, new Uint8Array(RESERVE_MAP_BYTES), structureBytes, ...strings.parts])
}

function encodeNode(node: FdtNode, name: string, depth: number, out: Uint8Array[], strings: Strings): void {
  if (depth >= MAX_DEPTH) throw new LuoError('EINVAL', `write a device tree: it has more than ${MAX_DEPTH} levels`)
  out.push(words(BEGIN_NODE), padded(terminated(name)))
  for (const [property, value] of node.properties) {
    out.push(words(PROPERTY, value.length, strings.add(property)), padded(value))
  }
  for (const [child, childNode] of node.children) {
    if (child === '') throw new LuoError('EINVAL', `write a device tree: a child of "${name}" has no name`)
    encodeNode(childNode, child, depth + 1, out, strings)
  }
  out.push(words(END_NODE))
}

/** The root; values are parts of `bytes`, not copies. */
export function decodeFdt(bytes: Uint8Array): FdtNode {
  const header = new ByteReader(bytes, 'a device tree')
  if (header.u32BigEndian(0) !== FDT_MAGIC) throw header.damaged('it does not begin as one')
  const version = header.u32BigEndian(20)
  const compatible = header.u32BigEndian(24)
  if (version < VERSION || compatible > VERSION) throw unknownVersion('a device tree', version, VERSION)
  const total = header.u32BigEndian(4)
  if (total > bytes.length) throw header.damaged(`it has ${total} bytes, and ${bytes.length} are there`)
  if (total > MAX_FDT_BYTES) throw header.damaged(`it has ${total} bytes, and ${MAX_FDT_BYTES} is the most`)
  const whole = new ByteReader(bytes.subarray(0, total), header.what)
  const part = (offsetAt: number, sizeAt: number) =>
    whole.part(header.u32BigEndian(offsetAt), header.u32BigEndian(sizeAt))
  return decodeStructure(part(8, 36), part(12, 32))
}

function decodeStructure(structure: Uint8Array, strings: Uint8Array): FdtNode {
  const reader = new ByteReader(structure, 'the structure of a device tree')
  let root: FdtNode | undefined
  /** From the root to the node that is open. */
  const open: FdtNode[] = []
  for (let at = 0; ; ) {
    const token = reader.u32BigEndian(at)
    const node = open.at(-1)
    at += 4
    if (token === BEGIN_NODE) {
      const name = nameAt(structure, at, 'a node')
      const child = fdtNode()
      at += align(name.length + 1)
      if (node) putNew(node.children, decodeName(name), child, reader)
      else if (root || name.length > 0) throw reader.damaged('it has no root, or two')
      root ??= child
      open.push(child)
      if (open.length > MAX_DEPTH) throw reader.damaged(`it has more than ${MAX_DEPTH} levels`)
    } else if (token === PROPERTY && node) {
      const length = reader.u32BigEndian(at)
      const name = nameAt(strings, reader.u32BigEndian(at + 4), 'a property')
      putNew(node.properties, decodeName(name), reader.part(at + 8, length), reader)
      at += 8 + align(length)
    } else if (token === END_NODE && node) {
      open.pop()
    } else if (token === END && root && !node) {
      return root
    } else if (token !== NOTHING) {
      throw reader.damaged(`there is a ${token} at ${at - 4}, where it has no meaning`)
    }
  }
}

function putNew<T>(map: Map<string, T>, name: string, value: T, reader: ByteReader): void {
  if (name === '' || map.has(name)) throw reader.damaged(`the name ${JSON.stringify(name)} is empty or there twice`)
  map.set(name, value)
}

function nameAt(bytes: Uint8Array, at: number, what: string): Uint8Array {
  const length = bytes.subarray(at, at + MAX_NAME_BYTES + 1).indexOf(0)
  if (length !== -1) return bytes.subarray(at, at + length)
  throw new ByteReader(bytes, 'a device tree').damaged(`no NUL ends the name of ${what} at ${at}`)
}

/** The block of names, each of them once. */
class Strings {
  readonly parts: Uint8Array[] = []
  bytes = 0
  readonly #offsets = new Map<string, number>()

  add(name: string): number {
    if (name === '') throw new LuoError('EINVAL', 'write a device tree: a property has no name')
    const known = this.#offsets.get(name)
    if (known !== undefined) return known
    const offset = this.bytes
    const part = terminated(name)
    this.#offsets.set(name, offset)
    this.parts.push(part)
    this.bytes += part.length
    return offset
  }
}

function terminated(name: string): Uint8Array {
  const bytes = encodeName(name)
  if (bytes.length > MAX_NAME_BYTES || bytes.includes(0)) {
    throw new LuoError('EINVAL', `write a device tree: the name ${JSON.stringify(name)} is too long or has a NUL`)
  }
  return Buffer.concat([bytes, new Uint8Array(1)])
}

function words(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  const view = viewOf(bytes)
  values.forEach((value, index) => {
    view.setUint32(index * 4, value, false)
  })
  return bytes
}

function padded(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes], align(bytes.length))
}

function align(bytes: number): number {
  return Math.ceil(bytes / 4) * 4
}
