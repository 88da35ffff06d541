/**
 * `npm start`: a running service is updated under load, ten times, and then everything that can go wrong does.
 * `--json` ends with one JSON line on stdout; progress goes to stderr then. Exits with 0 when nothing was lost and
 * everything ended as it must, with 1 when not, with 128 plus the signal's number when interrupted.
 */
import { constants } from 'node:os'
import { jsonLine, sentence, TRY_NEXT, table } from './report.js'
import { Scenario } from './scenario.js'
import { World } from './world.js'

/** The whole demo takes half a minute; whoever hangs is ended here, and that is a failure. */
const LIMIT_MS = 100_000
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

const json = process.argv.includes('--json')

async function main(): Promise<number> {
  const startedAt = performance.now()
  const say = (line: string) => {
    const at = ((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)
    ;(json ? process.stderr : process.stdout).write(`${at} s  ${line}\n`)
  }
  const world = await World.create()
  const scenario = new Scenario(world, say)
  const end = async () => {
    scenario.close()
    await world.close()
  }
  const { result } = scenario
  let ending = false
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      if (ending) return
      ending = true
      say(`${signal}: ending everything`)
      void end().finally(() => process.exit(128 + constants.signals[signal]))
    })
  }
  const limit = setTimeout(() => {
    result.problems.push(`not finished after ${LIMIT_MS / 1000} s`)
    void end()
  }, LIMIT_MS)
  try {
    await scenario.run()
  } catch (error) {
    result.problems.push(error instanceof Error ? error.message : String(error))
  }
  clearTimeout(limit)
  // When a signal is ending everything, its own handler leaves the process.
  if (ending) return new Promise(() => {})
  await end()
  return report(world, scenario, performance.now() - startedAt)
}

function report(world: World, { result }: Scenario, durationMs: number): number {
  const failed = result.problems.length > 0
  if (failed) {
    for (const problem of result.problems) console.error(`problem: ${problem}`)
    console.error(`the service's last lines:\n${world.log.map((line) => `  ${line}`).join('\n')}`)
  }
  if (json) console.log(jsonLine(result, durationMs))
  else {
    console.log(`\n${table(result.rows).join('\n')}\n\n${sentence(result, durationMs)}`)
    console.log(`\nTry it yourself:\n${TRY_NEXT.map((line) => `  ${line}`).join('\n')}`)
  }
  return failed ? 1 : 0
}

void main().then((code) => {
  process.exitCode = code
})
