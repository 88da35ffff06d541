/**
 * Every step at which luod changes hands, with somebody killed exactly there while requests run: who must serve does,
 * what was acknowledged is there and was done once, and no process and no descriptor is left. And no step is without a
 * fault.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { STEPS } from '../../src/daemon/steps.js'
import { eventually } from '../daemon/stage.js'
import { ChangingLuod } from './changing.js'
import { STEP_FAULTS, type StepRow } from './step-table.js'

const DAEMON = new URL('../../src/daemon/', import.meta.url)
const rows = (wanted: (row: StepRow) => boolean) => STEP_FAULTS.filter(wanted)
const inStore = ({ during }: StepRow) => during === 'requests, store' || during === 'recovery'

/** The one world of `rows`, started for the first of them. */
function worldOf(protection: 'standby' | 'store') {
  let world: ChangingLuod | undefined
  let spare = 0
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]()
  })
  return async () => {
    if (!world) {
      world = await ChangingLuod.start(protection)
      await world.whole()
      spare = await world.spareFds()
    }
    return { world, spare }
  }
}

/** Who is luod when the step comes: after its end, the one that stood by, if there was one. */
async function survive(row: StepRow, start: ReturnType<typeof worldOf>): Promise<void> {
  const { world, spare } = await start()
  const { pid, protection } = await world.strike(row)
  const now = await world.whole()
  const luod = row.during === 'new standby' ? protection.pid : pid
  expect(now.pid === luod ? 'luod' : 'next', world.log).toBe(row.serving)
  expect(now.takeover?.findings ?? 0, world.log).toBe(0)
  if (row.machine) await world.endMachine(row.machine)
  await world.mend(row.victim)
  const { acknowledged, there } = await world.compare()
  expect(there, `seed ${world.seed}`).toEqual(acknowledged)
  const processes = protection.kind === 'standby' ? 2 : 1
  await eventually(
    () => world.luods(),
    ({ length }) => length === processes,
    `there are not ${processes} of luod`,
  )
  await world.whole()
  await eventually(
    () => world.spareFds(),
    (count) => count <= spare,
    `there are more than ${spare} descriptors that are nobody's`,
  )
}

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
