/** A short run of every target with a fixed seed, and every input that was of interest before. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { corpus, targetOf } from './corpus.js'
import { LIVE_TARGETS } from './live-targets.js'
import { TARGETS } from './targets.js'

const SEED = 20_261_125

test.each(Object.entries(TARGETS))('%s: 1,000 inputs are each a value or a refusal', (_, { inputs, check }) => {
  fc.assert(
    fc.property(inputs, (input) => check(input)),
    { seed: SEED, numRuns: 1_000 },
  )
})

test('what failed before, or was of interest, fails no more', () => {
  const files = corpus()
  expect(files.length).toBeGreaterThan(0)
  for (const { name, input } of files) {
    const target = targetOf(name)
    expect([name, target in TARGETS || target in LIVE_TARGETS]).toEqual([name, true])
    TARGETS[target]?.check(input)
  }
})
