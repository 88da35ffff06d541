/**
 * Bytes that somebody made up or changed, given to every decoder: each ends in a value or in a LuoError, and reads no
 * more than a few times what is there.
 */
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { LuoError } from '../errors.js'
import { decodeFdt, encodeFdt, fdtNode } from './fdt.js'
import { HandoverMemory } from './handover-memory.js'
import { decodeKho, encodeKho, type ImageReader, readImage, writeImage } from './kho.js'
import { decodeLuo, decodeLuoSer, encodeLuo, freeLuo, type ReadableMemory } from './luo.js'
import { decodeMemfd, encodeMemfd, freeMemfd } from './memfd.js'
import { decodeIoctl, IOCTLS } from './uapi.js'

const PAGE = 4096
const RUNS = { numRuns: 300 }

/** The value, or undefined when it is refused as it should be; anything else fails the test. */
function attempt<T>(run: () => T): T | undefined {
  try {
    return run()
  } catch (error) {
    if (error instanceof LuoError && /^LUO_RECORDS(_VERSION)?$/.test(error.code)) return undefined
    throw error
  }
}

/** Numbers that are likely to hurt, in a field of 8 bytes. */
const words = fc.oneof(
  fc.constantFrom(0n, 1n, 2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 2n ** 32n, 2n ** 32n - 1n, 63n, 64n, 52n, 10_000n),
  fc.bigInt({ min: 0n, max: 40n }).map((number) => number * 4096n),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
)
const changes = fc.array(
  fc.record({
    /** A position in what is changed, in parts of 2^32. */
    at: fc.nat(2 ** 32 - 1),
    how: fc.oneof(
      fc.record({ flip: fc.nat(7) }),
      fc.record({ word: words }),
      fc.record({ copyFrom: fc.nat(2 ** 32 - 1), length: fc.integer({ min: 1, max: 200 }) }),
    ),
  }),
  { minLength: 1, maxLength: 4 },
)
type Change = (typeof changes extends fc.Arbitrary<infer T> ? T : never)[number]

function change(bytes: Uint8Array, list: readonly Change[]): Buffer {
  const changed = Buffer.from(bytes)
  const place = (share: number) => Math.floor((share / 2 ** 32) * changed.length)
  for (const { at, how } of list) {
    const position = place(at)
    if ('flip' in how) changed.writeUInt8(changed.readUInt8(position) ^ (1 << how.flip), position)
    else if ('copyFrom' in how) changed.copy(changed, position, place(how.copyFrom), place(how.copyFrom) + how.length)
    else if (changed.length >= 8) changed.writeBigUInt64LE(how.word, Math.min(position & ~7, (changed.length - 8) & ~7))
  }
  return changed
}

/** A memory with 24 pages that are all in use for records. */
function records(): { memory: HandoverMemory; luo: bigint; memfd: bigint } {
  const memory = new HandoverMemory()
  const folios = Array.from({ length: 600 }, (_, index) => {
    return { address: BigInt(index) * 4096n, index: BigInt(index), dirty: true, upToDate: true }
  })
  const memfd = encodeMemfd(memory, { position: 1n, size: 2n, seals: 3, flags: 0, folios })
  const file = (token: number) => ({ compatible: 'memfd-v2', data: memfd, token: String(token) })
  const luo = encodeLuo(memory, {
    liveupdateNumber: 3n,
    sessions: Array.from({ length: 60 }, (_, index) => ({
      name: `session ${index}`,
      files: Array.from({ length: index < 10 ? index * 12 : 0 }, (_, token) => file(token)),
    })),
    flbs: [{ compatible: 'f', data: 1n, count: 2n }],
  })
  return { memory, luo, memfd }
}

/** The same allocations with some bytes of all of them changed; the checksums of an image would be right. */
function changedRecords(list: readonly Change[]): ReturnType<typeof records> {
  const { memory, luo, memfd } = records()
  const entries = [...memory.entries()]
  const all = change(Buffer.concat(entries.map(({ bytes }) => bytes)), list)
  let at = 0
  const changed = entries.map(({ address, bytes }) => {
    at += bytes.length
    return { address, bytes: new Uint8Array(all.subarray(at - bytes.length, at)) }
  })
  return { memory: HandoverMemory.restore(changed), luo, memfd }
}

class Counting implements ReadableMemory {
  bytes = 0
  readonly #memory: HandoverMemory

  constructor(memory: HandoverMemory) {
    this.#memory = memory
  }

