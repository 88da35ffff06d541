/** A short run of a target in a test. */
import fc from 'fast-check'
import { corpus, targetOf } from './corpus.js'
import type { LiveTarget } from './target.js'

/** Other inputs than those that are tried each time: LUO_FUZZ_SEED. */
export const seed = Number(process.env.LUO_FUZZ_SEED ?? 20_261_125)

/** What the corpus has for it, then so many inputs. An error tells the input. */
export async function tryTarget(name: string, target: LiveTarget, count: number): Promise<void> {
  const made = fc.sample(target.inputs, { seed, numRuns: count })
  const kept = corpus().filter((one) => targetOf(one.name) === name)
  for (const input of [...kept.map((one) => one.input), ...made]) {
    try {
      await target.check(input)
    } catch (error) {
      throw new Error(`${name} fails with ${Buffer.from(input)}`, { cause: error })
    }
  }
  await target.settle?.()
}
