import { describe, expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import {
  CUSTODY_MOVES,
  type Custody,
  type CustodyMove,
  checkName,
  checkToken,
  MAX_NAME_BYTES,
  move,
  type Session,
} from './session.js'

const codeOf = (run: () => unknown): unknown => {
  try {
    run()
    return undefined
  } catch (error) {
    return isLuoError(error) ? error.code : error
  }
}
const CUSTODIES: Custody[] = ['held', 'frozen', 'orphaned']
const MOVES: CustodyMove[] = ['freeze', 'unfreeze', 'commit', 'orphan', 'claim']

describe('custody', () => {
  const pairs = CUSTODIES.flatMap((custody) => MOVES.map((change) => [custody, change] as const))

  test('has a table that names nothing else', () => {
    expect(Object.keys(CUSTODY_MOVES)).toEqual(CUSTODIES)
    for (const moves of Object.values(CUSTODY_MOVES)) {
      for (const [change, next] of Object.entries(moves)) {
        expect(MOVES).toContain(change)
        expect(CUSTODIES).toContain(next)
      }
    }
  })

  test.each(pairs)('of %s: %s is as the table says, or LUO_WRONG_STATE', (custody, change) => {
    const session: Session<unknown, unknown> = {
      id: '1',
      name: 'web',
      scope: '0',
      direction: 'outgoing',
      files: new Map(),
      custody,
    }
    const next = CUSTODY_MOVES[custody][change]
    if (next === undefined) expect(codeOf(() => move(session, change))).toBe('LUO_WRONG_STATE')
    else expect(move(session, change)).toBe(next)
    // Whoever asks decides when it is so.
    expect(session.custody).toBe(custody)
  })
})

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
  test.each(['0', '1', '10', '9007199254740993', '18446744073709551615'])('is good: %s', (token) => {
    expect(checkToken(token)).toBe(token)
  })

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
