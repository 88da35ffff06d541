/**
 * `npm run fuzz -- [--seconds N] [--seed S] [--target NAME] [--json]`: the targets in turn, until the time is over. What
 * fails is made as small as it gets, written to test/fuzz/corpus, and ends the run with code 1. The same seed tries the
 * same inputs in the same order.
 */
import { parseArgs } from 'node:util'
import fc from 'fast-check'
import { keep } from './corpus.js'
import { LIVE_TARGETS } from './live-targets.js'
import type { LiveTarget } from './target.js'
import { TARGETS } from './targets.js'

const RUNS_IN_A_ROUND = 2_000
const LIVE_RUNS_IN_A_ROUND = 100
/** Of what runs, each attempt to make an input smaller may need another one. */
const SHRINKING_MS = 60_000
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string' },
    target: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})
const all = [...Object.keys(TARGETS), ...Object.keys(LIVE_TARGETS)]
const names = all.filter((name) => values.target === undefined || name === values.target)
const seconds = Number(values.seconds)
const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed)
if (names.length === 0 || !(seconds > 0) || !Number.isSafeInteger(seed)) {
  console.error(`fuzz: --seconds N, --seed S, and --target of ${all.join(', ')}`)
  process.exit(2)
}

interface Failure {
  target: string
  seed: number
  /** None when it is of no single input. */
  file?: string
  error: string
}

const end = performance.now() + seconds * 1_000
let runs = 0

/** One that runs; after a failure it is another one. */
class Running {
  readonly #begin: () => Promise<LiveTarget>
  #target: LiveTarget | undefined
  #failedAt: number | undefined

  constructor(begin: () => Promise<LiveTarget>) {
    this.#begin = begin
  }

  async target(): Promise<LiveTarget> {
    this.#target ??= await this.#begin()
    return this.#target
  }

  async check(input: Uint8Array): Promise<void> {
    if (this.#failedAt !== undefined ? performance.now() > this.#failedAt + SHRINKING_MS : performance.now() > end)
      return
    try {
      await (await this.target()).check(input)
    } catch (error) {
      if (this.#failedAt === undefined)
        console.error(`${stackOf(error)}\nmaking the input smaller, for a minute at most`)
      this.#failedAt ??= performance.now()
      await this.end()
      throw error
    }
  }

  async end(): Promise<void> {
    const target = this.#target
    this.#target = undefined
    await target?.[Symbol.asyncDispose]()
  }
}

const running = new Map(Object.entries(LIVE_TARGETS).map(([name, begin]) => [name, new Running(begin)]))

async function round(target: string, seed: number): Promise<Failure | undefined> {
  const live = running.get(target)
  const result = live ? await tryLive(live, seed) : tryPure(target, seed)
  runs += result.numRuns
  if (result.failed) {
    const [input = new Uint8Array()] = result.counterexample ?? []
    return { target, seed, file: keep(target, seed, input), error: stackOf(result.errorInstance) }
  }
  try {
    await (await live?.target())?.settle?.()
    return undefined
  } catch (error) {
    return { target, seed, error: stackOf(error) }
  }
}

async function tryLive(live: Running, seed: number) {
  const { inputs } = await live.target()
  const property = fc.asyncProperty(inputs, (input) => live.check(input))
  return fc.check(property, { seed, numRuns: LIVE_RUNS_IN_A_ROUND })
}

function tryPure(name: string, seed: number) {
  const { inputs, check } = TARGETS[name] ?? { inputs: fc.constant(new Uint8Array()), check: () => {} }
  const property = fc.property(inputs, (input) => check(input))
  return fc.check(property, { seed, numRuns: RUNS_IN_A_ROUND })
}

function stackOf(error: unknown): string {
  return (error instanceof Error && error.stack) || String(error)
}

let failed: Failure | undefined
for (let count = 0; !failed && performance.now() < end; count++) {
  for (const target of names) {
    if (failed || performance.now() >= end) break
    failed = await round(target, seed + count)
  }
  if (!values.json) console.log(`round ${count + 1}: ${runs} inputs, seed ${seed}`)
}
for (const live of running.values()) await live.end()
if (failed && !values.json) {
  console.error(`${failed.target} fails with ${failed.file ?? `the inputs of seed ${failed.seed}`}: ${failed.error}`)
}
console.log(JSON.stringify({ runs, seed, targets: names, ...(failed ? { failed } : {}) }))
process.exit(failed ? 1 : 0)
