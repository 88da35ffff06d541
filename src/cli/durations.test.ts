import { describe, expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { formatDuration, parseDuration } from './durations.js'

describe('parseDuration', () => {
  test.each([
    ['500ms', 500],
    ['10s', 10_000],
    ['1.5s', 1500],
    ['2m', 120_000],
    ['1h', 3_600_000],
    [' 3s ', 3000],
  ])('%s is %d ms', (text, ms) => expect(parseDuration(text, '--keep')).toBe(ms))

  test.each(['10', '', 's', '-1s', '1 s', '1d', '0s', '0.1ms', '1e3s', '999h', 'NaNs', '١s'])(
    '"%s" is refused',
    (text) => {
      expect(() => parseDuration(text, '--keep')).toThrow(
        expect.toSatisfy(
          (e: unknown) => isLuoError(e, 'LUO_INVALID_PARAMETER') && e.message.startsWith(`--keep "${text}": `),
        ),
      )
    },
  )
})

test.each([
  [0, '0.00 ms'],
  [0.424, '0.42 ms'],
  [4.12, '4.1 ms'],
  [99.96, '100 ms'],
  [120.4, '120 ms'],
  [999.6, '1.0 s'],
  [3210, '3.2 s'],
  [60_000, '1 min'],
  [125_000, '2 min 5 s'],
  [3_900_000, '1 h 5 min'],
  [-2, '-2.0 ms'],
  [Number.NaN, '-'],
])('%d ms reads as %s', (ms, text) => expect(formatDuration(ms)).toBe(text))
