/** The same steps, with one killed of those who are not luod: a client, a supervisor, the version that runs. */
import { describe, test } from 'vitest'
import { OTHER_FAULTS } from './step-table.js'
import { inStore, survive, worldOf } from './surviving.js'

describe('with a standby', () => {
  const start = worldOf('standby')
  test.each(OTHER_FAULTS.filter((row) => !inStore(row)))(
    'fault $number: during $during, $victim is killed at $step',
    (row) => survive(row, start),
  )
})

describe('with a store', () => {
  const start = worldOf('store')
  test.each(OTHER_FAULTS.filter(inStore))('fault $number: during $during, $victim is killed at $step', (row) =>
    survive(row, start),
  )
})
