/**
 * luod is killed and upgraded at random, and so is its standby, while a service under load is updated and programs
 * preserve, take back and let go of files. After each, what was acknowledged is compared with a model: contents of
 * sessions, writes to the service, its memory. At the end everything is let go of, and nothing may be left.
 *
 * A kill waits until there is a standby: without one a crash loses everything, as the documentation says. The last line is
 * JSON.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { openSession } from '../../src/client/index.js'
import type { LiveSession } from '../../src/client/types.js'
import type * as checkers from '../../src/demo/checker.js'
import type * as worlds from '../../src/demo/world.js'
import type { Methods } from '../../src/protocol/types.js'
import { Fd } from '../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../src/sys/memfd.js'
import { inheritStdio } from '../../src/sys/node.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { Random } from './random.js'

type Status = Methods['Status']['output']

/** Of build/soak/test/soak. */
const PROJECT = fileURLToPath(new URL('../../../..', import.meta.url))
const PROGRAMS = 6
const MAX_TOKENS = 12
const WAIT_LIMIT_MS = 30_000
const WAIT_MS = 10
/** Between two kills. */
const CALM_MS = [0, 400] as const
const SHOWN_PROBLEMS = 20
const TEXT_BYTES = 64

interface Tally {
  kills: number
  upgrades: number
  updates: number
  rolledBack: number
  checks: number
  lost: number
  problems: string[]
}

/** A program with a session, and what luod has acknowledged of it. */
class Program {
  readonly #socket: string
  readonly #name: string
  readonly #random: Random
  readonly #tally: Tally
  readonly #model = new Map<number, string>()
  #session: LiveSession | undefined

  constructor(socket: string, name: string, random: Random, tally: Tally) {
    this.#socket = socket
    this.#name = name
    this.#random = random
    this.#tally = tally
  }

  async run(ended: () => boolean): Promise<void> {
    this.#session = await openSession(this.#name, { socket: this.#socket, reconnectMs: WAIT_LIMIT_MS })
    while (!ended()) {
      await this.#step(this.#session)
      await sleep(this.#random.between(0, 20))
    }
    await this.#check(this.#session)
    this.#session.close()
  }

  async #step(session: LiveSession): Promise<void> {
    const tokens = [...this.#model.keys()]
    const known = tokens.length > 0 ? this.#random.pick(tokens) : undefined
    const what = this.#random.weighted([
      [tokens.length < MAX_TOKENS ? 4 : 0, 'preserve'],
      [3, 'retrieve'],
      [2, 'unpreserve'],
      [1, 'check'],
    ] as const)
    if (what === 'preserve') {
      const token = this.#random.between(1, 1_000_000)
      if (this.#model.has(token)) return
      const text = `${this.#name} ${token} ${this.#random.next()}`
      using fd = createMemfd('soak')
      writeAt(fd, Buffer.from(text), 0)
      await session.preserve(token, inheritStdio(fd))
      this.#model.set(token, text)
    } else if (what === 'check') await this.#check(session)
    else if (known !== undefined && what === 'retrieve') await this.#compare(session, known)
    else if (known !== undefined) {
      await session.unpreserve(known)
      this.#model.delete(known)
    }
  }

  async #compare(session: LiveSession, token: number): Promise<void> {
    this.#tally.checks += 1
    using fd = Fd.adopt(await session.retrieve(token))
    const bytes = new Uint8Array(TEXT_BYTES)
    const text = Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString()
    if (text !== this.#model.get(token)) this.#lose(`token ${token} has "${text}"`)
  }

  async #check(session: LiveSession): Promise<void> {
    this.#tally.checks += 1
    const has = (await session.tokens()).map(Number).sort((a, b) => a - b)
    const should = [...this.#model.keys()].sort((a, b) => a - b)
    if (has.join() !== should.join())
      this.#lose(`it has the tokens ${has.join()}, and ${should.join()} were acknowledged`)
  }

  #lose(why: string): void {
    this.#tally.lost += 1
    this.#tally.problems.push(`${this.#name}: ${why}`)
  }
}

async function statusOf(socket: string): Promise<Status | undefined> {
  try {
    const client = await VarlinkClient.connect(socket)
    try {
      return (await client.call('Status', {})).parameters
    } finally {
      client.close()
    }
  } catch {
    return undefined
  }
}

/** Another luod than `not` answers, and has another standby than `notStandby`. */
async function whole(socket: string, not?: number, notStandby?: number): Promise<Status> {
  const end = performance.now() + WAIT_LIMIT_MS
  for (;;) {
    const status = await statusOf(socket)
    const { pid, protection } = status ?? {}
    if (status && protection?.ready && pid !== not && protection.pid !== notStandby) return status
    if (performance.now() > end) throw new Error(`luod is not whole: ${JSON.stringify(status)}`)
    await sleep(WAIT_MS)
  }
}

