import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FileIdentities } from './identity.js'
import { type FakeFile, FakeFiles, Journal } from './testing/fakes.js'

const KEYS = ['one', 'two']

describe('files by identity', () => {
  test.each([true, false])('are what a list would be; an order is known: %s', (ordered) => {
    const step = fc.record({
      add: fc.boolean(),
      key: fc.constantFrom(...KEYS),
      which: fc.nat({ max: 12 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const files = new FakeFiles(new Journal(), { ordered })
        const pool = KEYS.map((key) => Array.from({ length: 13 }, (_, index) => files.open(`${key} ${index}`, key)))
        const all = pool.flat()
        const identities = new FileIdentities<FakeFile, number>(files)
        const list: { file: FakeFile; value: number }[] = []
        for (const [value, { add, key, which }] of steps.entries()) {
          const file = pool[KEYS.indexOf(key)]?.[which] as FakeFile
          const at = list.findIndex((entry) => entry.file === file)
          // By another reference to the same open file.
          if (!add) {
            identities.delete(files.duplicate(file))
            if (at >= 0) list.splice(at, 1)
          } else if (at < 0) {
            identities.add(file, value)
            list.push({ file, value })
          }
          expect(identities.size).toBe(list.length)
          const found = all.map((one) => identities.get(files.duplicate(one)))
          expect(found).toEqual(all.map((one) => list.find((entry) => entry.file === one)?.value))
        }
      }),
      { numRuns: 100 },
    )
  })

  test('are compared with those of the same key only', () => {
    const files = new FakeFiles(new Journal())
    const identities = new FileIdentities<FakeFile, number>(files)
    for (let index = 0; index < 100; index++) identities.add(files.open('file', String(index)), index)
    expect(identities.get(files.open('file', 'other'))).toBeUndefined()
    expect(files.comparisons).toBe(0)
  })

  test('of one key are found, added and deleted with a number of comparisons that grows as the logarithm', () => {
    const COUNT = 100_000
    // A random binary tree is about 3 log2(n) deep: 50.
    const LIMIT = 4 * Math.log2(COUNT)
    const files = new FakeFiles(new Journal())
    const identities = new FileIdentities<FakeFile, number>(files)
    const all = Array.from({ length: COUNT }, () => files.open('file', 'one'))
    let most = 0
    const counted = (run: () => void) => {
      files.comparisons = 0
      run()
      most = Math.max(most, files.comparisons)
    }
    all.forEach((file, index) => {
      counted(() => identities.add(file, index))
    })
    let found = 0
    all.forEach((file, index) => {
      counted(() => {
        found += identities.get(file) === index ? 1 : 0
      })
    })
    expect(found).toBe(COUNT)
    const strangers = Array.from({ length: 1000 }, () => files.open('file', 'one'))
    for (const stranger of strangers) counted(() => expect(identities.get(stranger)).toBeUndefined())
    for (const file of all.slice(1000)) counted(() => identities.delete(file))
    expect(identities.size).toBe(1000)
    expect(all.filter((file) => identities.get(file) !== undefined)).toEqual(all.slice(0, 1000))
    expect(most).toBeGreaterThan(Math.log2(COUNT) - 1)
    expect(most).toBeLessThan(LIMIT)
  })

  test('come and go in the order of comparison with as few comparisons', () => {
    const COUNT = 20_000
    let comparisons = 0
    const numbers = new FileIdentities<number, number>({
      key: () => 'one',
      compare: (a, b) => {
        comparisons += 1
        return a - b
      },
    })
    let most = 0
    const counted = (run: () => void) => {
      comparisons = 0
      run()
      most = Math.max(most, comparisons)
    }
    for (let file = 0; file < COUNT; file++) counted(() => numbers.add(file, file))
    for (let file = 0; file < COUNT; file++) counted(() => expect(numbers.get(file)).toBe(file))
    for (let file = 0; file < COUNT; file++) counted(() => numbers.delete(file))
    expect(numbers.size).toBe(0)
    expect(most).toBeLessThan(4 * Math.log2(COUNT))
  })

  test('stay as they are when they cannot be compared', () => {
    let broken = false
    const numbers = new FileIdentities<number, string>({
      key: () => 'one',
      compare: (a, b) => {
        if (broken) throw new Error('they cannot be compared')
        return a - b
      },
    })
    for (const file of [5, 2, 8, 1, 9]) numbers.add(file, String(file))
    broken = true
    expect(() => numbers.add(4, '4')).toThrow('they cannot be compared')
    expect(() => numbers.delete(2)).toThrow('they cannot be compared')
    broken = false
    expect([1, 2, 4, 5, 8, 9].map((file) => numbers.get(file))).toEqual(['1', '2', undefined, '5', '8', '9'])
    expect(numbers.size).toBe(5)
  })
})
