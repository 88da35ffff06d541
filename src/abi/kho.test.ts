import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { encodeFdt, fdtNode } from './fdt.js'
import { type Allocation, HandoverMemory } from './handover-memory.js'
import { decodeKho, encodeKho, type ImageReader, readImage, writeImage } from './kho.js'
import { decodeLuo, decodeLuoSer, encodeLuo, type LuoState } from './luo.js'

const PAGE = 4096
const GOLDEN = new URL('../../test/golden/', import.meta.url)

/** Counts what is read of it. */
class Bytes implements ImageReader {
  readonly bytes: Uint8Array
  readonly size: number
  readBytes = 0
  constructor(bytes: Uint8Array, size = bytes.length) {
    this.bytes = bytes
    this.size = size
  }

  read(offset: number, length: number): Uint8Array {
    const part = new Uint8Array(this.bytes.subarray(offset, offset + length))
    this.readBytes += part.length
    return part
  }
}

function toBytes({ size, pieces }: { size: bigint; pieces: Iterable<Allocation> }): Buffer {
  const bytes = Buffer.alloc(Number(size))
  for (const piece of pieces) bytes.set(piece.bytes, Number(piece.address))
  return bytes
}

const STATE: LuoState = {
  liveupdateNumber: 7n,
  sessions: [
    {
      name: 'web',
      files: [
        { compatible: 'memfd-v2', data: 0x1000n, token: '1' },
        { compatible: 'x', data: 0n, token: '18446744073709551615' },
      ],
    },
    { name: 'empty', files: [] },
  ],
  flbs: [{ compatible: 'f', data: 3n, count: 1n }],
}

function sample(): { memory: HandoverMemory; luo: bigint; image: Buffer } {
  const memory = new HandoverMemory()
  memory.allocate(Buffer.from('contents of a file'))
  memory.free(memory.allocate(new Uint8Array(3 * PAGE)))
  const luo = encodeLuo(memory, STATE)
  return { memory, luo, image: toBytes(writeImage(memory, { luo })) }
}

