import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { checkName, checkToken, MAX_NAME_BYTES } from './names.js'

describe('a name', () => {
  test.each(['a', ' ', 'web/1', 'é€😀', 'x'.repeat(MAX_NAME_BYTES), 'é'.repeat(31)])('is good: %j', (name) => {
    expect(checkName(name)).toBe(name)
  })

  test.each(['', '\0', 'a\0b', 'x'.repeat(MAX_NAME_BYTES + 1), 'é'.repeat(32), '😀'.repeat(16)])(
    'is EINVAL: %j',
    (name) => {
      expect(codeOf(() => checkName(name))).toBe('EINVAL')
    },
  )
})

describe('a token', () => {
  test.each(['0', '1', '10', '9007199254740993', '9999999999999999999', '18446744073709551615'])(
    'is good: %s',
    (token) => {
      expect(checkToken(token)).toBe(token)
    },
  )

  test.each(['', ' ', '-1', '+1', '01', '00', '1.0', '1e3', '0x10', '1 ', ' 1', '1\n', '١', '18446744073709551616'])(
    'is EINVAL: %j',
    (token) => {
      expect(codeOf(() => checkToken(token))).toBe('EINVAL')
    },
  )

  test('is EINVAL when it is long without end', () => {
    expect(codeOf(() => checkToken('9'.repeat(1_000_000)))).toBe('EINVAL')
  })
})
