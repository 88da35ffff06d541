import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { Usage } from './usage.js'
import { LIMIT_NAMES, type LimitName, userLimits } from './user-limits.js'

const LIMITS = userLimits({ files: 10 }, { nofile: 4_096, shared: true, memory: 1_000 })

test('the limit itself can be reached and not passed, by each user alone', () => {
  const usage = new Usage(LIMITS)
  usage.change(1, 'files', 9)
  usage.check(1, 'files', 1, 'preserve')
  const refused = () => usage.check(1, 'files', 2, 'preserve 2 files')
  expect(refused).toThrow(/preserve 2 files: uid 1 has 9 of 10 files.*--limit files=N/)
  try {
    refused()
  } catch (error) {
    expect(isLuoError(error, 'LUO_LIMIT') && error.params).toEqual({ limit: 'files' })
  }
  usage.check(2, 'files', 10, 'preserve')
  expect(usage.of(1).files).toBe(9)
})

test('whoever has nothing any more is forgotten', () => {
  const usage = new Usage(LIMITS)
  usage.change(1, 'files', 2)
  usage.change(1, 'bytes', 100)
  usage.change(1, 'files', -2)
  expect([...usage.users()]).toEqual([1])
  usage.change(1, 'bytes', -100)
  expect([...usage.users()]).toEqual([])
})

test('after any changes the counts are their sums, and the total is the sum of the users', () => {
  const change = fc.tuple(fc.integer({ min: 0, max: 3 }), fc.constantFrom(...LIMIT_NAMES), fc.nat(50), fc.boolean())
  fc.assert(
    fc.property(fc.array(change), (changes) => {
      const usage = new Usage(LIMITS)
      const expected = new Map<string, number>()
      for (const [uid, what, amount, goes] of changes) {
        const key = `${uid} ${what}`
        const has = expected.get(key) ?? 0
        const by = goes ? -Math.min(amount, has) : amount
        usage.change(uid, what, by)
        expected.set(key, has + by)
      }
      const sum = (what: LimitName) => [0, 1, 2, 3].reduce((all, uid) => all + (expected.get(`${uid} ${what}`) ?? 0), 0)
      for (const what of LIMIT_NAMES) {
        for (const uid of [0, 1, 2, 3]) expect(usage.of(uid)[what]).toBe(expected.get(`${uid} ${what}`) ?? 0)
        expect(usage.total[what]).toBe(sum(what))
      }
    }),
  )
})