describe('an image', () => {
  test('is read as it was written, and reading changes nothing', () => {
    const { memory, luo, image } = sample()
    const before = Buffer.from(image)
    const read = readImage(new Bytes(image))
    expect([...read.memory.entries()]).toEqual([...memory.entries()])
    expect(read.luo).toBe(luo)
    expect(decodeLuo(read.memory, read.luo)).toEqual(STATE)
    read.memory.write(0x1000n, Buffer.from('other'))
    expect(image).toEqual(before)
  })

  test('is the header, the allocations, the map and the tree, of the documented bytes', () => {
    const memory = new HandoverMemory()
    const luo = memory.allocate(Buffer.alloc(32, 0xaa))
    const image = toBytes(writeImage(memory, { luo }))
    const tree = encodeKho({ memoryMap: 0x2000n, subtrees: new Map([['LUO', { address: 0x1000n, size: 32n }]]) })
    const entry = Buffer.concat([
      Buffer.from('00100000000000002000000000000000', 'hex'),
      // CRC-32 of 32 bytes of 0xaa, by another implementation than zlib's.
      Buffer.from(crcOf(Buffer.alloc(32, 0xaa)), 'hex'),
      Buffer.alloc(4),
    ])
    const map = Buffer.concat([Buffer.from(`0100000000000000${crcOf(entry)}00000000`, 'hex'), entry])
    const rest = Buffer.concat([
      Buffer.from('0030000000000000', 'hex'),
      Buffer.from([tree.length, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from('0040000000000000', 'hex'),
      Buffer.from(crcOf(tree), 'hex'),
      Buffer.alloc(20),
    ])
    const header = Buffer.concat([Buffer.from('luod-kho'), Buffer.from(`01000000${crcOf(rest)}`, 'hex'), rest])
    expect(image.length).toBe(4 * PAGE)
    expect(image.subarray(0, PAGE)).toEqual(Buffer.concat([header], PAGE))
    expect(image.subarray(0x1000, 0x2000)).toEqual(Buffer.concat([Buffer.alloc(32, 0xaa)], PAGE))
    expect(image.subarray(0x2000, 0x3000)).toEqual(Buffer.concat([map], PAGE))
    expect(image.subarray(0x3000)).toEqual(Buffer.concat([tree], PAGE))
  })

  test('that was written in part is none', () => {
    const { memory, luo } = sample()
    const { size, pieces } = writeImage(memory, { luo })
    const all = [...pieces]
    for (let written = 0; written < all.length; written++) {
      const image = toBytes({ size, pieces: all.slice(0, written) })
      expect(codeOf(() => readImage(new Bytes(image)))).toBe('LUO_RECORDS')
    }
  })

  test('of another version is LUO_RECORDS_VERSION, of another kind or none LUO_RECORDS', () => {
    const { image } = sample()
    const changed = (at: number, ...bytes: number[]) => {
      const other = Buffer.from(image)
      other.set(bytes, at)
      return () => readImage(new Bytes(other))
    }
    expect(codeOf(changed(8, 2))).toBe('LUO_RECORDS_VERSION')
    expect(codeOf(changed(8, 0))).toBe('LUO_RECORDS_VERSION')
    expect(codeOf(changed(0, 0x4c))).toBe('LUO_RECORDS')
    expect(codeOf(() => readImage(new Bytes(new Uint8Array(0))))).toBe('LUO_RECORDS')
  })

  test('with any bit of what counts changed is refused', () => {
    const { memory, luo, image } = sample()
    for (const { address, bytes } of writeImage(memory, { luo }).pieces) {
      for (let at = 0; at < bytes.length; at += 37) {
        const other = Buffer.from(image)
        const position = Number(address) + at
        other.writeUInt8(other.readUInt8(position) ^ (1 << (at % 8)), position)
        expect(codeOf(() => readImage(new Bytes(other)))).toMatch(/^LUO_RECORDS(_VERSION)?$/)
      }
    }
  })

  test('that is cut off is LUO_RECORDS, also when the file claims its whole size', () => {
    const { image } = sample()
    // Behind it is only what fills the last page.
    const end = image.lastIndexOf('blob-size')
    for (let length = 0; length < end; length += 511) {
      const part = image.subarray(0, length)
      expect(codeOf(() => readImage(new Bytes(part)))).toBe('LUO_RECORDS')
      expect(codeOf(() => readImage(new Bytes(part, image.length)))).toBe('LUO_RECORDS')
    }
  })

  test('over a limit is LUO_RECORDS before its allocations are read', () => {
    const { memory, image } = sample()
    for (const limits of [{ bytes: memory.bytes - 1 }, { allocations: memory.allocations - 1 }]) {
      const reader = new Bytes(image)
      expect(codeOf(() => readImage(reader, limits))).toBe('LUO_RECORDS')
      expect(reader.readBytes).toBeLessThan(1000)
    }
    const { bytes, allocations } = memory
    expect(readImage(new Bytes(image), { bytes, allocations }).memory.bytes).toBe(bytes)
  })
})

describe('the KHO tree', () => {
  const kho = { memoryMap: 0x2000n, subtrees: new Map([['LUO', { address: 2n ** 64n - 1n, size: 32n }]]) }
  const u64 = (value: number) => Uint8Array.of(value, 0, 0, 0, 0, 0, 0, 0)
  const root = (compatible: string, ...more: [string, Uint8Array][]) =>
    fdtNode([['compatible', Buffer.from(compatible)], ...more])

  test('is of these bytes, its u64 little-endian, and read as it was written', () => {
    const names = Buffer.from('compatible\0preserved-memory-map\0preserved-data\0blob-size\0').toString('hex')
    expect(Buffer.from(encodeKho(kho)).toString('hex')).toBe(
      [
        'd00dfeed 000000dd 00000038 000000a4 00000028 00000011 00000010 00000000 00000039 0000006c',
        '0000000000000000 0000000000000000',
        '00000001 00000000 00000003 00000007 00000000 6b686f2d76340000',
        '00000003 00000008 0000000b 0020000000000000 00000001 4c554f00',
        '00000003 00000008 00000020 ffffffffffffffff 00000003 00000008 0000002f 2000000000000000',
        `00000002 00000002 00000009 ${names}`,
      ]
        .join('')
        .replaceAll(' ', ''),
    )
    expect(decodeKho(encodeKho(kho))).toEqual(kho)
  })

  test('of a kernel after a kexec names LUO and what else it handed over', () => {
    expect(decodeKho(readFileSync(new URL('kho-in.bin', GOLDEN)))).toEqual({
      memoryMap: 0x575000n,
      subtrees: new Map([
        ['LUO', { address: 0xd95000n, size: 32n }],
        ['kexec-metadata', { address: 0x57d000n, size: 73n }],
      ]),
    })
  })

  test('goes with a luo_ser, which says nothing any more once its memory is freed', () => {
    const ser = readFileSync(new URL('luo-ser.bin', GOLDEN))
    expect(decodeLuoSer(ser)).toEqual({ liveupdateNumber: 1n, sessions: 0n, flbs: 0xa45000n })
    const freed = readFileSync(new URL('luo-ser-freed.bin', GOLDEN))
    expect(codeOf(() => decodeLuoSer(freed))).toMatch(/^LUO_RECORDS/)
  })

  test('of another version is LUO_RECORDS_VERSION', () => {
    for (const compatible of ['kho-v3\0', 'kho-v5\0', 'kho-v\0', 'kho-v40\0']) {
      expect(codeOf(() => decodeKho(encodeFdt(root(compatible))))).toBe('LUO_RECORDS_VERSION')
    }
  })

  test('may have properties that are not known', () => {
    const tree = root('kho-v4\0', ['preserved-memory-map', u64(1)], ['more', u64(2)])
    tree.children.set(
      'x',
      fdtNode([
        ['preserved-data', u64(3)],
        ['blob-size', u64(4)],
        ['more', u64(5)],
      ]),
    )
    const expected = { memoryMap: 1n, subtrees: new Map([['x', { address: 3n, size: 4n }]]) }
    expect(decodeKho(encodeFdt(tree))).toEqual(expected)
  })

  test('without what must be there is LUO_RECORDS', () => {
    const map: [string, Uint8Array] = ['preserved-memory-map', u64(1)]
    const trees = [
      fdtNode([map]),
      root('kho-v4', map),
      root('', map),
      root(`${'k'.repeat(50)}\0`, map),
      root('linux,dummy\0', map),
      root('kho-v4\0'),
      root('kho-v4\0', ['preserved-memory-map', new Uint8Array(4)]),
      { ...root('kho-v4\0', map), children: new Map([['LUO', fdtNode([['preserved-data', u64(1)]])]]) },
      { ...root('kho-v4\0', map), children: new Map([['LUO', fdtNode([['blob-size', u64(1)]])]]) },
    ]
    for (const tree of trees) expect(codeOf(() => decodeKho(encodeFdt(tree)))).toBe('LUO_RECORDS')
  })

  test('with an address that is no u64 is EINVAL', () => {
    expect(codeOf(() => encodeKho({ ...kho, memoryMap: 2n ** 64n }))).toBe('EINVAL')
  })
})

/** CRC-32 (IEEE 802.3), bit by bit, as little-endian hex. */
function crcOf(bytes: Uint8Array): string {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  }
  const out = Buffer.alloc(4)
  out.writeUInt32LE((crc ^ 0xffffffff) >>> 0)
  return out.toString('hex')
}
