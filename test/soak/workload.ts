/**
 * One workload of the soak test: supervisor and operator of its updates, in this process, and versions as processes.
 * What an update comes to is compared with its plan, and what the version finds afterwards with the model.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { failureOf, followUpdate, type UpdateResult } from '../../src/cli/update.js'
import { isLuoError } from '../../src/errors.js'
import type { Methods } from '../../src/protocol/types.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { openPidfd } from '../../src/sys/pidfd.js'
import { ReconnectingClient } from '../../src/wire/reconnecting.js'
import { WAIT_LIMIT_MS, WAIT_MS } from './limits.js'
import type { Luod } from './luod.js'
import { Model } from './model.js'
import { choosePlan, chooseStep, type Plan } from './plan.js'
import { Random } from './random.js'
import { Version } from './version.js'

const KEEP_MS = 60_000
/** A supervisor that was just killed may not be gone for luod yet. */
const SUPERVISE_ATTEMPTS = 100
const SUPERVISE_RETRY_MS = 10

export interface Tally {
  updates: number
  committed: number
  rolledBack: number
  orphaned: number
  checked: number
  faults: number
  /** Of versions and supervisors. */
  kills: number
  /** Files and sessions that were not as they had to be. */
  lost: number
  /** They, and outcomes that were not as planned, a line each. */
  problems: string[]
}

export interface WorkloadOptions {
  name: string
  program: string
  directory: string
  socket: string
  kinds: readonly string[]
  seed: string
  tally: Tally
  /** It may be replaced at any time, and steps of the workload replace it too. */
  luod?: Luod
}

export class SoakWorkload {
  readonly #options: WorkloadOptions
  /** Of the plans alone: whatever comes of one, the next is the same. */
  readonly #random: Random
  readonly #model: Model
  #operator: ReconnectingClient | undefined
  #supervisor: ReconnectingClient | undefined
  #version: Version | undefined
  #successor: Version | undefined
  #plan: Plan | undefined
  /** The update has ended, and nobody will come to a point of it any more. */
  #over = false
  readonly #started = new Set<string>()
  readonly #killed = new Set<Version>()
  /** What has happened in this step, for whoever has to understand it. */
  readonly #said: string[] = []
  #previous = ''
  /** What is under way beside the update itself. */
  #aside: Promise<void>[] = []

  constructor(options: WorkloadOptions) {
    this.#options = options
    this.#random = new Random(`${options.seed} plan`)
    this.#model = new Model(options.name, options.kinds, new Random(options.seed), (session) => this.#gone(session))
  }