  read(address: bigint, length: number): Uint8Array {
    this.bytes += length
    return this.#memory.read(address, length)
  }
}

class Bytes implements ImageReader {
  readonly size: number
  readonly #bytes: Uint8Array
  readBytes = 0

  constructor(bytes: Uint8Array, size = bytes.length) {
    this.#bytes = bytes
    this.size = size
  }

  read(offset: number, length: number): Uint8Array {
    this.readBytes += length
    return new Uint8Array(this.#bytes.subarray(offset, offset + length))
  }
}

describe('changed records', () => {
  test('of LUO are a value or refused, read once, and freed as a whole or not at all', () => {
    let refused = 0
    fc.assert(
      fc.property(changes, (list) => {
        const { memory, luo } = changedRecords(list)
        const counting = new Counting(memory)
        const state = attempt(() => decodeLuo(counting, luo))
        expect(counting.bytes).toBeLessThanOrEqual(2 * memory.bytes)
        const before = memory.allocations
        attempt(() => freeLuo(memory, luo))
        // The folios and the memfd's record stay in any case.
        if (state === undefined) expect(memory.allocations).toBe(before)
        if (state === undefined) refused += 1
      }),
      RUNS,
    )
    expect(refused).toBeGreaterThan(20)
  })

  test('of a memfd are a value or refused, read once, and freed as a whole or not at all', () => {
    fc.assert(
      fc.property(changes, (list) => {
        const { memory, memfd } = records()
        for (const { address, bytes } of [...memory.entries()].slice(0, 5)) memory.write(address, change(bytes, list))
        const counting = new Counting(memory)
        const state = attempt(() => decodeMemfd(counting, memfd))
        expect(counting.bytes).toBeLessThanOrEqual(2 * memory.bytes)
        const before = memory.allocations
        attempt(() => freeMemfd(memory, memfd))
        if (state === undefined) expect(memory.allocations).toBe(before)
      }),
      RUNS,
    )
  })

  test('at any address, and of random pages, are a value or refused', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(words, { maxLength: 512, size: 'large' }), { maxLength: 12 }),
        words,
        (pages, at) => {
          const memory = new HandoverMemory()
          for (const page of pages) {
            const bytes = Buffer.alloc(PAGE)
            page.forEach((word, index) => void bytes.writeBigUInt64LE(word, index * 8))
            memory.allocate(bytes)
          }
          const root = memory.allocate(Buffer.concat([Buffer.from('luo-v5\0\0'), Buffer.from('0'.repeat(24))], 32))
          memory.write(root + 16n, Buffer.from(BigUint64Array.of(0x1000n, 0x2000n).buffer))
          const counting = new Counting(memory)
          for (const address of [root, at]) {
            attempt(() => decodeLuo(counting, address))
            attempt(() => decodeMemfd(counting, address))
            attempt(() => freeLuo(memory, address))
            attempt(() => freeMemfd(memory, address))
          }
          expect(counting.bytes).toBeLessThanOrEqual(8 * memory.bytes + 8 * PAGE)
        },
      ),
      RUNS,
    )
  })
})

describe('random bytes', () => {
  const decoders: [string, (bytes: Uint8Array) => unknown][] = [
    ['a device tree', decodeFdt],
    ['a KHO tree', decodeKho],
    ['luo_ser', decodeLuoSer],
    ['an image', (bytes) => readImage(new Bytes(bytes))],
    ...Object.values(IOCTLS).map((call): [string, (bytes: Uint8Array) => unknown] => [
      `the struct of ${call.name}`,
      (bytes) => decodeIoctl(call, bytes),
    ]),
  ]
  const magic = fc.constantFrom('', 'd00dfeed', '6c756f642d6b686f01000000', '6c756f2d76350000')

  test.each(decoders)('for %s are a value or refused', (_what, decode) => {
    fc.assert(
      fc.property(magic, fc.uint8Array({ maxLength: 500, size: 'max' }), (begin, rest) => {
        attempt(() => decode(Buffer.concat([Buffer.from(begin, 'hex'), rest])))
      }),
      RUNS,
    )
  })
})

