import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { Listing } from './listing.js'

test('pages of any sizes are together what the map has, in its order', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.nat(500)),
      fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }),
      (keys, sizes) => {
        const values = new Map(keys.map((key) => [key, `value ${key}`]))
        const listing = new Listing(values, 20)
        const seen: string[] = []
        for (let turn = 0; seen.length < values.size; turn++) {
          seen.push(...listing.page({ offset: seen.length, limit: sizes[turn % sizes.length] ?? 1 }))
        }
        expect(seen).toEqual([...values.values()])
        expect(listing.page({ offset: values.size })).toEqual([])
      },
    ),
  )
})

test('the map is walked through once between two changes, however many pages are asked for', () => {
  let walks = 0
  class Counted extends Map<number, number> {
    override values() {
      walks += 1
      return super.values()
    }
  }
  const values = new Counted(Array.from({ length: 1_000 }, (_, index) => [index, index]))
  const listing = new Listing(values, 10)
  for (let offset = 0; offset < 1_000; offset += 10) listing.page({ offset })
  expect(walks).toBe(1)
  values.delete(0)
  listing.changed()
  expect(listing.page({ limit: 1 })).toEqual([1])
  expect(walks).toBe(2)
})

test.each([{ offset: -1 }, { limit: 0 }, { limit: -1 }, { limit: 11 }])('%j is no page', (request) => {
  const attempt = () => new Listing(new Map([[1, 1]]), 10).page(request)
  expect(attempt).toThrow()
  try {
    attempt()
  } catch (error) {
    expect(isLuoError(error, 'LUO_INVALID_PARAMETER')).toBe(true)
  }
})