async function replace(world: worlds.World, random: Random, tally: Tally): Promise<void> {
  const { pid, protection } = await whole(world.socket)
  const what = random.weighted([
    [6, 'luod'],
    [3, 'standby'],
    [2, 'upgrade'],
  ] as const)
  if (what === 'upgrade') {
    await world.upgradeLuod()
    tally.upgrades += 1
    return
  }
  const victim = what === 'luod' ? pid : (protection.pid ?? 0)
  process.kill(victim, 'SIGKILL')
  tally.kills += 1
  const now = what === 'luod' ? await whole(world.socket, pid) : await whole(world.socket, undefined, victim)
  const findings = what === 'luod' ? (now.takeover?.findings ?? 0) : 0
  if (findings > 0) tally.problems.push(`after a kill ${findings} records or descriptors were missing`)
}

async function update(world: worlds.World, command: (name: string) => string[], random: Random, tally: Tally) {
  const version = random.pick(['v1', 'v2', 'v1', 'v2', 'newer', 'crash'])
  const { outcome, reason } = await world.update(command(version))
  const wanted = version.startsWith('v') ? 'committed' : 'rolledBack'
  // What is under way when luod is replaced may be given up, and then nothing has changed.
  if (outcome !== wanted && outcome !== 'rolledBack') tally.problems.push(`${version}: ${outcome}: ${reason}`)
  if (outcome === 'rolledBack') tally.rolledBack += 1
  tally.updates += 1
}

/** Answers whether nothing was lost or left. */
export async function soakReplacing(kills: number, seed: string, json: boolean): Promise<boolean> {
  const started = performance.now()
  const { World, serverCommand } = (await import(join(PROJECT, 'dist/demo/world.js'))) as typeof worlds
  const { Checker } = (await import(join(PROJECT, 'dist/demo/checker.js'))) as typeof checkers
  const tally: Tally = { kills: 0, upgrades: 0, updates: 0, rolledBack: 0, checks: 0, lost: 0, problems: [] }
  const world = await World.create()
  const random = (what: string) => new Random(`${seed} ${what}`)
  let leakedFds = 0
  try {
    await world.start('v1')
    const before = (await whole(world.socket)).open_fds
    const checker = new Checker(world.port)
    checker.start()
    const ended = () => tally.kills >= kills || tally.problems.length > 0
    const note = (error: unknown) => void tally.problems.push(error instanceof Error ? error.message : String(error))
    const until = async (run: () => Promise<void>) => {
      while (!ended()) await run()
    }
    const replacing = random('replace')
    const updating = random('update')
    const work = [
      ...Array.from({ length: PROGRAMS }, (_, index) =>
        new Program(world.socket, `program-${index}`, random(`program ${index}`), tally).run(ended),
      ),
      until(() => update(world, serverCommand, updating, tally)),
      until(async () => {
        await sleep(replacing.between(...CALM_MS))
        await replace(world, replacing, tally)
        if (!json && tally.kills % 25 === 0) console.log(JSON.stringify({ ...tally, problems: tally.problems.length }))
      }),
    ]
    await Promise.all(work.map((each) => each.catch(note)))
    await checker.stop()
    const { failed, lost, errors } = checker.stats()
    const gone = await checker.verify()
    tally.lost += gone.length
    if (failed + lost + gone.length > 0) {
      tally.problems.push(
        `the service: ${failed} failed, ${lost} connections cut, ${gone.length} writes lost`,
        ...errors,
      )
    }
    const { intact } = JSON.parse(await world.request('GET', '/check')) as { intact: boolean }
    if (!intact) tally.problems.push("the service's memory is damaged")
    leakedFds = await leaked(world.socket, before)
  } catch (error) {
    tally.problems.push(error instanceof Error ? error.message : String(error))
  }
  await world.close()
  const leakedProcesses = processesOf(world.socket)
  const { problems, lost, ...counts } = tally
  for (const line of problems.slice(0, SHOWN_PROBLEMS)) console.error(line)
  const seconds = Math.round((performance.now() - started) / 1000)
  const left = { lost, leaked_fds: leakedFds, leaked_processes: leakedProcesses, problems: problems.length }
  console.log(JSON.stringify({ ...counts, ...left, seed, seconds }))
  return problems.length + lost + leakedFds + leakedProcesses === 0
}

/** How many descriptors luod has more than at first, once what ended has been seen. */
async function leaked(socket: string, before: number): Promise<number> {
  const end = performance.now() + WAIT_LIMIT_MS / 3
  for (;;) {
    const more = (await whole(socket)).open_fds - before
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
