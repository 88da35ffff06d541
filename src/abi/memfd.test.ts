import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { HandoverMemory } from './handover-memory.js'
import { decodeMemfd, encodeMemfd, freeMemfd, MEMFD_COMPATIBLE, type MemfdState } from './memfd.js'

const PAGE = 4096
const MAX_U64 = 2n ** 64n - 1n

const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes.toString('hex')
}
const page = (...hex: string[]) => Buffer.from(hex.join('').padEnd(PAGE * 2, '0'), 'hex')
const folio = (index: number) => ({ address: BigInt(index) * 4096n, index: BigInt(index), dirty: true, upToDate: true })
const state = (folios: MemfdState['folios'] = []): MemfdState => ({
  position: 0n,
  size: 0n,
  seals: 0,
  flags: 0,
  folios,
})

describe('the bytes of memfd-v2', () => {
  test('are 48 of zeros for an empty file', () => {
    const memory = new HandoverMemory()
    expect(MEMFD_COMPATIBLE).toBe('memfd-v2')
    expect(Buffer.from(memory.read(encodeMemfd(memory, state()), 48)).toString('hex')).toBe('00'.repeat(48))
    expect(memory.allocations).toBe(1)
  })

  test('are the record, a chunk and the folios', () => {
    const memory = new HandoverMemory()
    const address = encodeMemfd(memory, {
      position: 0x0102n,
      size: 0x2001n,
      seals: 0x0e,
      flags: 1,
      folios: [
        { address: 0x123456789000n, index: 0n, dirty: true, upToDate: false },
        { address: 0xfffffffffffff000n, index: 2n, dirty: false, upToDate: true },
      ],
    })
    expect(Buffer.from(memory.read(0x1000n, PAGE))).toEqual(
      page('8967452301001000', '0000000000000000', 'ffffffffffff2f00', '0200000000000000'),
    )
    expect(Buffer.from(memory.read(0x2000n, PAGE))).toEqual(page('0000000000000000', '0010000000000000'))
    expect(Buffer.from(memory.read(address, 48)).toString('hex')).toBe(
      ['0201000000000000', '0120000000000000', '0e000000', '01000000', '0200000000000000'].join('') +
        ['0020000000000000', '01000000', '0100', '0000'].join(''),
    )
  })

  test('are a second chunk after 511 pages of folios', () => {
    const memory = new HandoverMemory()
    const folios = Array.from({ length: 511 * 256 + 1 }, (_, index) => folio(index))
    const address = encodeMemfd(memory, state(folios))
    expect(memory.allocations).toBe(1 + 2 + 512)
    expect(decodeMemfd(memory, address).folios).toEqual(folios)
    freeMemfd(memory, address)
    expect(memory.allocations).toBe(0)
  })
})

test('a memfd is read as it was written, and freed without its folios', () => {
  const u64s = fc.bigInt({ min: 0n, max: MAX_U64 })
  const u32s = fc.nat(2 ** 32 - 1)
  const folios = fc.array(
    fc.record({
      address: fc.bigInt({ min: 0n, max: 2n ** 52n - 1n }).map((number) => number * 4096n),
      index: u64s,
      dirty: fc.boolean(),
      upToDate: fc.boolean(),
    }),
    { maxLength: 600, size: 'large' },
  )
  fc.assert(
    fc.property(fc.record({ position: u64s, size: u64s, seals: u32s, flags: u32s, folios }), (written) => {
      const memory = new HandoverMemory()
      memory.allocate(Buffer.from('a folio'))
      const address = encodeMemfd(memory, written)
      expect(decodeMemfd(memory, address)).toEqual(written)
      freeMemfd(memory, address)
      expect(memory.allocations).toBe(1)
    }),
  )
})

test.each([
  ['a folio that does not start on a page', state([{ ...folio(1), address: 1n }])],
  ['a folio above u64', state([{ ...folio(1), address: 2n ** 64n }])],
  ['an index above u64', state([{ ...folio(1), index: 2n ** 64n }])],
  ['a position below zero', { ...state([folio(1)]), position: -1n }],
  ['a size above u64', { ...state([folio(1)]), size: 2n ** 64n }],
  ['seals above u32', { ...state([folio(1)]), seals: 2 ** 32 }],
  ['flags below zero', { ...state([folio(1)]), flags: -1 }],
])('%s is EINVAL, and nothing is left behind', (_what, refused) => {
  const memory = new HandoverMemory()
  expect(codeOf(() => encodeMemfd(memory, refused))).toBe('EINVAL')
  expect(memory.allocations).toBe(0)
})

describe('damage', () => {
  const record = (folios: bigint, chunk: bigint, pages: number) =>
    `${'00'.repeat(24)}${u64(folios)}${u64(chunk)}${Buffer.from(Uint32Array.of(pages).buffer).toString('hex')}01000000`
  const list = page(u64(5n), u64(0n))

  test.each<[string, Buffer[], string]>([
    ['more folios than there is room', [page(u64(0n), u64(0x2000n)), list], record(257n, 0x1000n, 1)],
    ['2^64 - 1 folios', [page(u64(0n), u64(0x2000n)), list], record(MAX_U64, 0x1000n, 1)],
    ['folios, and no list', [], record(1n, 0n, 0)],
    ['more pages than are counted', [page(u64(0n), u64(0x2000n)), list], record(1n, 0x1000n, 0)],
    ['fewer pages than are counted', [page(u64(0n), u64(0x2000n)), list], record(1n, 0x1000n, 2 ** 32 - 1)],
    ['a chunk that is its own next', [page(u64(0x1000n), u64(0x2000n)), list], record(1n, 0x1000n, 1)],
    ['empty chunks in a loop', [page(u64(0x2000n)), page(u64(0x1000n))], record(0n, 0x1000n, 0)],
    ['a page twice', [page(u64(0n), u64(0x2000n), u64(0x2000n)), list], record(300n, 0x1000n, 2)],
    ['a chunk as a page of itself', [page(u64(0n), u64(0x1000n))], record(1n, 0x1000n, 1)],
    ['a chunk that is not there', [], record(1n, 0x9000n, 1)],
    ['a page that is not there', [page(u64(0n), u64(0x9000n))], record(1n, 0x1000n, 1)],
    ['a page that does not start as one', [page(u64(0n), u64(0x2008n)), list], record(1n, 0x1000n, 1)],
  ])('%s is LUO_RECORDS, and nothing is freed', (_what, pages, bytes) => {
    const memory = new HandoverMemory()
    for (const each of pages) memory.allocate(each)
    const address = memory.allocate(Buffer.from(bytes, 'hex'))
    expect(codeOf(() => decodeMemfd(memory, address))).toBe('LUO_RECORDS')
    expect(codeOf(() => freeMemfd(memory, address))).toBe('LUO_RECORDS')
    expect(memory.allocations).toBe(pages.length + 1)
  })
})
