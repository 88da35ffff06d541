/**
 * `npm run soak -- [--minutes N | --kills N] [--seed S] [--json]`: everything at once, kills of luod included, for so
 * long, or until so many were killed (`everything.ts`). Without a number: for a minute.
 *
 * `npm run soak -- --updates N [--seed S] [--json]`: very many updates of one luod, at random: committed, refused,
 * aborted, checks, and every numbered fault of `test/faults/table.ts`, of workloads with several sessions and files of
 * every kind. After each the outcome and all contents are compared with a model. From time to time everything ends, and
 * nothing may be left of it. The last line is JSON; with --json those on
 * the way there go to stderr.
 *
 * The same seed decides the same. $CFLAGS is for the versions (`version.c`): with
 * CFLAGS='-g -fsanitize=address,undefined' the C client is watched too.
 *
 * Exit codes: 0 all is well, 1 something was lost, left or not as planned, 2 wrong usage.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { isLuoError } from '../../src/errors.js'
import { changeHugePool } from '../../src/sys/hugepages.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { soakEverything } from './everything.js'
import { compile, kindsOf } from './kinds.js'
import { growth, measure, type Sample } from './measure.js'
import { SoakWorkload, type Tally } from './workload.js'

/** Of build/soak/test/soak. */
const PROJECT = fileURLToPath(new URL('../../../..', import.meta.url))
const WORKLOADS = 8
/** After so many everything ends once. */
const EPOCH_UPDATES = 250
/** V8 gives memory back when it likes: less than this in half a run is no trend. */
const RSS_TOLERANCE_BYTES = 16 * 1024 * 1024
/** A run with fewer only warms up: memory, and answers and history in the records, which have limits. */
const WARM_EPOCHS = 8
/** The log is rewritten when it has grown enough. */
const RECORDS_TOLERANCE_BYTES = 512 * 1024
/** So many of the smallest huge pages are made for the run, where that is allowed. */
const HUGE_PAGES = 64
const HUGE_PAGE_BYTES = 2 * 1024 * 1024
const START_LIMIT_MS = 10_000
const START_POLL_MS = 10
const SHOWN_PROBLEMS = 20
const USAGE_CODE = 2

interface Report {
  updates: number
  committed: number
  rolled_back: number
  orphaned: number
  checked: number
  faults: number
  wrong_outcomes: number
  lost: number
  leaked_fds: number
  leaked_processes: number
  rss_growth_bytes: number
  records_growth_bytes: number
  seed: string
  seconds: number
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        ...{ updates: { type: 'string' }, kills: { type: 'string' }, minutes: { type: 'string' } },
        ...{ seed: { type: 'string' }, json: { type: 'boolean', default: false } },
      },
    })
    const { updates, kills, minutes, json, seed = String(Math.floor(Math.random() * 2 ** 32)) } = values
    const given = [updates, kills, minutes].filter((text) => text !== undefined).map(Number)
    const good = given.length <= 1 && given.every((count) => Number.isInteger(count) && count > 0)
    if (!good) throw new Error('--minutes, --kills or --updates is how many, 1 or more, and only one of them is given')
    const [count = 1] = given
    if (updates !== undefined) return { updates: count, seed, json }
    return { ...(kills !== undefined ? { kills: count } : { minutes: count }), seed, json }
  } catch (error) {
    console.error(
      `soak: ${(error as Error).message}\nUsage: npm run soak -- [--minutes N | --kills N | --updates N] [--seed S] [--json]`,
    )
    return process.exit(USAGE_CODE)
  }
}

/** Answers how many pages were added; none without root, and then files in huge pages may be left out. */
function addHugePages(): number {
  try {
    return changeHugePool(HUGE_PAGE_BYTES, HUGE_PAGES)
  } catch (error) {
    if (isLuoError(error) || (error as NodeJS.ErrnoException).code !== undefined) return 0
    throw error
  }
}

async function startLuod(socket: string): Promise<ChildProcess> {
  const luod = spawn(process.execPath, [join(PROJECT, 'dist/daemon/main.js'), '--socket', socket], { stdio: 'inherit' })
  const end = performance.now() + START_LIMIT_MS
  for (;;) {
    try {
      const client = await VarlinkClient.connect(socket)
      client.close()
      return luod
    } catch (cause) {
      if (performance.now() > end || luod.exitCode !== null) throw new Error('luod does not start', { cause })
      await new Promise((resolve) => setTimeout(resolve, START_POLL_MS))
    }
  }
}

