/** docs/update.md says of the update what the code does: its drawing and its table are the update's own table. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { EVENTS, endOf, nextMove, PHASES, UPDATE_TABLE } from '../src/daemon/update-machine.js'
import { tableOf } from './markdown.js'

const TEXT = readFileSync(new URL('../docs/update.md', import.meta.url), 'utf8')

/** Everything that can happen, as `phase event next actions`. */
function moves(): string[] {
  return PHASES.flatMap((phase) =>
    Object.entries(UPDATE_TABLE[phase]).map(
      ([event, { to, actions }]) => `${phase} ${event} ${to} ${actions.join(', ') || '-'}`,
    ),
  ).sort()
}

test('the table has every row, and no other', () => {
  const rows = tableOf(TEXT, '| phase | event | next | actions |').map((cells) => cells.join(' '))
  expect(rows.sort()).toEqual(moves())
})

test('the drawing has every transition, and no other', () => {
  const drawn = new Set<string>()
  for (const [, from, to, events = ''] of TEXT.matchAll(/^ {2}(\w+) --> (\w+): (.*)$/gm)) {
    for (const event of events.split(', ')) drawn.add(`${from} ${event} ${to}`)
  }
  const real = new Set<string>()
  for (const phase of PHASES) {
    for (const [event, { to }] of Object.entries(UPDATE_TABLE[phase])) real.add(`${phase} ${event} ${to}`)
  }
  // The table has one name for the end of an aborted update; which one it gets is decided then.
  for (const checked of [true, false]) {
    for (const oldAlive of [true, false]) real.add(`aborting successorGone ${endOf({ checked, oldAlive })}`)
  }
  expect([...drawn].sort()).toEqual([...real].sort())
})

test('the drawing begins and ends where the update does', () => {
  const ends = [...TEXT.matchAll(/^ {2}(\w+) --> \[\*\]$/gm)].map(([, phase]) => phase)
  const terminal = PHASES.filter((phase) => Object.keys(UPDATE_TABLE[phase]).length === 0)
  expect(ends.sort()).toEqual([...terminal].sort())
  expect(TEXT).toContain(`[*] --> ${PHASES[0]}`)
})

test('every phase and every action is explained, and an event without a row changes nothing', () => {
  expect(tableOf(TEXT, '| phase | luod waits for |').map(([phase]) => phase)).toEqual([...PHASES])
  const actions = new Set(PHASES.flatMap((phase) => Object.values(UPDATE_TABLE[phase]).flatMap((move) => move.actions)))
  expect(
    tableOf(TEXT, '| action | what luod does |')
      .map(([action]) => action)
      .sort(),
  ).toEqual([...actions].sort())
  const rows = new Set(tableOf(TEXT, '| phase | event | next | actions |').map(([phase, event]) => `${phase} ${event}`))
  for (const phase of PHASES) {
    for (const event of EVENTS) {
      const move = nextMove(phase, event)
      expect(move !== undefined, `${phase} ${event}`).toBe(rows.has(`${phase} ${event}`))
    }
  }
})
