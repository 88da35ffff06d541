/**
 * Kexec handover: the tree that says what is handed over, `kho-v4`, and the image of an emulated kexec.
 *
 * The tree is the kernel's, a flattened device tree (fdt.ts). Its three u64 are little-endian, unlike all else in it:
 *
 *     /                compatible "kho-v4" · preserved-memory-map, u64 address
 *     /NAME            preserved-data, u64 address · blob-size, u64 bytes; one for each subtree, LUO's is "LUO"
 *
 * The image, `luod-kho` version 1, is one sparse file, an address being an offset in it. Little-endian:
 *
 *     header, at 0     magic "luod-kho" · u32 version · u32 CRC-32 of the next 48 bytes · u64 tree address ·
 *                      u64 tree bytes · u64 image bytes · u32 CRC-32 of the tree · u32 0 · u64 0 · u64 0
 *     memory map       u64 count · u32 CRC-32 of what follows · u32 0 · for each allocation, in order:
 *                      u64 address · u64 bytes · u32 CRC-32 of it · u32 0
 *
 * The tree and the map are behind the last allocation and belong to the image alone. Everything is checked before
 * anything of it is believed: damage is LUO_RECORDS, another version LUO_RECORDS_VERSION. Reading changes nothing.
 */
import { crc32 } from 'node:zlib'
import { ByteReader, checkU64, damaged, decodeName, hex, PAGE_BYTES, unknownVersion, viewOf } from './bytes.js'
import { decodeFdt, encodeFdt, type FdtNode, fdtNode, MAX_FDT_BYTES } from './fdt.js'
import { type Allocation, DEFAULT_LIMITS, HandoverMemory, type MemoryLimits } from './handover-memory.js'
import { COMPATIBLE_BYTES, LUO_SER_BYTES } from './luo.js'

export const KHO_COMPATIBLE = 'kho-v4'
const LUO_SUBTREE = 'LUO'
export const IMAGE_MAGIC = 'luod-kho'
export const IMAGE_VERSION = 1
const HEADER_BYTES = 64
const CHECKED_FROM = 16
const MAP_HEADER_BYTES = 16
const MAP_ENTRY_BYTES = 24

export interface Subtree {
  address: bigint
  size: bigint
}

export interface Kho {
  /** Address of the list of all that is preserved. */
  memoryMap: bigint
  subtrees: Map<string, Subtree>
}

/** What an image is read from. `read` answers a copy, of fewer bytes only at the end of what there is. */
export interface ImageReader {
  readonly size: number
  read(offset: number, length: number): Uint8Array
}

export function encodeKho({ memoryMap, subtrees }: Kho): Uint8Array {
  const root = fdtNode([
    ['compatible', Buffer.from(`${KHO_COMPATIBLE}\0`)],
    ['preserved-memory-map', word(memoryMap)],
  ])
  for (const [name, { address, size }] of subtrees) {
    const properties: [string, Uint8Array][] = [
      ['preserved-data', word(address)],
      ['blob-size', word(size)],
    ]
    root.children.set(name, fdtNode(properties))
  }
  return encodeFdt(root)
}

/** Properties that it does not know are passed over, as the kernel does. */
export function decodeKho(bytes: Uint8Array): Kho {
  const root = decodeFdt(bytes)
  const compatible = new ByteReader(property(root, 'compatible'), 'compatible of the KHO tree')
  const version = compatible.name(0, Math.min(compatible.bytes.length, COMPATIBLE_BYTES))
  if (!version.startsWith('kho-v')) throw damaged('the KHO tree', `it is one of ${JSON.stringify(version)}`)
  if (version !== KHO_COMPATIBLE) throw unknownVersion('the KHO tree', version, KHO_COMPATIBLE)
  const subtrees = new Map<string, Subtree>()
  for (const [name, node] of root.children) {
    subtrees.set(name, { address: u64(node, 'preserved-data'), size: u64(node, 'blob-size') })
  }
  return { memoryMap: u64(root, 'preserved-memory-map'), subtrees }
}