interface Stage {
  program: string
  folder: string
  socket: string
  kinds: readonly string[]
  luod: number
}

/** Answers what was left after each epoch, before the first one included. */
async function soak(stage: Stage, updates: number, seed: string, tally: Tally, json: boolean): Promise<Sample[]> {
  const samples = [await measure(stage.socket, stage.luod)]
  for (let epoch = 0, done = 0; done < updates; epoch++) {
    const now = Math.min(EPOCH_UPDATES, updates - done)
    const share = (index: number) => Math.floor(now / WORKLOADS) + (index < now % WORKLOADS ? 1 : 0)
    const work = Array.from({ length: WORKLOADS }, (_, index) => {
      const { program, folder: directory, socket, kinds } = stage
      const workload = {
        name: `w${index}`,
        seed: `${seed} ${epoch} ${index}`,
        program,
        directory,
        socket,
        kinds,
        tally,
      }
      return new SoakWorkload(workload).run(share(index))
    })
    // All of them, so that nothing is left when one fails.
    for (const result of await Promise.allSettled(work)) {
      if (result.status === 'rejected') tally.problems.push(String(result.reason))
    }
    done += now
    const sample = await measure(stage.socket, stage.luod)
    samples.push(sample)
    const mebibytes = (sample.rssBytes / 2 ** 20).toFixed(1)
    const say = json ? console.error : console.log
    say(
      `${done} updates, luod has ${sample.fds} descriptors, ${mebibytes} MiB, ${sample.recordsBytes} bytes of records`,
    )
    if (tally.problems.length > 0) break
  }
  return samples
}

function reportOf(tally: Tally, samples: readonly Sample[], seed: string, seconds: number): Report {
  const [before] = samples
  const last = samples.at(-1)
  const after = samples.slice(1)
  return {
    updates: tally.updates,
    committed: tally.committed,
    rolled_back: tally.rolledBack,
    orphaned: tally.orphaned,
    checked: tally.checked,
    faults: tally.faults,
    wrong_outcomes: tally.problems.length - tally.lost,
    lost: tally.lost,
    leaked_fds: (last?.fds ?? 0) - (before?.fds ?? 0),
    leaked_processes: last?.processes ?? 0,
    rss_growth_bytes: growth(after.map(({ rssBytes }) => rssBytes)),
    records_growth_bytes: growth(after.map(({ recordsBytes }) => recordsBytes)),
    seed,
    seconds,
  }
}

function isWell(report: Report, epochs: number): boolean {
  const { wrong_outcomes, lost, leaked_fds, leaked_processes, rss_growth_bytes, records_growth_bytes } = report
  const none = [wrong_outcomes, lost, leaked_fds, leaked_processes].every((count) => count === 0)
  const steady = rss_growth_bytes <= RSS_TOLERANCE_BYTES && records_growth_bytes <= RECORDS_TOLERANCE_BYTES
  return none && (epochs < WARM_EPOCHS || steady)
}

async function main(): Promise<void> {
  const given = options()
  if (given.updates === undefined) {
    process.exitCode = (await soakEverything(given)) ? 0 : 1
    return
  }
  const { updates, seed, json } = given
  const folder = mkdtempSync(join(tmpdir(), 'luo-soak-'))
  const socket = join(folder, 'luod.sock')
  const started = performance.now()
  let luod: ChildProcess | undefined
  const hugePages = addHugePages()
  try {
    const program = compile(PROJECT, folder)
    const kinds = kindsOf(program, folder)
    luod = await startLuod(socket)
    const tally: Tally = {
      updates: 0,
      committed: 0,
      rolledBack: 0,
      orphaned: 0,
      checked: 0,
      faults: 0,
      kills: 0,
      lost: 0,
      problems: [],
    }
    const stage = { program, folder, socket, kinds, luod: luod.pid ?? 0 }
    const samples = await soak(stage, updates, seed, tally, json)
    const seconds = Math.round((performance.now() - started) / 1000)
    const report = reportOf(tally, samples, seed, seconds)
    for (const line of tally.problems.slice(0, SHOWN_PROBLEMS)) console.error(line)
    console.log(JSON.stringify(report))
    process.exitCode = isWell(report, samples.length - 1) ? 0 : 1
  } finally {
    if (luod?.exitCode === null) {
      luod.kill('SIGTERM')
      await once(luod, 'exit')
    }
    rmSync(folder, { recursive: true, force: true })
    if (hugePages > 0) changeHugePool(HUGE_PAGE_BYTES, -hugePages)
  }
}

await main()
