/**
 * `npm run fuzz -- [--seconds N] [--seed S] [--target NAME] [--json]`: the targets in turn, until the time is over. What
 * fails is made as small as it gets, written to test/fuzz/corpus, and ends the run with code 1. The same seed tries the
 * same inputs in the same order.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import fc from 'fast-check'
import { TARGETS } from './targets.js'

const RUNS_IN_A_ROUND = 2_000
const CORPUS = join(process.cwd(), 'test/fuzz/corpus')
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string' },
    target: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})
const names = Object.keys(TARGETS).filter((name) => values.target === undefined || name === values.target)
const seconds = Number(values.seconds)
const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed)
if (names.length === 0 || !(seconds > 0) || !Number.isSafeInteger(seed)) {
  console.error(`fuzz: --seconds N, --seed S, and --target of ${Object.keys(TARGETS).join(', ')}`)
  process.exit(2)
}

const end = performance.now() + seconds * 1_000
let runs = 0
let failed: { target: string; seed: number; file: string; error: string } | undefined
for (let round = 0; !failed && performance.now() < end; round++) {
  for (const target of names) {
    if (failed || performance.now() >= end) break
    const { inputs, check } = TARGETS[target] ?? { inputs: fc.constant(new Uint8Array()), check: () => {} }
    const parameters = { seed: seed + round, numRuns: RUNS_IN_A_ROUND }
    const result = fc.check(
      fc.property(inputs, (input) => check(input)),
      parameters,
    )
    runs += result.numRuns
    if (!result.failed) continue
    const [input = new Uint8Array()] = result.counterexample ?? []
    mkdirSync(CORPUS, { recursive: true })
    const file = join(CORPUS, `${target}-seed-${seed + round}.bin`)
    writeFileSync(file, input)
    failed = { target, seed: seed + round, file, error: String(result.errorInstance) }
  }
  if (!values.json) console.log(`round ${round + 1}: ${runs} inputs, seed ${seed}`)
}
if (failed && !values.json) console.error(`${failed.target} fails with ${failed.file}: ${failed.error}`)
console.log(JSON.stringify({ runs, seed, targets: names, ...(failed ? { failed } : {}) }))
process.exit(failed ? 1 : 0)