/** The names of the properties, as the kernel writes them behind its tree. */
const KERNEL_STRINGS = Buffer.from('preserved-memory-map\0compatible\0preserved-data\0blob-size\0')

/**
 * The whole of a tree that debugfs shows only the beginning of, as it does with `out/fdt`. It can be completed when no
 * more is missing than names of properties, which are known. Undefined when more is missing.
 */
export function completeKernelTree(bytes: Uint8Array): Uint8Array | undefined {
  const header = new ByteReader(bytes, 'a device tree')
  const total = header.u32BigEndian(4)
  const stringsAt = header.u32BigEndian(12)
  if (total <= bytes.length) return bytes
  const there = Buffer.from(bytes.subarray(stringsAt))
  const fits = bytes.length >= stringsAt && total === stringsAt + KERNEL_STRINGS.length
  if (!fits || !there.equals(KERNEL_STRINGS.subarray(0, there.length))) return undefined
  return Buffer.concat([bytes.subarray(0, stringsAt), KERNEL_STRINGS])
}

/**
 * The image of this memory, in which `luo` is the address of luo_ser. Write every piece at its address into an empty
 * file of `size` bytes, before the memory is changed. The header is the last piece: an image that was written in part
 * is none.
 */
export function writeImage(
  memory: HandoverMemory,
  { luo }: { luo: bigint },
): { size: bigint; pieces: Iterable<Allocation> } {
  const mapAt = memory.end
  const map = encodeMap(memory)
  const treeAt = nextPage(mapAt + BigInt(map.length))
  const tree = encodeKho({
    memoryMap: mapAt,
    subtrees: new Map([[LUO_SUBTREE, { address: luo, size: BigInt(LUO_SER_BYTES) }]]),
  })
  const size = nextPage(treeAt + BigInt(tree.length))
  const header = new Uint8Array(HEADER_BYTES)
  header.set(Buffer.from(IMAGE_MAGIC))
  const view = viewOf(header)
  view.setUint32(8, IMAGE_VERSION, true)
  view.setBigUint64(16, treeAt, true)
  view.setBigUint64(24, BigInt(tree.length), true)
  view.setBigUint64(32, size, true)
  view.setUint32(40, crc32(tree), true)
  view.setUint32(12, crc32(header.subarray(CHECKED_FROM)), true)
  function* pieces(): Generator<Allocation> {
    yield* memory.entries()
    yield { address: mapAt, bytes: map }
    yield { address: treeAt, bytes: tree }
    yield { address: 0n, bytes: header }
  }
  return { size, pieces: { [Symbol.iterator]: pieces } }
}

/** The memory of an image, and the address of luo_ser in it. More than `limits` is LUO_RECORDS. */
export function readImage(
  reader: ImageReader,
  limits: Partial<MemoryLimits> = {},
): { memory: HandoverMemory; luo: bigint } {
  const image = new Image(reader)
  const { memoryMap, subtrees } = decodeKho(image.tree())
  const luo = subtrees.get(LUO_SUBTREE)
  if (luo?.size !== BigInt(LUO_SER_BYTES)) throw damaged('the KHO tree', 'it has no LUO, or one of another size')
  return { memory: HandoverMemory.restore(image.allocations(memoryMap, limits), limits), luo: luo.address }
}

class Image {
  readonly #reader: ImageReader
  readonly #header: ByteReader
  readonly #size: bigint

