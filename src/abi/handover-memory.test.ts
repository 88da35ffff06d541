import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { HandoverMemory } from './handover-memory.js'

const bytes = (length: number, value = 1) => new Uint8Array(length).fill(value)

describe('handover memory', () => {
  test('begins behind the first page, and each allocation on a page', () => {
    const memory = new HandoverMemory()
    expect([1, 4096, 4097, 1].map((length) => memory.allocate(bytes(length)))).toEqual([
      0x1000n,
      0x2000n,
      0x3000n,
      0x5000n,
    ])
    expect([memory.allocations, memory.bytes, memory.end]).toEqual([4, 1 + 4096 + 4097 + 1, 0x6000n])
  })

  test('is a copy of what it was given, and gives copies', () => {
    for (const given of [bytes(10), Buffer.alloc(10, 1)]) {
      const memory = new HandoverMemory()
      const address = memory.allocate(given)
      given.fill(2)
      memory.read(address, 10).fill(3)
      expect(memory.read(address, 10)).toEqual(bytes(10))
      expect(memory.sizeOf(address)).toBe(10)
      const restored = HandoverMemory.restore([{ address, bytes: Buffer.alloc(10, 1) }])
      restored.read(address, 10).fill(3)
      expect(restored.read(address, 10)).toEqual(bytes(10))
    }
  })

  test('is read and written inside of one allocation', () => {
    const memory = new HandoverMemory()
    const address = memory.allocate(bytes(5000))
    memory.write(address + 4998n, bytes(2, 7))
    expect(memory.read(address + 4997n, 3)).toEqual(Uint8Array.from([1, 7, 7]))
  })

  test('answers LUO_RECORDS for what is not in one allocation, and changes nothing', () => {
    const memory = new HandoverMemory()
    const first = memory.allocate(bytes(4096))
    const gone = memory.allocate(bytes(4096))
    const last = memory.allocate(bytes(10))
    memory.free(gone)
    for (const [address, length] of [
      [0n, 1],
      [-1n, 1],
      [first - 1n, 2],
      [first, 4097],
      [first + 4096n, 1],
      [first, -1],
      [gone, 1],
      [last + 9n, 2],
      [last + 4096n, 1],
      [2n ** 64n - 1n, 1],
    ] as const) {
      expect(codeOf(() => memory.read(address, length))).toBe('LUO_RECORDS')
      if (length > 0) expect(codeOf(() => memory.write(address, bytes(length, 9)))).toBe('LUO_RECORDS')
    }
    for (const address of [0n, gone, first + 1n, first + 4096n, last + 10n]) {
      expect(codeOf(() => memory.free(address))).toBe('LUO_RECORDS')
      expect(codeOf(() => memory.sizeOf(address))).toBe('LUO_RECORDS')
    }
    expect(codeOf(() => memory.freeAll(new Set([first, last, gone])))).toBe('LUO_RECORDS')
    expect([memory.read(first, 4096), memory.read(last, 10)]).toEqual([bytes(4096), bytes(10)])
  })

  test('uses the room of a freed allocation again for one of as many pages', () => {
    const memory = new HandoverMemory()
    const [one, three] = [memory.allocate(bytes(1)), memory.allocate(bytes(9000))]
    memory.allocate(bytes(1))
    memory.free(one)
    memory.free(three)
    expect([memory.allocate(bytes(10_000)), memory.allocate(bytes(4000))]).toEqual([three, one])
    expect(memory.end).toBe(0x6000n)
  })

  test('is as new when the last allocation was freed', () => {
    const memory = new HandoverMemory()
    for (const address of [1, 5000, 9000].map((length) => memory.allocate(bytes(length)))) memory.free(address)
    expect([memory.allocations, memory.bytes, memory.end, memory.allocate(bytes(1))]).toEqual([0, 0, 0x1000n, 0x1000n])
  })

  test('has limits, and no allocation without bytes', () => {
    const memory = new HandoverMemory({ bytes: 100, allocations: 2 })
    expect(codeOf(() => memory.allocate(bytes(0)))).toBe('EINVAL')
    expect(codeOf(() => memory.allocate(bytes(101)))).toBe('ENOMEM')
    const address = memory.allocate(bytes(60))
    expect(codeOf(() => memory.allocate(bytes(41)))).toBe('ENOMEM')
    memory.allocate(bytes(40))
    memory.free(address)
    memory.allocate(bytes(1))
    expect(codeOf(() => memory.allocate(bytes(1)))).toBe('ENOMEM')
    expect([memory.allocations, memory.bytes]).toEqual([2, 41])
  })

  test('takes back what a transaction allocated when it throws, and nothing else', () => {
    const memory = new HandoverMemory()
    const kept = memory.transaction((allocate) => allocate(bytes(5)))
    const failing = () =>
      memory.transaction((allocate) => {
        allocate(bytes(1))
        allocate(bytes(9000))
        throw new Error('in the middle')
      })
    expect(failing).toThrow('in the middle')
    expect([memory.allocations, memory.bytes, memory.read(kept, 5)]).toEqual([1, 5, bytes(5)])
  })

  test('holds what was put, after any allocations, writes and frees', () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant('allocate' as const), length: fc.integer({ min: 1, max: 13_000 }) }),
      fc.record({ do: fc.constant('free' as const), which: fc.nat() }),
      fc.record({ do: fc.constant('write' as const), which: fc.nat(), at: fc.nat(), value: fc.nat(255) }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
        const memory = new HandoverMemory()
        const expected = new Map<bigint, Uint8Array>()
        const pick = (which: number) => [...expected][which % Math.max(1, expected.size)]
        for (const each of steps) {
          if (each.do === 'allocate') {
            const content = bytes(each.length, expected.size)
            expected.set(memory.allocate(content), content)
            continue
          }
          const [address, content] = pick(each.which) ?? []
          if (address === undefined || content === undefined) continue
          if (each.do === 'free') {
            memory.free(address)
            expected.delete(address)
          } else {
            const at = each.at % content.length
            memory.write(address + BigInt(at), Uint8Array.of(each.value))
            content[at] = each.value
          }
        }
        const inOrder = [...expected].sort(([a], [b]) => (a < b ? -1 : 1))
        const found = [...memory.entries()]
        expect(found.map(({ address }) => address)).toEqual(inOrder.map(([address]) => address))
        inOrder.forEach(([, content], index) => {
          expect(Buffer.compare(found[index]?.bytes ?? Buffer.alloc(0), content)).toBe(0)
        })
        expect(memory.allocations).toBe(expected.size)
        expect(memory.bytes).toBe(inOrder.reduce((sum, [, content]) => sum + content.length, 0))
      }),
    )
  })
})

describe('restored memory', () => {
  test('is what its list says', () => {
    const memory = HandoverMemory.restore([
      { address: 0x3000n, bytes: bytes(5000) },
      { address: 0x9000n, bytes: bytes(1) },
    ])
    expect([memory.allocations, memory.bytes, memory.end]).toEqual([2, 5001, 0xa000n])
    expect(memory.read(0x3000n, 5000)).toEqual(bytes(5000))
    expect(codeOf(() => memory.read(0x8000n, 1))).toBe('LUO_RECORDS')
    memory.free(0x9000n)
    expect(memory.allocate(bytes(2))).toBe(0x9000n)
  })

  test.each([
    ['in page 0', [0n]],
    ['not on a page', [0x1001n]],
    ['overlapping', [0x1000n, 0x2000n]],
    ['out of order', [0x5000n, 0x1000n]],
    ['twice', [0x1000n, 0x1000n]],
    ['below zero', [-0x1000n]],
    ['too far out', [2n ** 60n]],
  ])('with an allocation %s is LUO_RECORDS', (_what, addresses) => {
    const list = addresses.map((address) => ({ address, bytes: bytes(4097) }))
    expect(codeOf(() => HandoverMemory.restore(list))).toBe('LUO_RECORDS')
  })
})
