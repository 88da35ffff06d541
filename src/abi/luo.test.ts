import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { HandoverMemory } from './handover-memory.js'
import {
  decodeLuo,
  decodeLuoSer,
  encodeLuo,
  freeLuo,
  type LuoFile,
  type LuoSession,
  type LuoState,
  MAX_FILES_PER_SESSION,
  MAX_FLBS,
  MAX_SESSIONS,
} from './luo.js'

const PAGE = 4096
const MAX_U64 = 2n ** 64n - 1n

/** `text` in a field of this many bytes, as hex. */
const field = (text: string, bytes: number) =>
  Buffer.from(text)
    .toString('hex')
    .padEnd(bytes * 2, '0')
const page = (...hex: string[]) => Buffer.from(hex.join('').padEnd(PAGE * 2, '0'), 'hex')
const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes.toString('hex')
}

const file = (token: bigint, data = 0n, compatible = 'memfd-v2'): LuoFile => ({
  compatible,
  data,
  token: String(token),
})
const state = (sessions: LuoSession[] = [], more: Partial<LuoState> = {}): LuoState => ({
  liveupdateNumber: 1n,
  sessions,
  flbs: [],
  ...more,
})

/** A memory with these pages from address 0x1000 on, and after them a luo_ser; answers its address too. */
function handWritten(pages: Buffer[], root: string): { memory: HandoverMemory; luo: bigint } {
  const memory = new HandoverMemory()
  for (const bytes of pages) memory.allocate(bytes)
  return { memory, luo: memory.allocate(Buffer.from(root, 'hex')) }
}

const root = (sessions: bigint, flbs = 0n, number = '0100000000000000') =>
  `6c756f2d76350000${number}${u64(sessions)}${u64(flbs)}`

describe('the bytes of luo-v5', () => {
  test('are luo_ser alone when there is nothing to hand over', () => {
    const memory = new HandoverMemory()
    const luo = encodeLuo(memory, state([], { liveupdateNumber: 0x0102n }))
    expect(Buffer.from(memory.read(luo, 32)).toString('hex')).toBe(
      '6c756f2d76350000' + '0201000000000000' + '0000000000000000' + '0000000000000000',
    )
    expect(memory.allocations).toBe(1)
  })

  test('are a block of sessions, a block of files and a page of FLBs', () => {
    const memory = new HandoverMemory()
    const luo = encodeLuo(
      memory,
      state([{ name: 'web', files: [file(MAX_U64, 0x1122334455667788n)] }], {
        flbs: [{ compatible: 'iommu-v1', data: 0xabn, count: 2n }],
      }),
    )
    const [files, sessions, flbs] = [0x1000n, 0x2000n, 0x3000n]
    expect(Buffer.from(memory.read(files, PAGE))).toEqual(
      page('0000000000000000', '0100000000000000', field('memfd-v2', 48), '8877665544332211', 'ffffffffffffffff'),
    )
    expect(Buffer.from(memory.read(sessions, PAGE))).toEqual(
      page('0000000000000000', '0100000000000000', field('web', 64), '0010000000000000', '0100000000000000'),
    )
    expect(Buffer.from(memory.read(flbs, PAGE))).toEqual(
      page('0100000000000000', '0100000000000000', field('iommu-v1', 48), 'ab00000000000000', '0200000000000000'),
    )
    expect(Buffer.from(memory.read(luo, 32)).toString('hex')).toBe(root(sessions, flbs))
  })

  test('are a second block after 63 files and after 51 sessions', () => {
    const memory = new HandoverMemory()
    const files = Array.from({ length: 64 }, (_, index) => file(BigInt(index)))
    const sessions = Array.from({ length: 52 }, (_, index) => ({ name: `s${index}`, files: index === 0 ? files : [] }))
    const luo = encodeLuo(memory, state(sessions))
    expect(memory.allocations).toBe(5)
    const { sessions: first } = decodeLuoSer(memory.read(luo, 32))
    const block = Buffer.from(memory.read(first, PAGE))
    expect(block.readBigUInt64LE(8)).toBe(51n)
    const second = Buffer.from(memory.read(block.readBigUInt64LE(0), PAGE))
    expect([second.readBigUInt64LE(0), second.readBigUInt64LE(8)]).toEqual([0n, 1n])
    expect(second.subarray(16, 20).toString()).toBe('s51\0')
    const firstFiles = Buffer.from(memory.read(block.readBigUInt64LE(16 + 64), PAGE))
    expect([block.readBigUInt64LE(16 + 72), firstFiles.readBigUInt64LE(8)]).toEqual([64n, 63n])
  })

  test('written by hand are read', () => {
    const { memory, luo } = handWritten(
      [
        page(u64(0x2000n), u64(1n), field('a', 64), u64(0x3000n), u64(2n)),
        page(u64(0n), u64(1n), field('b', 64), u64(0n), u64(0n)),
        page(u64(0x4000n), u64(1n), field('x', 48), u64(7n), u64(1n)),
        page(u64(0n), u64(1n), field('y', 48), u64(8n), u64(0n)),
      ],
      root(0x1000n),
    )
    expect(decodeLuo(memory, luo)).toEqual(
      state([
        { name: 'a', files: [file(1n, 7n, 'x'), file(0n, 8n, 'y')] },
        { name: 'b', files: [] },
      ]),
    )
  })
})