  constructor(reader: ImageReader) {
    this.#reader = reader
    this.#size = BigInt(reader.size)
    this.#header = new ByteReader(this.#read(0n, BigInt(HEADER_BYTES), 'the header'), 'an image of a kexec')
    if (decodeName(this.#header.part(0, 8)) !== IMAGE_MAGIC) throw this.#header.damaged('it does not begin as one')
    const version = this.#header.u32(8)
    if (version !== IMAGE_VERSION) throw unknownVersion(this.#header.what, version, IMAGE_VERSION)
    if (crc32(this.#header.part(CHECKED_FROM, HEADER_BYTES - CHECKED_FROM)) !== this.#header.u32(12)) {
      throw this.#header.damaged('the checksum of its header is wrong')
    }
    const size = this.#header.u64(32)
    if (size > this.#size) throw this.#header.damaged(`it has ${size} bytes, and ${this.#size} are there`)
    this.#size = size
  }

  tree(): Uint8Array {
    const length = this.#header.u64(24)
    if (length > BigInt(MAX_FDT_BYTES)) throw this.#header.damaged(`its tree has ${length} bytes`)
    return this.#checked(this.#header.u64(16), length, this.#header.u32(40), 'the tree')
  }

  /** Checks the whole list, before it reads the first. */
  allocations(map: bigint, limits: Partial<MemoryLimits>): Iterable<Allocation> {
    const most = { ...DEFAULT_LIMITS, ...limits }
    const header = new ByteReader(this.#read(map, BigInt(MAP_HEADER_BYTES), 'the memory map'), 'the memory map')
    const count = header.u64(0)
    if (count > BigInt(most.allocations)) {
      throw header.damaged(`there are ${count} allocations, and ${most.allocations} are allowed`)
    }
    const entries = new ByteReader(
      this.#checked(map + BigInt(MAP_HEADER_BYTES), count * BigInt(MAP_ENTRY_BYTES), header.u32(8), header.what),
      header.what,
    )
    let bytes = 0n
    for (let at = 0; at < entries.bytes.length; at += MAP_ENTRY_BYTES) bytes += entries.u64(at + 8)
    if (bytes > BigInt(most.bytes)) throw header.damaged(`it lists ${bytes} bytes, and ${most.bytes} are allowed`)
    return this.#each(entries)
  }

  *#each(entries: ByteReader): Generator<Allocation> {
    for (let at = 0; at < entries.bytes.length; at += MAP_ENTRY_BYTES) {
      const address = entries.u64(at)
      const length = entries.u64(at + 8)
      const what = `the allocation at ${hex(address)}`
      if (length === 0n) throw damaged(what, 'it has no bytes')
      yield { address, bytes: this.#checked(address, length, entries.u32(at + 16), what) }
    }
  }

  #checked(address: bigint, length: bigint, checksum: number, what: string): Uint8Array {
    const bytes = this.#read(address, length, what)
    if (crc32(bytes) === checksum) return bytes
    throw damaged('an image of a kexec', `the checksum of ${what} is wrong`)
  }

  #read(address: bigint, length: bigint, what: string): Uint8Array {
    if (address + length <= this.#size) {
      const bytes = this.#reader.read(Number(address), Number(length))
      if (bytes.length === Number(length)) return bytes
    }
    throw damaged(
      'an image of a kexec',
      `${what}, ${length} bytes at ${hex(address)}, is not in its ${this.#size} bytes`,
    )
  }
}

function encodeMap(memory: HandoverMemory): Uint8Array {
  const bytes = new Uint8Array(MAP_HEADER_BYTES + memory.allocations * MAP_ENTRY_BYTES)
  const view = viewOf(bytes)
  let at = MAP_HEADER_BYTES
  for (const allocation of memory.entries()) {
    view.setBigUint64(at, allocation.address, true)
    view.setBigUint64(at + 8, BigInt(allocation.bytes.length), true)
    view.setUint32(at + 16, crc32(allocation.bytes), true)
    at += MAP_ENTRY_BYTES
  }
  view.setBigUint64(0, BigInt(memory.allocations), true)
  view.setUint32(8, crc32(bytes.subarray(MAP_HEADER_BYTES)), true)
  return bytes
}

function property(node: FdtNode, name: string): Uint8Array {
  const value = node.properties.get(name)
  if (value) return value
  throw damaged('the KHO tree', `it has no ${name}`)
}

function u64(node: FdtNode, name: string): bigint {
  const value = property(node, name)
  if (value.length !== 8) throw damaged('the KHO tree', `${name} has ${value.length} bytes, and not 8`)
  return viewOf(value).getBigUint64(0, true)
}

function word(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  viewOf(bytes).setBigUint64(0, checkU64(value, 'an address or size'), true)
  return bytes
}

function nextPage(address: bigint): bigint {
  const page = BigInt(PAGE_BYTES)
  return ((address + page - 1n) / page) * page
}
