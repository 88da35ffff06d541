/**
 * Everything that can happen, at once and at random: workloads are updated with every fault of the table, their
 * versions and supervisors die, luod and its standby are killed and upgraded at any time and while a version stands at
 * a point of an update, a service under load is updated, and programs come, preserve, take back, let go of files, and
 * leave. After each step what was acknowledged is compared with a model: contents of sessions, writes to the service,
 * its memory. At the end everything is let go of, and nothing may be left. The last line is JSON.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type * as checkers from '../../src/demo/checker.js'
import type * as worlds from '../../src/demo/world.js'
import { compile, kindsOf } from './kinds.js'
import { WAIT_LIMIT_MS, WAIT_MS } from './limits.js'
import { Luod } from './luod.js'
import { chooseStrike } from './plan.js'
import { Program } from './program.js'
import { Random } from './random.js'
import { SoakWorkload, type Tally } from './workload.js'

/** Of build/soak/test/soak. */
const PROJECT = fileURLToPath(new URL('../../../..', import.meta.url))
const WORKLOADS = 4
const PROGRAMS = 4
/** Of all kills, the part that luod and its standby have outside of steps of a workload. */
const LUOD_SHARE = 0.25
/** Between two strikes at luod. */
const CALM_MS = [0, 400] as const
/** Between two updates of the service: its versions are of Node, whose start is most of what this machine does. */
const SERVICE_CALM_MS = 1_000
const REPORT_MS = 10_000
const SHOWN_PROBLEMS = 20

export interface EverythingOptions {
  /** Until so many kills, or for so many minutes. */
  kills?: number
  minutes?: number
  seed: string
  json: boolean
}

/** Answers whether nothing was lost or left. */
export async function soakEverything(options: EverythingOptions): Promise<boolean> {
  const { seed, json } = options
  const started = performance.now()
  const { World } = (await import(join(PROJECT, 'dist/demo/world.js'))) as typeof worlds
  const folder = mkdtempSync(join(tmpdir(), 'luo-soak-'))
  const tally: Tally = {
    ...{ updates: 0, committed: 0, rolledBack: 0, orphaned: 0, checked: 0 },
    ...{ faults: 0, kills: 0, lost: 0, problems: [] },
  }
  const world = await World.create()
  const luod = new Luod(world.socket, (problem) => tally.problems.push(problem))
  let checks = 0
  let leakedFds = 0
  const counts = () => ({ kills: tally.kills + luod.kills, updates: tally.updates, upgrades: luod.upgrades })
  const say = json ? console.error : console.log
  const reports = setInterval(() => say(JSON.stringify({ ...counts(), checks })), REPORT_MS)
  try {
    const program = compile(PROJECT, folder)
    await world.start('v1')
    const before = (await luod.whole()).open_fds
    const lose = (why: string) => {
      tally.lost += 1
      tally.problems.push(why)
    }
    const random = (what: string) => new Random(`${seed} ${what}`)
    const late = () => options.minutes !== undefined && performance.now() - started > options.minutes * 60_000
    const over = () => tally.problems.length > 0 || late()
    const all = options.kills ?? Number.POSITIVE_INFINITY
    const programs = Array.from(
      { length: PROGRAMS },
      (_, index) => new Program(world.socket, `program-${index}`, random(`program ${index}`), lose),
    )
    const stage = { program, directory: folder, socket: world.socket, kinds: kindsOf(program, folder), tally, luod }
    const workloads = Array.from(
      { length: WORKLOADS },
      (_, index) => new SoakWorkload({ ...stage, name: `w${index}`, seed: `${seed} workload ${index}` }),
    )
    const main = [
      strikeAtLuod(luod, random('luod'), () => over() || luod.kills >= all * LUOD_SHARE),
      ...workloads.map((workload) => workload.runUntil(() => over() || counts().kills >= all)),
    ]
    const note = (error: unknown) => void tally.problems.push(error instanceof Error ? error.message : String(error))
    let ended = false
    const beside = [
      ...programs.map((each) => each.run(() => ended || over())),
      service(world, random('service'), tally, () => ended || over()),
    ].map((work) => work.catch(note))
    await Promise.all(main.map((work) => work.catch(note)))
    ended = true
    await Promise.all(beside)
    checks = programs.reduce((sum, each) => sum + each.checks, 0)
    leakedFds = await leaked(luod, before)
  } catch (error) {
    tally.problems.push(error instanceof Error ? error.message : String(error))
  }
  clearInterval(reports)
  await world.close()
  rmSync(folder, { recursive: true, force: true })
  const leakedProcesses = processesOf(world.socket)
  const { problems, lost } = tally
  for (const line of problems.slice(0, SHOWN_PROBLEMS)) console.error(line)
  if (problems.length > 0) console.error(`what luod and the service said last:\n  ${world.log.join('\n  ')}`)
  const { committed, rolledBack, orphaned, faults } = tally
  console.log(
    JSON.stringify({
      ...counts(),
      ...{ lost, leaked_fds: leakedFds, leaked_processes: leakedProcesses, seed },
      ...{ problems: problems.length, kills_of_luod: luod.kills, faults, committed, rolled_back: rolledBack, orphaned },
      ...{ checks, seconds: Math.round((performance.now() - started) / 1000) },
    }),
  )
  return problems.length + lost + leakedFds + leakedProcesses === 0
}

