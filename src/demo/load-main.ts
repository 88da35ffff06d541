/**
 * The load generator's process: takes calls from the harness over IPC, and ends with it. Each call is
 * `{ id, method, argument }` and is answered by `{ id, result }` or `{ id, error }`.
 */
import { LoadGenerator, type LoadOptions } from './load.js'

let generator: LoadGenerator | undefined

/** The methods of this process; `load-process.ts` calls them by name. */
export interface LoadMethods {
  start(options: LoadOptions): Promise<void>
  stop(): ReturnType<LoadGenerator['stop']>
  stats(): ReturnType<LoadGenerator['stats']>
  markGap(): void
  gap(): number
  expectCrash(expected: boolean): void
  replace(): Promise<number>
}

function running(): LoadGenerator {
  if (!generator) throw new Error('the load generator was not started')
  return generator
}

const methods: LoadMethods = {
  start: async (options) => {
    generator = new LoadGenerator(options)
    await generator.start()
  },
  stop: () => running().stop(),
  stats: () => running().stats(),
  markGap: () => running().markGap(),
  gap: () => running().gap(),
  expectCrash: (expected) => running().expectCrash(expected),
  replace: () => running().replace(),
}

process.on('message', async ({ id, method, argument }: { id: number; method: keyof LoadMethods; argument: never }) => {
  try {
    process.send?.({ id, result: await methods[method](argument) })
  } catch (error) {
    process.send?.({ id, error: error instanceof Error ? error.message : String(error) })
  }
})
process.on('disconnect', () => process.exit(0))
// Ctrl-C in a terminal reaches the whole group; the harness decides when this process ends.
process.on('SIGINT', () => {})
