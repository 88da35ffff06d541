import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { CUSTODY_MOVES, type Custody, type CustodyMove, move, type OutgoingSession } from './session.js'

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
    const session: OutgoingSession<unknown, unknown> = {
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