describe('a changed device tree', () => {
  const root = fdtNode([['compatible', Buffer.from('kho-v4\0')]])
  for (const name of ['LUO', 'kexec-metadata', 'more']) {
    root.children.set(
      name,
      fdtNode([
        ['preserved-data', new Uint8Array(8)],
        [`of ${name}`, new Uint8Array(13)],
      ]),
    )
  }

  test('is a value or refused, and a value is no larger than its bytes', () => {
    fc.assert(
      fc.property(changes, fc.boolean(), (list, isKho) => {
        const kho = { memoryMap: 1n, subtrees: new Map([['LUO', { address: 1n, size: 32n }]]) }
        const bytes = change(isKho ? encodeKho(kho) : encodeFdt(root), list)
        attempt(() => decodeKho(bytes))
        const tree = attempt(() => decodeFdt(bytes))
        let values = 0
        const count = (node: typeof root): void => {
          for (const value of node.properties.values()) values += value.length
          for (const child of node.children.values()) count(child)
        }
        if (tree) count(tree)
        expect(values).toBeLessThanOrEqual(bytes.length)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('a changed image', () => {
  const { memory, luo } = records()
  const { size, pieces } = writeImage(memory, { luo })
  const image = Buffer.alloc(Number(size))
  for (const piece of pieces) image.set(piece.bytes, Number(piece.address))
  const treeAt = Number(image.readBigUInt64LE(16))
  const mapAt = Number(memory.end)
  const mapBytes = 16 + 24 * memory.allocations

  /** Makes the checksums right again, of the header, the tree and the map. */
  function withChecksums(bytes: Buffer): Buffer {
    const treeBytes = Number(image.readBigUInt64LE(24))
    bytes.writeUInt32LE(crc32(bytes.subarray(mapAt + 16, mapAt + mapBytes)), mapAt + 8)
    bytes.writeUInt32LE(crc32(bytes.subarray(treeAt, treeAt + treeBytes)), 40)
    bytes.writeUInt32LE(crc32(bytes.subarray(16, 64)), 12)
    return bytes
  }

  function readsWithin(bytes: Buffer, claimed = bytes.length): void {
    const reader = new Bytes(bytes, claimed)
    const read = attempt(() => readImage(reader))
    expect(reader.readBytes).toBeLessThanOrEqual(4 * claimed + PAGE)
    if (read) attempt(() => decodeLuo(read.memory, read.luo))
  }

  test('is a value or refused, whatever is changed', () => {
    fc.assert(
      fc.property(changes, (list) => readsWithin(change(image, list))),
      RUNS,
    )
  })

  test('is a value or refused when its checksums are right', () => {
    const parts = fc.constantFrom<[number, number]>([0, 64], [mapAt, mapBytes], [treeAt, 300])
    fc.assert(
      fc.property(parts, changes, ([at, length], list) => {
        const bytes = Buffer.from(image)
        bytes.set(change(bytes.subarray(at, at + length), list), at)
        readsWithin(withChecksums(bytes))
      }),
      { numRuns: 1000 },
    )
  })

  test('is refused when it is cut off, whatever size it claims', () => {
    fc.assert(
      fc.property(fc.nat(treeAt), fc.constantFrom(0, image.length, 2 ** 50), (length, claimed) => {
        const reader = new Bytes(image.subarray(0, length), Math.max(length, claimed))
        expect(attempt(() => readImage(reader))).toBeUndefined()
        expect(reader.readBytes).toBeLessThanOrEqual(4 * image.length)
      }),
      RUNS,
    )
  })

  test('is read no further than its limits, when it lists more than there is', () => {
    for (const [count, length] of [
      [2n ** 64n - 1n, 32n],
      [2n ** 40n, 32n],
      [BigInt(memory.allocations), 2n ** 64n - 1n],
      [BigInt(memory.allocations), 2n ** 40n],
    ] as const) {
      const bytes = Buffer.from(image)
      bytes.writeBigUInt64LE(count, mapAt)
      bytes.writeBigUInt64LE(length, mapAt + 24)
      bytes.writeBigUInt64LE(2n ** 50n, 32)
      const reader = new Bytes(withChecksums(bytes), 2 ** 50)
      expect(attempt(() => readImage(reader))).toBeUndefined()
      expect(reader.readBytes).toBeLessThanOrEqual(2 * PAGE)
    }
  })

  test('is refused when an allocation is listed in the room of another', () => {
    for (const address of [0n, 1n, 0x1000n, 2n ** 60n, 2n ** 64n - 4096n]) {
      const bytes = Buffer.from(image)
      bytes.writeBigUInt64LE(address, mapAt + 16 + 24)
      expect(attempt(() => readImage(new Bytes(withChecksums(bytes))))).toBeUndefined()
    }
  })
})
