/**
 * One kexec, as far as this kernel goes. Nothing is lost before the reboot call; until then all can be undone:
 *
 *     asking        every workload lets go (`kexec-barrier.ts`)
 *     preserving    luod stands still, and what it holds is put into sessions of the kernel
 *     preserved     dry run: undone, and everybody goes on
 *     stopping      direct: workloads are killed, and what is not written is written; systemd: it gets the sessions to
 *                   keep, if it is one that takes them over the kexec, is asked for it, and does that
 *     rebooting     direct: the call that does not return
 *
 * Whoever refuses, and whatever fails, is the error that the request is answered with, when everybody goes on again.
 * Only workloads that were stopped before the reboot call failed do not: they are dead, and their state waits for their
 * restart.
 */
import { randomUUID } from 'node:crypto'
import type { LiveDevice } from '../backends/contract.js'
import { type ContentToCross, type HandedOver, handOver } from '../backends/crossing.js'
import { asLuoError, LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import { waitReadable } from '../sys/poller.js'
import type { Actor, EventFacts } from './events.js'
import { KexecBarrier } from './kexec-barrier.js'
import type { Keeper } from './kexec-keeper.js'
import type { KexecSystem } from './kexec-system.js'
import { keepSessions, type SessionStore, takeOut } from './session-store.js'
import type { State } from './state.js'

/** A process that was sent SIGKILL is waited for this long in all; the reboot ends the others. */
const STOP_MS = 5_000

export type KexecProgress = Methods['Kexec']['output']
export type KexecStep = NonNullable<KexecProgress['step']>

export interface KexecRequest {
  deadlineMs: number
  dryRun: boolean
  how: 'direct' | 'systemd'
  /** Names of incoming sessions that may be lost. */
  drop: readonly string[]
  by: Actor
}

/** What a kexec needs of luod. */
export interface KexecHost {
  readonly state: State
  readonly device: LiveDevice
  readonly system: KexecSystem
  /** The service manager's, if it has everything of luod. */
  store(): SessionStore | undefined
  /** Everything that crosses. */
  content(): ContentToCross
  /** Nothing happens any more, until `goOn`; an abort is heard. */
  standStill(): void
  goOn(): void
}

export class Kexec {
  readonly id = randomUUID()
  /** The last that there is to say. Rejects when it was refused, has failed or was aborted, and everybody goes on. */
  readonly finished: Promise<KexecProgress>
  readonly #host: KexecHost
  readonly #request: KexecRequest
  readonly #barrier: KexecBarrier
  readonly #startedAt = performance.now()
  /** When each step began, of the wall clock, in ms: the next kernel has no other. */
  readonly #times: Record<string, number> = {}
  readonly #said: KexecProgress[] = []
  readonly #listeners = new Set<(progress: KexecProgress) => void>()
  readonly #keeper: Promise<Keeper> | undefined
  #handedOver: HandedOver | undefined
  /** Of its sessions, in the service manager's store. */
  #kept: { store: SessionStore; keys: readonly string[] } | undefined
  #holder: Keeper | undefined
  #undone: Promise<void> | undefined
  #aborted: LuoError | undefined
  #step: KexecStep = 'asking'
  #over = false

  /** Throws when it cannot begin; then nobody has heard of it. */
  constructor(host: KexecHost, request: KexecRequest) {
    const { state, system } = host
    this.#host = host
    this.#request = request
    if (!request.dryRun) system.mustBePossible(request.how)
    mustLoseNothing(system, request.drop)
    // Asked while workloads let go; what comes of it counts after that.
    this.#keeper = request.how === 'systemd' ? system.keeper(host.store() !== undefined) : undefined
    this.#keeper?.catch(() => {})
    const { deadlineMs, by } = request
    this.#barrier = new KexecBarrier(
      this.id,
      state,
      { deadlineMs, check: undefined, command: undefined, by },
      (workload, update, phase) => this.#say({ workload, update, phase }),
    )
    this.finished = this.#run()
    this.finished.catch(() => {})
  }

  /** Nothing of it is left in this kernel. */
  get over(): boolean {
    return this.#over
  }

  /** Whoever has to be there until the reboot call, for what was preserved to cross. */
  get holder(): Keeper | undefined {
    return this.#over ? undefined : this.#holder
  }

  /** Calls `listener` with all that was said, and what will be. Answers how to stop that. */
  listen(listener: (progress: KexecProgress) => void): () => void {
    for (const progress of this.#said) listener(progress)
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Resolves when everybody goes on. LUO_WRONG_STATE when there is no way back. */
  async abort(by: Actor): Promise<void> {
    if (this.#over || this.#step === 'rebooting') {
      throw new LuoError('LUO_WRONG_STATE', `abort the kexec: it is ${this.#over ? 'over' : 'at its reboot call'}`)
    }
    const reason = new LuoError('LUO_ABORTED', `kexec: aborted by pid ${by.pid}`)
    this.#aborted = reason
    // The service manager was asked, and nothing else will end it.
    if (this.#handedOver) await this.#undo(reason)
    else await this.#barrier.abort(reason)
    await this.finished.catch(() => {})
  }

  async #run(): Promise<KexecProgress> {
    const { by, dryRun } = this.#request
    const detail = dryRun ? 'a dry run' : this.#request.how
    this.#host.state.events.emit(process.getuid?.() ?? 0, 'kexecAsked', { by, detail })
    try {
      // Whoever asked is told of what happens from here on.
      await Promise.resolve()
      this.#enter('asking')
      await this.#barrier.passed
      const keeper = await this.#keeper
      this.#mustGoOn()
      this.#preserve()
      if (dryRun) return await this.#endDryRun()
      return this.#request.how === 'direct' ? this.#reboot() : await this.#askManager(keeper)
    } catch (error) {
      const known = asLuoError(error, 'EIO', 'kexec')
      await this.#undo(known)
      throw known
    }
  }

  #preserve(): void {
    const { state, device, content } = this.#host
    if (!this.#barrier.stands) throw new LuoError('LUO_UPDATING', 'kexec: a workload has gone on meanwhile')
    this.#host.standStill()
    this.#enter('preserving')
    const all = content()
    this.#handedOver = handOver(device, all)
    this.#handedOver.note(this.#times)
    const crossing = new Set(all.sessions.map(({ session }) => session))
    const bytes = [...state.sessions.index.all()]
      .filter(({ session }) => crossing.has(session.id))
      .reduce((sum, holding) => sum + holding.bytes, 0)
    const files = all.sessions.reduce((sum, session) => sum + session.files.length, 0)
    this.#enter('preserved', { sessions: all.sessions.length, files, bytes: String(bytes) })
  }

  async #endDryRun(): Promise<KexecProgress> {
    this.#letGo()
    await this.#barrier.endCheck()
    this.#over = true
    this.#tellEnd({ detail: 'a dry run: nobody refused', spans: this.#spans() })
    return this.#enter('undone')
  }

  /** The state is the kernel's: whoever had it is killed, so that nobody changes it, and its peers see its end now. */
  #reboot(): KexecProgress {
    const { state, system } = this.#host
    this.#enter('stopping')
    const members = [...state.members()].filter((member) => member.kill())
    const end = performance.now() + STOP_MS
    for (const { handle } of members) waitReadable(handle, Math.max(0, end - performance.now()))
    system.sync()
    const { readOnly, failed } = system.remountReadOnly()
    const warnings = failed.map(({ path, code }) => `${path} stays writable (${code})`)
    const last = this.#enter('rebooting', warnings.length > 0 ? { warnings } : {})
    this.#handedOver?.note(this.#times)
    try {
      system.reboot()
    } catch (error) {
      system.remountWritable(readOnly)
      throw error
    }
    return last
  }

  async #askManager(keeper: Keeper | undefined): Promise<KexecProgress> {
    const { system, store } = this.#host
    if (keeper === 'manager' && this.#handedOver) {
      const keeping = keepSessions(store(), this.#handedOver.sessions)
      this.#kept = keeping
      await keeping.kept
    }
    this.#holder = keeper
    const last = this.#enter('stopping')
    this.#handedOver?.note(this.#times)
    this.#mustGoOn()
    await system.askManager()
    this.#mustGoOn()
    return last
  }

  /** After each wait: whoever aborts it meanwhile has undone what there was until then. */
  #mustGoOn(): void {
    if (this.#aborted) throw this.#aborted
  }

  #undo(reason: LuoError): Promise<void> {
    this.#undone ??= this.#undoOnce(reason)
    return this.#undone
  }

  async #undoOnce(reason: LuoError): Promise<void> {
    this.#holder = undefined
    // As long as somebody has the sessions, memory can neither grow nor shrink.
    if (this.#kept) await takeOut(this.#kept)
    this.#letGo()
    await this.#barrier.abort(reason)
    if (this.#over) return
    this.#over = true
    this.#tellEnd({ code: reason.code, detail: reason.message })
  }

  #tellEnd(facts: Pick<EventFacts, 'code' | 'detail' | 'spans'>): void {
    const about = { by: this.#request.by, duration_ms: performance.now() - this.#startedAt }
    this.#host.state.events.emit(process.getuid?.() ?? 0, 'kexecEnded', { ...about, ...facts })
  }

  #letGo(): void {
    const handedOver = this.#handedOver
    this.#handedOver = undefined
    handedOver?.close()
    this.#host.goOn()
  }

  #enter(step: KexecStep, facts: Partial<KexecProgress> = {}): KexecProgress {
    this.#step = step
    this.#times[step] = Date.now()
    return this.#say({ step, at_ms: performance.now() - this.#startedAt, ...facts })
  }

  #spans(): Record<string, number> {
    const steps = Object.entries(this.#times)
    const spans = steps.map(([step, at], index) => [step, (steps[index + 1]?.[1] ?? Date.now()) - at])
    return Object.fromEntries(spans)
  }

  #say(facts: Omit<KexecProgress, 'kexec'>): KexecProgress {
    const progress = { kexec: this.id, ...facts }
    this.#said.push(progress)
    for (const listener of this.#listeners) listener(progress)
    return progress
  }
}

/** The kernel lets go of what came in when it ends, unless it was finished and preserved again. */
function mustLoseNothing(system: KexecSystem, drop: readonly string[]): void {
  const lost = system.incoming().filter(({ name }) => !drop.includes(name))
  const [first] = lost
  if (!first) return
  const names = lost.map(({ name, pid, command }) => `${name} (process ${pid}, ${command})`).join(', ')
  throw new LuoError(
    'EBUSY',
    `kexec: sessions of the kernel came in that nobody has finished, and would be lost: ${names}; finish them, or name ` +
      `each of them: luoctl kexec --drop ${first.name}`,
  )
}