const names = (bytes: number) =>
  fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }).filter((name) => {
    return Buffer.byteLength(name) < bytes && !name.includes('\0')
  })
const u64s = fc.bigInt({ min: 0n, max: MAX_U64 })
/** More than one block now and then. */
const fileLists = (maxLength: number) =>
  fc.uniqueArray(
    fc.record({ compatible: fc.constantFrom('memfd-v2', 'é', '\udcff'), data: u64s, token: u64s.map(String) }),
    {
      selector: ({ token }) => token,
      maxLength,
      size: 'max',
    },
  )
const states: fc.Arbitrary<LuoState> = fc.record({
  liveupdateNumber: u64s,
  sessions: fc.uniqueArray(
    fc.record({
      name: names(64),
      files: fc.oneof({ arbitrary: fileLists(4), weight: 20 }, { arbitrary: fileLists(150), weight: 1 }),
    }),
    { selector: ({ name }) => name, maxLength: 120, size: 'large' },
  ),
  flbs: fc.uniqueArray(fc.record({ compatible: names(48), data: u64s, count: u64s }), {
    selector: ({ compatible }) => compatible,
    maxLength: MAX_FLBS,
    size: 'max',
  }),
})

describe('a state', () => {
  test('is read as it was written, and freed without a trace', () => {
    fc.assert(
      fc.property(states, (written) => {
        const memory = new HandoverMemory()
        memory.allocate(Buffer.from('of somebody else'))
        const luo = encodeLuo(memory, written)
        expect(decodeLuo(memory, luo)).toEqual(written)
        freeLuo(memory, luo)
        expect([memory.allocations, memory.bytes]).toEqual([1, 16])
        expect(codeOf(() => decodeLuo(memory, luo))).toBe('LUO_RECORDS')
      }),
      { numRuns: 40 },
    )
  })

  test('of 100,000 files in one of 5,000 sessions is read as it was written', () => {
    const files = Array.from({ length: 100_000 }, (_, index) => file(BigInt(index), BigInt(index) * 3n))
    const sessions = Array.from({ length: 5_000 }, (_, index) => ({
      name: `session ${index}`,
      files: index === 4_000 ? files : [file(1n)],
    }))
    const memory = new HandoverMemory()
    const luo = encodeLuo(memory, state(sessions))
    expect(decodeLuo(memory, luo)).toEqual(state(sessions))
    freeLuo(memory, luo)
    expect(memory.allocations).toBe(0)
  })

  test.each([
    ['EINVAL', 'no session name', state([{ name: '', files: [] }])],
    ['EINVAL', 'a session name of 64 bytes', state([{ name: 'x'.repeat(64), files: [] }])],
    ['EINVAL', 'a NUL in a name', state([{ name: 'a\0b', files: [] }])],
    ['EINVAL', 'a compatible of 48 bytes', state([{ name: 'a', files: [file(1n, 0n, 'x'.repeat(48))] }])],
    ['EINVAL', 'no compatible', state([{ name: 'a', files: [file(1n, 0n, '')] }])],
    ['EINVAL', 'a token above u64', state([{ name: 'a', files: [file(MAX_U64 + 1n)] }])],
    ['EINVAL', 'a token in another writing', state([{ name: 'a', files: [{ ...file(1n), token: '01' }] }])],
    ['EINVAL', 'data below u64', state([{ name: 'a', files: [file(1n, -1n)] }])],
    ['EINVAL', 'a number above u64', state([], { liveupdateNumber: MAX_U64 + 1n })],
    ['EINVAL', 'an FLB count below u64', state([], { flbs: [{ compatible: 'a', data: 0n, count: -1n }] })],
    ['EEXIST', 'a session twice', state(['a', 'b', 'a'].map((name) => ({ name, files: [file(1n)] })))],
    ['EEXIST', 'a token twice', state([{ name: 'a', files: [file(1n), file(2n), file(1n)] }])],
    [
      'EEXIST',
      'an FLB twice',
      state([], { flbs: ['a', 'a'].map((compatible) => ({ compatible, data: 0n, count: 1n })) }),
    ],
    ['ENOSPC', 'too many sessions', state(new Array(MAX_SESSIONS + 1))],
    ['ENOSPC', 'too many files', state([{ name: 'a', files: new Array(MAX_FILES_PER_SESSION + 1) }])],
    ['ENOSPC', 'too many FLBs', state([], { flbs: new Array(MAX_FLBS + 1) })],
  ])('is refused with %s for %s, and nothing is left of it', (code, _what, refused) => {
    const memory = new HandoverMemory()
    expect(codeOf(() => encodeLuo(memory, refused))).toBe(code)
    expect([memory.allocations, memory.bytes]).toEqual([0, 0])
  })

  test('may have as many files, sessions and FLBs as the kernel records', () => {
    expect([MAX_FILES_PER_SESSION, MAX_SESSIONS, MAX_FLBS]).toEqual([630_000, 510_000, 63])
  })

  test('that finds no more memory in the middle leaves nothing behind', () => {
    const sessions = Array.from({ length: 60 }, (_, index) => ({ name: `${index}`, files: [file(1n)] }))
    for (let allocations = 1; allocations <= 62; allocations++) {
      const memory = new HandoverMemory({ allocations })
      expect(codeOf(() => encodeLuo(memory, state(sessions)))).toBe('ENOMEM')
      expect(memory.allocations).toBe(0)
    }
    expect(codeOf(() => encodeLuo(new HandoverMemory({ allocations: 63 }), state(sessions)))).toBeUndefined()
  })
})

