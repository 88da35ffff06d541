/**
 * Every step at which luod changes hands, with somebody killed exactly there while requests run: who must serve does, what
 * was acknowledged is there and was done once, and no process and no descriptor is left. And no step is without a fault.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { STEPS } from '../../src/daemon/steps.js'
import { eventually } from '../daemon/stage.js'
import { ChangingLuod } from './changing.js'
import { STEP_FAULTS, type StepRow } from './step-table.js'
import { inStore, survive, worldOf } from './surviving.js'

const DAEMON = new URL('../../src/daemon/', import.meta.url)
const rows = (wanted: (row: StepRow) => boolean) => STEP_FAULTS.filter(wanted)

describe('with a standby', () => {
  const start = worldOf('standby')
  test.each(rows((row) => !inStore(row) && row.serving !== 'nobody'))(
    'fault $number: during $during, $victim is killed at $step',
    (row) => survive(row, start),
  )
})

describe('with a store', () => {
  const start = worldOf('store')
  test.each(rows(inStore))('fault $number: during $during, $victim is killed at $step', (row) => survive(row, start))
})

test.each(rows(({ serving }) => serving === 'nobody'))(
  'fault $number: during $during, $victim is killed at $step, and nothing of it is left',
  async (row) => {
    await using world = await ChangingLuod.start('standby')
    await world.strike(row)
    await eventually(
      () => world.luods(),
      ({ length }) => length === 0,
      'somebody of luod is left',
    )
  },
)

test('each step is in the source, once told or more, and has a fault; and no fault is of another step', () => {
  const told = new Set<string>()
  for (const name of readdirSync(DAEMON)) {
    const text = readFileSync(new URL(name, DAEMON), 'utf8')
    if (!name.endsWith('.ts') || name.endsWith('.test.ts')) continue
    for (const [call] of text.matchAll(/\bstep\([^)]*\)/g)) {
      for (const [, step = ''] of call.matchAll(/'([a-z]+\.[a-z]+)'/g)) told.add(step)
    }
  }
  const known = Object.keys(STEPS).sort()
  expect([...told].sort()).toEqual(known)
  expect([...new Set(STEP_FAULTS.map(({ step }) => step))].sort()).toEqual(known)
  const names = STEP_FAULTS.map(({ step, during, victim }) => `${step} ${during} ${victim}`)
  expect(new Set(names).size).toBe(names.length)
})