  /** So many updates, from the first start to the end of everything. */
  run(updates: number): Promise<void> {
    return this.#live(async () => {
      for (let count = 0; count < updates; count++) await this.#update(count, choosePlan(this.#random))
    })
  }

  /** Updates, and deaths of its versions. */
  runUntil(ended: () => boolean): Promise<void> {
    return this.#live(async () => {
      for (let count = 0; !ended(); count++) {
        const plan = chooseStep(this.#random)
        if (!plan) await this.#crash(count)
        // A supervisor that does not come back is waited for in each new luod again.
        else if (plan.strike || plan.fault?.point.victim === 'supervisor')
          await this.#options.luod?.alone(() => this.#update(count, plan))
        else await this.#update(count, plan)
      }
    })
  }

  async #live(live: () => Promise<void>): Promise<void> {
    try {
      this.#operator = this.#connect()
      await this.#supervise()
      this.#version = await this.#start('new')
      await this.#model.begin(this.#version)
      await live()
      this.#version.leave()
      await this.#version.ended()
      // It waits for a restart, with all its sessions, and for nothing else.
      await this.#call('ReleaseSession', { id: randomUUID(), name: this.#options.name })
    } finally {
      for (const version of [this.#version, this.#successor]) version?.kill()
      this.#supervisor?.close()
      this.#operator?.close()
    }
  }

  // --- the supervisor -----------------------------------------------------------------------------------------------

  async #supervise(): Promise<void> {
    const { name } = this.#options
    for (let attempt = 1; ; attempt++) {
      const client = this.#connect()
      const stream = client.stream('Supervise', { id: randomUUID(), workload: name, keep_ms: KEEP_MS })
      try {
        await stream.next()
      } catch (error) {
        client.close()
        if (!isLuoError(error, 'LUO_WORKLOAD_ACTIVE') || attempt === SUPERVISE_ATTEMPTS) throw error
        await sleep(SUPERVISE_RETRY_MS)
        continue
      }
      this.#supervisor = client
      this.#follow(stream).catch((error) => {
        if (!isLuoError(error, 'LUO_GONE')) this.#problem(`the supervisor failed: ${error}`)
      })
      return
    }
  }

  async #follow(stream: ReturnType<ReconnectingClient['stream']>): Promise<void> {
    for await (const { parameters, fds } of stream) {
      try {
        const { event, update = '' } = parameters as Methods['Supervise']['output']
        // After a loss of the connection it may be said again.
        if (event !== 'start' || this.#started.has(update)) continue
        this.#started.add(update)
        this.#do(this.#startSuccessor(update, fds[0]))
      } finally {
        closeAll(fds)
      }
    }
  }

  /** In the turn of the spawn: the ticket is closed after it. */
  async #startSuccessor(update: string, ticket: Fd | undefined): Promise<void> {
    const { name: workload } = this.#options
    const plan = this.#plan
    if (!ticket || !plan) throw new Error('luod starts a successor without a ticket, or unasked')
    if (plan.spawnFails) {
      await this.#call('SpawnFailed', { id: randomUUID(), workload, update, reason: 'the test says so' })
      return
    }
    const stop = stopOf(plan, 'new')
    this.#note(`start for ${update}`)
    const version = this.#spawn({ ticket, ...(stop ? { stop } : {}) })
    this.#successor = version
    using pidfd = openPidfd(version.pid)
    await this.#call('Spawned', { id: randomUUID(), workload, update, pid: version.pid, fds: 1 }, [pidfd])
  }

  #spawn(more: { ticket?: Fd; stop?: string }): Version {
    const { program, directory, socket, name: workload } = this.#options
    return new Version({ program, directory, socket, workload, onStopped: (at) => this.#do(this.#strike(at)), ...more })
  }

  async #start(origin: 'new' | 'crash'): Promise<Version> {
    const version = this.#spawn({})
    await version.says(`running ${origin}`)
    return version
  }

  // --- updates ------------------------------------------------------------------------------------------------------

  async #update(count: number, plan: Plan): Promise<void> {
    const { tally, luod } = this.#options
    const [old, operator] = [this.#version, this.#operator]
    if (!old || !operator) throw new Error('there is nothing to update')
    try {
      await this.#model.change(old)
      if (plan.refuses) await old.ask('refuse')
      const stop = stopOf(plan, 'old')
      if (stop) await old.stopAt(stop)
      this.#plan = plan
      this.#successor = undefined
      this.#over = false
      const [replaced, resumed] = [luod?.replaced, old.resumed]
      const { deadlineMs, check } = plan
      this.#said.length = 0
      const result = await followUpdate(operator, {
        workload: this.#options.name,
        deadlineMs,
        ...(check ? { check } : {}),
      })
      this.#note(`${result.outcome} after ${result.timeline.map(({ phase, at_ms }) => `${phase} ${at_ms.toFixed(0)}`)}`)
      this.#over = result.outcome !== 'committed'
      await this.#settle()
      const struck = luod?.replaced !== replaced
      this.#judge(plan, result, struck)
      const version = await this.#goOn(plan, old, result, struck ? undefined : resumed)
      await this.#settle()
      this.#version = version
      await this.#compare(version, plan.name)
      this.#previous = result.update
      tally[result.outcome] += 1
    } catch (error) {
      throw this.#failed(count, plan.name, error)
    }
    tally.updates += 1
    if (plan.fault) tally.faults += 1
  }

  /** It dies, and another one finds everything as it was. */
  async #crash(count: number): Promise<void> {
    const old = this.#version
    if (!old) throw new Error('there is nothing to kill')
    try {
      await this.#model.change(old)
      await this.#kill(old)
      this.#killed.clear()
      this.#version = await this.#restart()
      await this.#compare(this.#version, 'crash')
    } catch (error) {
      throw this.#failed(count, 'crash', error)
    }
  }

  #judge(plan: Plan, { outcome, timeline }: UpdateResult, struck: boolean): void {
    const failure = outcome === 'committed' ? undefined : failureOf(timeline)
    if (outcome === plan.outcome && failure?.code === plan.code) return
    // What is under way when luod is replaced may be given up, and then nothing has changed. Who was killed beside that
    // may have been missed before or after.
    if (struck && (outcome === 'rolledBack' || outcome === plan.outcome || this.#killed.size > 0)) return
    const phases = timeline.map(({ phase, at_ms }) => `${phase} ${at_ms.toFixed(0)}`).join(', ')
    this.#problem(
      `${plan.name}${struck ? ', luod replaced' : ''}, came to ${outcome} ${failure?.code}: ${failure?.reason} (${phases})`,
    )
  }

  async #compare(version: Version, after: string): Promise<void> {
    const differences = await this.#model.differences(version)
    this.#options.tally.lost += differences.length
    for (const line of differences) this.#problem(`${after}: ${line}`)
  }

  /** All that is under way beside the update has ended. */
  async #settle(): Promise<void> {
    while (this.#aside.length > 0) await Promise.all(this.#aside.splice(0))
  }

  async #restart(): Promise<Version> {
    const version = await this.#start('crash')
    this.#model.restarted()
    return version
  }

  async #kill(version: Version): Promise<void> {
    this.#note(`kill pid ${version.pid}`)
    this.#killed.add(version)
    this.#options.tally.kills += 1
    version.kill()
    await version.ended()
  }

  /** The test does to somebody what the plan says, now that `version` stands where it shall happen. */
  async #strike(version: Version): Promise<void> {
    const { fault, aborts, strike } = this.#plan ?? {}
    this.#note(`pid ${version.pid} stops`)
    if (this.#over) return
    if (aborts) {
      await this.#call('Abort', { id: randomUUID(), workload: this.#options.name })
      return
    }
    if (strike) {
      await this.#options.luod?.strike(strike.what)
      version.goOn()
      return
    }
    if (!fault || fault.point.action === 'hang') return
    const { victim } = fault.point
    if (victim === 'supervisor') await this.#endSupervision()
    const victims = { self: version, old: this.#version, supervisor: undefined }
    const killed = victims[victim]
    if (killed) await this.#kill(killed)
    // luod has seen it when it has answered what was asked later.
    await this.#call('Status', {})
    if (victim !== 'self') version.goOn()
  }

  /** It is this process, which lives on: luod gives it some time to come back before it counts as gone. */
  async #endSupervision(): Promise<void> {
    this.#options.tally.kills += 1
    this.#supervisor?.close()
    this.#supervisor = undefined
    for (;;) {
      const { parameters } = await this.#call('Show', { workload: this.#options.name })
      if (!parameters.workload.supervised) return
      await sleep(SUPERVISE_RETRY_MS)
    }
  }

  /**
   * Answers who has the state now, when the others have ended. `resumed`: how often `old` was, if it must be once more.
   */
  async #goOn(plan: Plan, old: Version, { outcome, timeline }: UpdateResult, resumed?: number): Promise<Version> {
    const successor = this.#successor
    let version: Version | undefined
    if (outcome === 'committed' && successor) {
      // Killed when it has committed, as soon as it says so.
      if (this.#killed.has(successor) || isKilledAfterCommit(plan)) await successor.ended()
      else {
        await successor.says('running update')
        version = successor
      }
      await old.ended()
    } else if (outcome === 'orphaned' || this.#killed.has(old)) await Promise.all([successor?.ended(), old.ended()])
    else {
      await successor?.ended()
      if (old.stopped) old.goOn()
      // Its deadline may be over on a slow machine before the old version is asked.
      else if (old.armed) await old.disarm()
      if (resumed !== undefined && timeline.some(({ phase }) => phase === 'preparing')) await old.resumes(resumed)
      version = old
    }
    version ??= await this.#restart()
    if (!this.#supervisor) await this.#supervise()
    this.#killed.clear()
    return version
  }

  // --- helpers ------------------------------------------------------------------------------------------------------

  #connect(): ReconnectingClient {
    return ReconnectingClient.open(this.#options.socket, { reconnectMs: WAIT_LIMIT_MS })
  }

  #note(text: string): void {
    this.#said.push(`${performance.now().toFixed(0)} ms: ${text}`)
  }

  #failed(count: number, name: string, error: unknown): Error {
    const pids = `old ${this.#version?.pid}, new ${this.#successor?.pid}`
    const where = `${this.#options.name}, step ${count} (${name}; ${pids}; before ${this.#previous}; ${this.#said.join('; ')})`
    return new Error(`${where}: ${error instanceof Error ? error.message : error}`, { cause: error })
  }

  /** Of a session that is let go of nobody says so: it is when luod does not have it any more. */
  async #gone(session: string): Promise<void> {
    const end = performance.now() + WAIT_LIMIT_MS
    for (;;) {
      const { sessions } = (await this.#call('Sessions', {})).parameters
      if (!sessions.some(({ name }) => name === session)) return
      if (performance.now() > end) throw new Error(`luod still has the session ${session}`)
      await sleep(WAIT_MS)
    }
  }

  /** On a connection of its own: requests of one are answered one after the other. */
  async #call<M extends keyof Methods>(method: M, input: Methods[M]['input'], fds: readonly Fd[] = []) {
    const client = this.#connect()
    try {
      return await client.call(method, input, fds)
    } finally {
      client.close()
    }
  }

  #do(work: Promise<void>): void {
    this.#aside.push(
      work.catch((error) => {
        // The update is over by now, and what it came to is looked at.
        if (isLuoError(error, 'LUO_NOT_FOUND') || isLuoError(error, 'LUO_WRONG_STATE')) return
        this.#problem(`beside the update: ${error}`)
      }),
    )
  }

  #problem(line: string): void {
    this.#options.tally.problems.push(`${this.#options.name}: ${line}`)
  }
}

/** Where the version stops in an update of this plan: "before Commit". */
function stopOf(plan: Plan, version: 'old' | 'new'): string | undefined {
  const { fault, strike, aborts } = plan
  if (aborts) return version === 'new' ? 'before Commit' : undefined
  const at = strike?.in === version ? strike : fault?.in === version ? fault.point : undefined
  return at && `${at.when} ${at.call}`
}

function isKilledAfterCommit({ fault }: Plan): boolean {
  const { action, victim, when, call } = fault?.point ?? {}
  return fault?.in === 'new' && `${action} ${victim} ${when} ${call}` === 'kill self after Commit'
}