async function strikeAtLuod(luod: Luod, random: Random, ended: () => boolean): Promise<void> {
  while (!ended()) {
    await sleep(random.between(...CALM_MS))
    const what = chooseStrike(random)
    await luod.alone(() => luod.strike(what))
  }
}

/** The example service, with clients that write and read, and updates that are good or fail. */
async function service(world: worlds.World, random: Random, tally: Tally, ended: () => boolean): Promise<void> {
  const { serverCommand } = (await import(join(PROJECT, 'dist/demo/world.js'))) as typeof worlds
  const { Checker } = (await import(join(PROJECT, 'dist/demo/checker.js'))) as typeof checkers
  const checker = new Checker(world.port)
  checker.start()
  while (!ended()) {
    const version = random.pick(['v1', 'v2', 'v1', 'v2', 'newer', 'crash'])
    const { outcome, reason } = await world.update(serverCommand(version))
    const wanted = version.startsWith('v') ? 'committed' : 'rolledBack'
    // What is under way when luod is replaced may be given up, and then nothing has changed.
    if (outcome !== wanted && outcome !== 'rolledBack') tally.problems.push(`${version}: ${outcome}: ${reason}`)
    if (outcome === 'rolledBack') tally.rolledBack += 1
    else tally.committed += 1
    tally.updates += 1
    await sleep(SERVICE_CALM_MS)
  }
  await checker.stop()
  const { failed, lost, errors } = checker.stats()
  const gone = await checker.verify()
  tally.lost += gone.length
  if (failed + lost + gone.length > 0) {
    const line = `the service: ${failed} failed, ${lost} connections cut, ${gone.length} writes lost`
    tally.problems.push(line, ...errors)
  }
  const { intact } = JSON.parse(await world.request('GET', '/check')) as { intact: boolean }
  if (!intact) tally.problems.push("the service's memory is damaged")
}

/** How many descriptors luod has more than at first, once what ended has been seen. */
async function leaked(luod: Luod, before: number): Promise<number> {
  const end = performance.now() + WAIT_LIMIT_MS / 3
  for (;;) {
    const more = (await luod.whole()).open_fds - before
    if (more <= 0 || performance.now() > end) return Math.max(0, more)
    await sleep(WAIT_MS)
  }
}

/** How many have this luod's socket in their environment, or as their argument. */
function processesOf(socket: string): number {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
  return pids.filter((pid) => {
    try {
      const text = ['environ', 'cmdline'].map((file) => readFileSync(`/proc/${pid}/${file}`, 'latin1')).join('\0')
      return text.includes(socket)
    } catch {
      return false
    }
  }).length
}
