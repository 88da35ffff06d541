import { beforeAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, type Fd } from './fd.js'
import { nofileLimit, raiseNofile } from './limits.js'
import { createMemfd } from './memfd.js'

let openAtStart: number

beforeAll(() => {
  openAtStart = countOpenFds()
})

describe('the limit on open files', () => {
  test('is read without changing it', () => {
    const limit = nofileLimit()
    expect(limit.soft).toBeGreaterThan(0)
    expect(limit.soft).toBeLessThanOrEqual(limit.hard)
    expect(nofileLimit()).toEqual(limit)
  })

  test('is lowered to what is asked for, and raised to what is allowed', () => {
    const { soft, hard } = nofileLimit()
    try {
      expect(raiseNofile(100)).toEqual({ soft: 100, hard })
      expect(nofileLimit()).toEqual({ soft: 100, hard })
      expect(raiseNofile()).toEqual({ soft: hard, hard })
    } finally {
      raiseNofile(soft)
    }
    expect(nofileLimit()).toEqual({ soft, hard })
  })

  test('cannot be raised above the hard limit', () => {
    const before = nofileLimit()
    expect(codeOf(() => raiseNofile(before.hard + 1))).toBe('EINVAL')
    expect(nofileLimit()).toEqual(before)
  })

  // 2 ** 64 would be none at all, cut to 64 bits.
  test.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 64])('is not set to %s', (soft) => {
    const before = nofileLimit()
    try {
      expect(codeOf(() => raiseNofile(soft))).toBe('EINVAL')
      expect(nofileLimit()).toEqual(before)
    } finally {
      raiseNofile(before.soft)
    }
  })

  test('is EMFILE when it is reached, and costs nothing that was open', () => {
    const { soft } = nofileLimit()
    const held: Fd[] = []
    try {
      raiseNofile(countOpenFds() + 10)
      const open = () => {
        for (;;) held.push(createMemfd('one more'))
      }
      expect(codeOf(open)).toBe('EMFILE')
      expect(codeOf(() => held[0]?.dup())).toBe('EMFILE')
    } finally {
      raiseNofile(soft)
    }
    expect(countOpenFds()).toBe(openAtStart + held.length)
    held.push(createMemfd('now there is room'))
    closeAll(held)
  })
})

test('no descriptor is left open', () => {
  expect(countOpenFds()).toBe(openAtStart)
})
