/** What must be true after somebody was killed at a step at which luod changes hands. */
import { afterAll, expect } from 'vitest'
import { eventually } from '../daemon/stage.js'
import { ChangingLuod } from './changing.js'
import type { StepRow } from './step-table.js'

export const inStore = ({ during }: StepRow) => during === 'requests, store' || during === 'recovery'

/** The one world of `rows`, started for the first of them. */
export function worldOf(protection: 'standby' | 'store') {
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
export async function survive(row: StepRow, start: ReturnType<typeof worldOf>): Promise<void> {
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
