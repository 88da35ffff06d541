import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { tokenText } from './token.js'

test('a token is one u64, however it is written', () => {
  expect([0, 7n, '7', 2n ** 64n - 1n, Number.MAX_SAFE_INTEGER].map(tokenText)).toEqual([
    '0',
    '7',
    '7',
    '18446744073709551615',
    '9007199254740991',
  ])
})

test.each([-1, 1.5, Number.NaN, 2 ** 53, -1n, 2n ** 64n, '', '07', '1e3', '0x7', ' 7', '7\n'])(
  '%s is none',
  (token) => {
    try {
      tokenText(token)
    } catch (error) {
      expect(isLuoError(error, 'EINVAL')).toBe(true)
      return
    }
    throw new Error('it was taken')
  },
)