describe('damage', () => {
  const session = (files: bigint, count: bigint, name = 'a') => field(name, 64) + u64(files) + u64(count)
  const one = (entry: string, next = 0n) => page(u64(next), u64(1n), entry)
  const fileEntry = (token: bigint, compatible = 'm') => field(compatible, 48) + u64(0n) + u64(token)

  test.each<[string, Buffer[], string]>([
    ['a session block that counts 52', [page(u64(0n), u64(52n))], root(0x1000n)],
    ['a session block that counts 2^64 - 1', [page(u64(0n), u64(MAX_U64))], root(0x1000n)],
    ['a file block that counts 64', [one(session(0x2000n, 64n)), page(u64(0n), u64(64n))], root(0x1000n)],
    ['more files than the session counts', [one(session(0x2000n, 0n)), one(fileEntry(1n))], root(0x1000n)],
    ['fewer files than the session counts', [one(session(0x2000n, 2n)), one(fileEntry(1n))], root(0x1000n)],
    ['files, and no address of them', [one(session(0n, 1n))], root(0x1000n)],
    ['a block that is its own next', [one(session(0n, 0n), 0x1000n)], root(0x1000n)],
    ['empty blocks in a loop', [page(u64(0x2000n)), page(u64(0x1000n))], root(0x1000n)],
    ['files in the block of sessions', [one(session(0x1000n, 1n))], root(0x1000n)],
    [
      'two sessions with the same block of files',
      [page(u64(0n), u64(2n), session(0x2000n, 1n), session(0x2000n, 1n, 'b')), one(fileEntry(1n))],
      root(0x1000n),
    ],
    ['a block that is not there', [], root(0x7000n)],
    ['a block that does not start on a page', [one(session(0n, 0n))], root(0x1008n)],
    ['a name without an end', [one(session(0n, 0n, 'x'.repeat(64)))], root(0x1000n)],
    ['an empty name', [one(session(0n, 0n, ''))], root(0x1000n)],
    ['a name twice', [page(u64(0n), u64(2n), session(0n, 0n), session(0n, 0n))], root(0x1000n)],
    ['a compatible without an end', [one(session(0x2000n, 1n)), one(fileEntry(1n, 'x'.repeat(48)))], root(0x1000n)],
    ['an empty compatible', [one(session(0x2000n, 1n)), one(fileEntry(1n, ''))], root(0x1000n)],
    ['a token twice', [one(session(0x2000n, 2n)), page(u64(0n), u64(2n), fileEntry(5n), fileEntry(5n))], root(0x1000n)],
    ['FLBs in no pages', [page(u64(0n), u64(1n), fileEntry(1n))], root(0n, 0x1000n)],
    ['64 FLBs in one page', [page(u64(1n), u64(64n))], root(0n, 0x1000n)],
    ['2^64 - 1 FLBs in as many pages', [page(u64(MAX_U64), u64(MAX_U64))], root(0n, 0x1000n)],
    ['an FLB twice', [page(u64(1n), u64(2n), fileEntry(1n), fileEntry(1n))], root(0n, 0x1000n)],
    ['FLBs in the block of sessions', [one(session(0n, 0n))], root(0x1000n, 0x1000n)],
    ['no version', [], '00'.repeat(32)],
    ['a version without an end', [], 'ff'.repeat(32)],
  ])('%s is LUO_RECORDS, and nothing is freed', (_what, pages, bytes) => {
    const { memory, luo } = handWritten(pages, bytes)
    const before = Buffer.concat([...memory.entries()].map((each) => each.bytes))
    expect(codeOf(() => decodeLuo(memory, luo))).toBe('LUO_RECORDS')
    expect(codeOf(() => freeLuo(memory, luo))).toBe('LUO_RECORDS')
    expect(Buffer.concat([...memory.entries()].map((each) => each.bytes))).toEqual(before)
  })

  test('a chain of 10,001 blocks is LUO_RECORDS, one of 10,000 is not', () => {
    const memory = new HandoverMemory()
    let next = 0n
    for (let block = 0; block < 10_000; block++) next = memory.allocate(page(u64(next)))
    const good = memory.allocate(Buffer.from(root(next), 'hex'))
    expect(decodeLuo(memory, good).sessions).toEqual([])
    const bad = memory.allocate(Buffer.from(root(memory.allocate(page(u64(next)))), 'hex'))
    expect(codeOf(() => decodeLuo(memory, bad))).toBe('LUO_RECORDS')
  })

  test('a block that does not start on a page is LUO_RECORDS, even where there is one', () => {
    const memory = new HandoverMemory()
    memory.allocate(Buffer.concat([Buffer.alloc(8), page(), page()]))
    const luo = memory.allocate(Buffer.from(root(0x1008n), 'hex'))
    expect(codeOf(() => decodeLuo(memory, luo))).toBe('LUO_RECORDS')
    memory.write(luo, Buffer.from(root(0x2000n), 'hex'))
    expect(codeOf(() => decodeLuo(memory, luo))).toBeUndefined()
  })

  test('records in a part of a larger allocation are read, and not freed', () => {
    const memory = new HandoverMemory()
    memory.allocate(Buffer.concat([page(), one(session(0n, 0n))]))
    const luo = memory.allocate(Buffer.from(root(0x2000n), 'hex'))
    expect(decodeLuo(memory, luo).sessions).toEqual([{ name: 'a', files: [] }])
    expect(codeOf(() => freeLuo(memory, luo))).toBe('LUO_RECORDS')
    expect(memory.allocations).toBe(2)
  })
})

describe('luo_ser alone', () => {
  const bytes = Buffer.from(root(0x5000n, 0x6000n, '0300000000000000'), 'hex')

  test('is the number and two addresses', () => {
    expect(decodeLuoSer(bytes)).toEqual({ liveupdateNumber: 3n, sessions: 0x5000n, flbs: 0x6000n })
  })

  test('of any other version is LUO_RECORDS_VERSION', () => {
    for (const version of ['luo-v4', 'luo-v6', 'luo-v50', 'luo-v', 'x', 'LUO-v5']) {
      const other = Buffer.from(field(version, 8) + '00'.repeat(24), 'hex')
      expect(
        codeOf(() => decodeLuoSer(other)),
        version,
      ).toBe('LUO_RECORDS_VERSION')
    }
  })

  test('of another size is LUO_RECORDS', () => {
    for (const length of [0, 8, 31]) expect(codeOf(() => decodeLuoSer(bytes.subarray(0, length)))).toBe('LUO_RECORDS')
    expect(codeOf(() => decodeLuoSer(Buffer.concat([bytes, Buffer.alloc(1)])))).toBe('LUO_RECORDS')
  })
})
