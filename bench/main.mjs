/**
 * `npm run bench`: see HELP. Progress goes to stderr. What a measurement throws is in the result as `error`, the others
 * go on, and the exit code is 1 at the end.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { measureBlackoutMemory, measureBlackoutStartup } from './blackout.mjs'
import { measureCore } from './core.mjs'
import { measureEmulate } from './emulate.mjs'
import { measureFdHolder } from './fdholder.mjs'
import { measureKexec } from './kexec.mjs'
import { measureFreeze, measureStart } from './luod.mjs'
import { measurePeers } from './peers.mjs'
import { measurePreserve } from './preserve.mjs'
import { writeReport } from './report.mjs'
import { measureFilesScaling, measureSessionsScaling } from './scaling.mjs'
import { measureStandby } from './standby.mjs'

const MEASUREMENTS = {
  preserve: measurePreserve,
  fdholder: async (context) => ({ fdholder: await measureFdHolder(context) }),
  core: measureCore,
  files: measureFilesScaling,
  sessions: measureSessionsScaling,
  freeze: measureFreeze,
  luod_start: measureStart,
  standby: measureStandby,
  emulate: measureEmulate,
  kexec: measureKexec,
  peers: measurePeers,
  blackout_startup: measureBlackoutStartup,
  blackout_memory: measureBlackoutMemory,
}

const HELP = `Measures liveupdate, and what it is compared with.

Usage: npm run bench -- [--json] [--quick] [--only NAME...] | --report

  --json      only one line on stdout, the result as JSON
  --quick     few repetitions and small sizes: to see that it works
  --only NAME these only: ${Object.keys(MEASUREMENTS).join(', ')}
  --report    measure nothing: write docs/benchmarks.md and its plots from bench/last-run.json

A whole run takes about six minutes, and 10 GiB of memory; it is kept in bench/last-run.json. It needs a machine with
nothing else to do. pm2 is installed in bench/ when it is needed; s6 (apt-get install s6) is not, and is skipped
without. kexec needs LUO_KERNEL, is left out without, and takes five minutes more.`

const LAST_RUN = fileURLToPath(new URL('last-run.json', import.meta.url))

function machine() {
  const [{ model }] = cpus()
  return {
    cpu: model,
    cores: cpus().length,
    memory_gib: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
  }
}

function options() {
  const flags = { json: { type: 'boolean' }, quick: { type: 'boolean' }, report: { type: 'boolean' } }
  const only = { type: 'string', multiple: true }
  const all = { ...flags, only, help: { type: 'boolean' } }
  const { values, positionals } = parseArgs({ options: all, allowPositionals: true })
  const names = (values.only ?? []).concat(positionals).flatMap((name) => name.split(','))
  const unknown = names.filter((name) => !(name in MEASUREMENTS))
  if (unknown.length > 0) throw new Error(`no measurement is called ${unknown.join(', ')}`)
  return { ...values, names: names.length > 0 ? names : Object.keys(MEASUREMENTS) }
}

async function run({ quick = false, names }) {
  const startedAt = performance.now()
  const result = { date: new Date().toISOString(), quick, machine: machine() }
  const errors = {}
  for (const name of names) {
    const say = (line) => process.stderr.write(`${seconds(startedAt)} ${name}: ${line}\n`)
    try {
      Object.assign(result, await MEASUREMENTS[name]({ quick, say }))
    } catch (error) {
      errors[name] = error instanceof Error ? error.message : String(error)
      say(error instanceof Error ? error.stack : error)
    }
  }
  result.duration_s = Math.round((performance.now() - startedAt) / 1000)
  if (Object.keys(errors).length > 0) result.errors = errors
  return result
}

function seconds(startedAt) {
  return `${((performance.now() - startedAt) / 1000).toFixed(0).padStart(4)} s`
}

async function main() {
  let given
  try {
    given = options()
  } catch (error) {
    console.error(`${error.message}\n\n${HELP}`)
    process.exit(2)
  }
  if (given.help) return console.log(HELP)
  if (given.report) {
    if (!existsSync(LAST_RUN)) {
      console.error('there is no bench/last-run.json: a whole run makes it')
      process.exit(1)
    }
    return writeReport(JSON.parse(readFileSync(LAST_RUN, 'utf8')))
  }
  const result = await run(given)
  const whole = !given.quick && given.names.length === Object.keys(MEASUREMENTS).length
  if (whole) writeFileSync(LAST_RUN, `${JSON.stringify(result, null, 2)}\n`)
  console.log(given.json ? JSON.stringify(result) : JSON.stringify(result, null, 2))
  process.exit(result.errors ? 1 : 0)
}

await main()
