/** A short run of every target with a fixed seed, and every input that was of interest before. */
import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { TARGETS } from './targets.js'

const SEED = 20_261_125
const CORPUS = new URL('./corpus/', import.meta.url)

test.each(Object.entries(TARGETS))('%s: 1,000 inputs are each a value or a refusal', (_, { inputs, check }) => {
  fc.assert(
    fc.property(inputs, (input) => check(input)),
    { seed: SEED, numRuns: 1_000 },
  )
})

test('what failed before, or was of interest, fails no more', () => {
  const names = readdirSync(CORPUS)
  expect(names.length).toBeGreaterThan(0)
  for (const name of names) {
    const target = TARGETS[name.split('-')[0] ?? '']
    expect([name, target !== undefined]).toEqual([name, true])
    target?.check(new Uint8Array(readFileSync(new URL(name, CORPUS))))
  }
})
