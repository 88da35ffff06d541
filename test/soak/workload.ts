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
import { VarlinkClient } from '../../src/wire/client.js'
import { ReconnectingClient } from '../../src/wire/reconnecting.js'
import { Model } from './model.js'
import { choosePlan, type Plan } from './plan.js'
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
}

export class SoakWorkload {
  readonly #options: WorkloadOptions
  readonly #random: Random
  readonly #model: Model
  #operator: ReconnectingClient | undefined
  #supervisor: VarlinkClient | undefined
  #version: Version | undefined
  #successor: Version | undefined
  #plan: Plan | undefined
  /** What is under way beside the update itself. */
  #aside: Promise<void>[] = []

  constructor(options: WorkloadOptions) {
    this.#options = options
    this.#random = new Random(options.seed)
    this.#model = new Model(options.name, options.kinds, this.#random)
  }

  /** From the first start to the end of everything. */
  async run(updates: number): Promise<void> {
    try {
      this.#operator = await ReconnectingClient.connect(this.#options.socket)
      await this.#supervise()
      this.#version = await this.#start('new')
      await this.#model.begin(this.#version)
      for (let count = 0; count < updates; count++) await this.#update(count)
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
    const { socket, name } = this.#options
    for (let attempt = 1; ; attempt++) {
      const client = await VarlinkClient.connect(socket)
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

  async #follow(stream: ReturnType<VarlinkClient['stream']>): Promise<void> {
    for await (const { parameters, fds } of stream) {
      try {
        const { event, update = '' } = parameters as Methods['Supervise']['output']
        if (event === 'start') this.#do(this.#startSuccessor(update, fds[0]))
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
    const { fault, aborts } = plan
    const stop = aborts ? 'before Commit' : fault?.in === 'new' ? `${fault.point.when} ${fault.point.call}` : undefined
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

  async #update(count: number): Promise<void> {
    const { tally } = this.#options
    const [old, operator] = [this.#version, this.#operator]
    if (!old || !operator) throw new Error('there is nothing to update')
    await this.#model.change(old)
    const plan = choosePlan(this.#random)
    const { fault, refuses } = plan
    if (refuses) await old.ask('refuse')
    if (fault?.in === 'old') await old.stopAt(`${fault.point.when} ${fault.point.call}`)
    this.#plan = plan
    this.#successor = undefined
    try {
      const { deadlineMs, check } = plan
      const result = await followUpdate(operator, {
        workload: this.#options.name,
        deadlineMs,
        ...(check ? { check } : {}),
      })
      const failure = result.outcome === 'committed' ? undefined : failureOf(result.timeline)
      if (result.outcome !== plan.outcome || failure?.code !== plan.code) {
        this.#problem(`${plan.name} came to ${result.outcome} ${failure?.code}: ${failure?.reason}`)
      }
      await Promise.all(this.#aside.splice(0))
      const version = await this.#goOn(plan, old, result)
      this.#version = version
      const differences = await this.#model.differences(version)
      tally.lost += differences.length
      for (const line of differences) this.#problem(`${plan.name}: ${line}`)
    } catch (error) {
      const where = `${this.#options.name}, update ${count} (${plan.name})`
      throw new Error(`${where}: ${error instanceof Error ? error.message : error}`, { cause: error })
    }
    tally.updates += 1
    tally[plan.outcome] += 1
    if (fault) tally.faults += 1
  }

  /** The test does to somebody what the plan says, now that `version` stands where it shall happen. */
  async #strike(version: Version): Promise<void> {
    const { fault, aborts } = this.#plan ?? {}
    if (aborts) {
      await this.#call('Abort', { id: randomUUID(), workload: this.#options.name })
      return
    }
    if (!fault || fault.point.action === 'hang') return
    const { victim } = fault.point
    if (victim === 'supervisor') await this.#endSupervision()
    const killed = victim === 'self' ? version : victim === 'old' ? this.#version : undefined
    killed?.kill()
    await killed?.ended()
    // luod has seen it when it has answered what was asked later.
    await this.#call('Status', {})
    if (victim !== 'self') version.goOn()
  }

  /** It is this process, which lives on: luod gives it some time to come back before it counts as gone. */
  async #endSupervision(): Promise<void> {
    this.#supervisor?.close()
    for (;;) {
      const { parameters } = await this.#call('Show', { workload: this.#options.name })
      if (!parameters.workload.supervised) return
      await sleep(SUPERVISE_RETRY_MS)
    }
  }

  /** Answers who has the state now, when the others have ended. */
  async #goOn(plan: Plan, old: Version, { timeline }: UpdateResult): Promise<Version> {
    const successor = this.#successor
    let version = old
    if (plan.serving === 'old') {
      await successor?.ended()
      if (old.stopped) old.goOn()
      // Its deadline may be over on a slow machine before the old version is asked.
      else if (old.armed) await old.disarm()
      if (timeline.some(({ phase }) => phase === 'preparing')) await old.says('resumed')
    } else if (plan.serving === 'new' && successor) {
      await successor.says('running update')
      await old.ended()
      version = successor
    } else {
      await Promise.all([successor?.ended(), old.ended()])
      version = await this.#start('crash')
      this.#model.restarted()
    }
    if (plan.fault?.point.victim === 'supervisor') await this.#supervise()
    return version
  }

  // --- helpers ------------------------------------------------------------------------------------------------------

  /** On a connection of its own: requests of one are answered one after the other. */
  async #call<M extends keyof Methods>(method: M, input: Methods[M]['input'], fds: readonly Fd[] = []) {
    const client = await VarlinkClient.connect(this.#options.socket)
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
