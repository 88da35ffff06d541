import { expect, test } from 'vitest'
import { EVENTS, endOf, nextMove, PHASES, UPDATE_TABLE, type UpdatePhase } from './update-machine.js'

const ENDS: readonly UpdatePhase[] = ['committed', 'rolledBack', 'checked', 'orphaned']
const BEFORE_COMMIT: readonly UpdatePhase[] = ['starting', 'joined', 'preparing', 'restoring']

/** Every phase that can come after `from`. */
function reachable(from: UpdatePhase, seen = new Set<UpdatePhase>()): Set<UpdatePhase> {
  for (const event of EVENTS) {
    const to = nextMove(from, event)?.to
    if (to === undefined || seen.has(to)) continue
    seen.add(to)
    reachable(to, seen)
  }
  return seen
}

test('an end is an end', () => {
  for (const phase of ENDS) expect(UPDATE_TABLE[phase]).toEqual({})
})

test('from every phase an end can be reached, and every phase from the start', () => {
  for (const phase of PHASES.filter((candidate) => !ENDS.includes(candidate))) {
    expect([...reachable(phase)].some((candidate) => ENDS.includes(candidate))).toBe(true)
  }
  const all = reachable('starting')
  // "checked" is what the end of an abort is called when it was one: see endOf.
  expect([...all, 'starting', 'checked'].sort()).toEqual([...PHASES].sort())
})

test('before the commit every failure leads back, and kills the successor first', () => {
  for (const phase of BEFORE_COMMIT) {
    for (const event of ['successorDied', 'successorFailed', 'supervisorGone', 'deadline', 'abortAsked'] as const) {
      expect(nextMove(phase, event)).toEqual({ to: 'aborting', actions: ['killSuccessor'] })
    }
  }
})

test('the old version goes on only after the successor is gone', () => {
  const ways = PHASES.flatMap((phase) =>
    EVENTS.filter((event) => nextMove(phase, event)?.actions.includes('goBack')).map((event) => `${phase} ${event}`),
  )
  expect(ways).toEqual(['aborting successorGone'])
})

test('the successor goes on only after the word of the old version, or its death', () => {
  const ways = PHASES.flatMap((phase) =>
    EVENTS.filter((event) => nextMove(phase, event)?.actions.includes('handOver')).map((event) => `${phase} ${event}`),
  )
  expect(ways.sort()).toEqual(['committing oldDied', 'committing oldReleased'])
})

test('the old version is asked only when the successor waits for the state', () => {
  const ways = PHASES.flatMap((phase) =>
    EVENTS.filter((event) => nextMove(phase, event)?.actions.includes('askOld')).map((event) => `${phase} ${event}`),
  )
  expect(ways).toEqual(['joined claimed'])
})

test('the successor gets the state only when it is frozen', () => {
  const ways = PHASES.flatMap((phase) =>
    EVENTS.filter((event) => nextMove(phase, event)?.actions.includes('giveState')).map((event) => `${phase} ${event}`),
  )
  expect(ways).toEqual(['restoring frozen'])
})

test('after the commit was asked for nothing leads back, but that the old version goes on already', () => {
  expect(nextMove('committing', 'oldRefused')).toEqual({ to: 'aborting', actions: ['killSuccessor'] })
  for (const event of EVENTS.filter((other) => other !== 'oldRefused'))
    expect(['rolledBack', 'aborting']).not.toContain(nextMove('committing', event)?.to)
})

test('the death of the old version is no failure once the state is frozen', () => {
  expect(nextMove('restoring', 'oldDied')).toEqual({ to: 'restoring', actions: [] })
  expect(nextMove('preparing', 'oldDied')?.to).toBe('aborting')
})

test('the end of an abort tells whether somebody goes on', () => {
  expect(endOf({ checked: false, oldAlive: true })).toBe('rolledBack')
  expect(endOf({ checked: true, oldAlive: true })).toBe('checked')
  expect(endOf({ checked: false, oldAlive: false })).toBe('orphaned')
  expect(endOf({ checked: true, oldAlive: false })).toBe('orphaned')
})
