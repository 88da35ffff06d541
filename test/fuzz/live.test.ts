/**
 * A short run of the targets that run, with a fixed seed, and every input of theirs that was of interest before. The seed
 * is printed, and LUO_FUZZ_SEED takes another one; `npm run fuzz` has the longer runs. Those that need a program in C have
 * theirs beside the tests that have it: test/clients/hostile.test.ts, test/emulate/hostile.test.ts.
 */
import { test } from 'vitest'
import { LIVE_TARGETS } from './live-targets.js'
import { seed, tryTarget } from './try.js'

/** Of luoctl each input is a process. */
const LIMIT_MS = 120_000

test.each([
  ['luod', 25],
  ['typescript', 30],
  ['luoctl', 15],
] as const)(
  `%s: %d inputs do no harm (seed ${seed})`,
  async (name, count) => {
    await using target = await LIVE_TARGETS[name]()
    await tryTarget(name, target, count)
  },
  LIMIT_MS,
)
