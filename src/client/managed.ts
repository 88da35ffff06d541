/**
 * `Live` in a workload: the client's part of an update.
 *
 *     starting ─ready→ running ─prepare→ preparing ─ready→ frozen ─release→ released
 *                         └──────────────←─resume──────────┘
 *
 * While it is frozen this version holds everything still: memory is private, so that a stray write vanishes, and no
 * socket is read. It goes on only when luod says `resume`, or is away for too long before this version gave its word
 * (`Released`): without that word luod never lets another version begin, and hears of it when it is back (`Refuse`).
 *
 * luod may be replaced, or a connection cut, at any time. The link finds it again and repeats what was under way; luod
 * then says which update it asks this version in, if any, and sends the event that is due once more.
 *
 * A successor reads the state when the first resource is asked for, or at `ready`; its memory is private and its
 * sockets are not even opened until the commit is answered.
 */
import { randomUUID } from 'node:crypto'
import type { Server } from 'node:net'
import { isLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { DEFAULT_RECONNECT_MS } from '../wire/reconnecting.js'
import { unlessAborted } from './abort.js'
import { Holdings, type LiveState } from './holdings.js'
import { HookList } from './hooks.js'
import type { LuodLink, MemberEvent } from './luod-link.js'
import type {
  FileOptions,
  HookName,
  Hooks,
  JoinOptions,
  Live,
  LiveSession,
  Memory,
  MemoryOptions,
  ServeOptions,
  SessionOptions,
  UpdateInfo,
} from './types.js'

const DEFAULT_DRAIN_MS = 30_000
/** A version that holds still waits for luod only this part of the time. */
const PATIENCE_SHARE = 0.5
/** A shutdown ends sooner, with this process. */
const DEFAULT_KEXEC_WAIT_MS = 600_000
/** Of the deadline that luod gives, requests under way may take this much. */
const SETTLE_SHARE = 0.8
/** What can be done later is done this much later, when the clients have their answers. */
const TIDY_DELAY_MS = 50

export interface Membership {
  link: LuodLink
  workload: string
  member: string
  session: string
  sessionFd: Fd
  origin: 'new' | 'update' | 'crash'
  options: JoinOptions
}

export class ManagedLive implements Live {
  readonly workload: string
  readonly origin: 'new' | 'update' | 'crash'
  readonly #link: LuodLink
  readonly #member: string
  readonly #sessionFd: Fd
  readonly #options: JoinOptions
  readonly #hooks = new HookList()
  readonly #holdings: Holdings
  #state: LiveState = 'starting'
  /** Why luod cannot be reached any more. */
  #gone: LuoError | undefined
  #update: (Pick<UpdateInfo, 'purpose'> & { id: string; abort: AbortController; work: Promise<void> }) | undefined
  /** Asked for while this version still comes back from the one before. */
  #next: UpdateInfo | undefined
  /** The update in which this version went on because luod was away, until luod has ended it too. */
  #refused: string | undefined
  /** While luod is away and this version holds still. */
  #patience: NodeJS.Timeout | undefined

  constructor({ link, workload, member, session, sessionFd, origin, options }: Membership) {
    this.#link = link
    this.workload = workload
    this.#member = member
    this.#holdings = new Holdings({
      ...{ link, member, session, origin },
      state: () => this.#state,
      check: (action) => this.#mayHaveResources(action),
    })
    this.#sessionFd = sessionFd
    this.origin = origin
    this.#options = options
    void link.closed.then((error) => this.#luodGone(error))
  }

  get active(): boolean {
    return this.#state !== 'left' && this.#state !== 'released'
  }

  get successor(): boolean {
    return this.origin !== 'new'
  }

  on<N extends HookName>(event: N, hook: Hooks[N]): Live {
    this.#hooks.add(event, hook)
    return this
  }

  // --- resources ----------------------------------------------------------------------------------------------------

  memory(name: string, options: MemoryOptions): Promise<Memory> {
    return this.#holdings.memory(name, options)
  }

  replace(name: string, options: MemoryOptions): Promise<Memory> {
    return this.#holdings.replace(name, options)
  }

  file(name: string, file?: number | { readonly fd: number }, options?: FileOptions): Promise<number | undefined> {
    return this.#holdings.file(name, file, options)
  }

  session(name: string, options: SessionOptions = {}): Promise<LiveSession> {
    return this.#holdings.session(name, options)
  }

  serve(server: Server, options: ServeOptions): Promise<void> {
    return this.#holdings.serve(server, options)
  }

  #mayHaveResources(action: string): void {
    if (this.#gone) throw new LuoError('LUO_GONE', `${action}: luod is gone`, { cause: this.#gone })
    if (this.#state !== 'starting' && this.#state !== 'running') {
      throw new LuoError('EBUSY', `${action}: this version is ${this.#state}, the state is not its own now`)
    }
  }

  // --- taking over --------------------------------------------------------------------------------------------------

  async ready(): Promise<void> {
    if (this.#gone) throw new LuoError('LUO_GONE', 'ready: luod is gone', { cause: this.#gone })
    if (this.#state !== 'starting') throw new LuoError('LUO_WRONG_STATE', `ready: this version is ${this.#state}`)
    const commit = () => this.#link.call('Commit', { id: randomUUID(), member: this.#member })
    if (this.origin === 'new') {
      await this.#holdings.flush()
      await commit()
      this.#state = 'running'
      return
    }
    await this.#holdings.claim()
    const committed = commit()
    // Meanwhile, the old version gives its word.
    const drop = this.#holdings.adopt()
    try {
      await committed
    } catch (error) {
      drop()
      throw error
    }
    this.#state = 'running'
    await this.#holdings.begin()
    setTimeout(() => void this.#tidyUp(), TIDY_DELAY_MS)
  }

  /** After the commit, away from the moment in which clients wait. */
  async #tidyUp(): Promise<void> {
    if (this.#state === 'released' || this.#state === 'left') return
    try {
      await this.#holdings.dropUnused()
    } catch (error) {
      if (this.active) process.emitWarning(`take connections back from luod: ${String(error)}`)
    }
  }

  // --- letting go ---------------------------------------------------------------------------------------------------

  onEvent({ event, update = '', deadline_ms: deadlineMs = 0, purpose = 'update', reason = '' }: MemberEvent): void {
    if (event === 'subscribed') this.#subscribedAgain(update)
    else if (event === 'prepare') this.#startPreparing({ update, purpose, deadlineMs })
    else if (event === 'resume') this.#resumed(update, reason)
    else if (event === 'release' && this.#update?.id === update) void this.#release(update)
  }

  #startPreparing(info: UpdateInfo): void {
    // luod says it again after a lost connection.
    if (info.update === this.#update?.id || info.update === this.#refused) return
    if (this.#update) this.#next = info
    if (this.#state !== 'running') return
    this.#state = 'preparing'
    // Held still, nothing else may keep this process alive.
    this.#link.hold()
    const abort = new AbortController()
    const { update: id, purpose } = info
    this.#update = { id, purpose, abort, work: this.#prepare(info, abort.signal) }
  }

  #resumed(update: string, reason: string): void {
    if (this.#next?.update === update) this.#next = undefined
    if (this.#refused === update) void this.#refusalEnded()
    if (this.#update?.id === update) void this.#resume(reason)
  }

  /** luod is back. What it does not ask any more has ended meanwhile. */
  #subscribedAgain(update: string): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
    if (this.#refused !== update) void this.#refusalEnded()
    if (this.#update && this.#update.id !== update) void this.#resume('the update ended while luod was away')
  }

  onLost(): void {
    if (!this.#update || this.#patience) return
    const { reconnectMs = DEFAULT_RECONNECT_MS } = this.#options
    // luod may have its word for a kexec: what is written from then on would be lost with this kernel.
    const toCross = this.#update.purpose === 'kexec' && this.#state === 'frozen'
    const ms = toCross ? this.#kexecWaitMs : reconnectMs * PATIENCE_SHARE
    this.#patience = setTimeout(() => this.#goOnAlone(ms), ms)
  }

  get #kexecWaitMs(): number {
    return this.#options.kexecWaitMs ?? DEFAULT_KEXEC_WAIT_MS
  }

  /** The word for it was not given, and is not given any more. luod hears that first when it is back. */
  #goOnAlone(ms: number): void {
    const update = this.#update
    if (!update) return
    const reason = `luod was away for ${ms / 1000} s, and this version goes on`
    this.#refused = update.id
    void this.#resume(reason)
    void this.#refuse(update.id, new LuoError('LUO_GONE', reason), undefined)
  }

  /** luod has ended the update too, and can be asked for what it still holds. */
  async #refusalEnded(): Promise<void> {
    if (this.#refused === undefined) return
    this.#refused = undefined
    await this.#takeBackConnections()
  }

  async #prepare(info: UpdateInfo, signal: AbortSignal): Promise<void> {
    const startedAt = performance.now()
    let heldSince: number | undefined
    try {
      await unlessAborted(this.#hooks.run('prepare', info), signal)
      heldSince = performance.now()
      const settle = (limit: number) =>
        Math.max(0, Math.min(limit, info.deadlineMs * SETTLE_SHARE - (performance.now() - startedAt)))
      await this.#holdings.quiesce(info, settle, signal)
      await unlessAborted(this.#hooks.run('freeze', info), signal)
      this.#holdings.makePrivate()
      this.#state = 'frozen'
      if (info.purpose === 'kexec') this.#link.waitFor(this.#kexecWaitMs)
      await this.#holdings.sayReady(info, heldSince, signal)
    } catch (error) {
      // luod has ended the update already, and says so, or has said it.
      if (signal.aborted || isLuoError(error, 'LUO_WRONG_STATE')) return
      await this.#refuse(info.update, error, heldSince)
    }
  }

  async #refuse(update: string, error: unknown, heldSince: number | undefined): Promise<void> {
    const reason = (error instanceof Error ? error.message : String(error)).slice(0, 500) || 'no reason given'
    try {
      const heldMs = heldSince === undefined ? 0 : performance.now() - heldSince
      const refusal = { id: randomUUID(), member: this.#member, update, reason, held_ms: heldMs }
      await this.#link.call('Refuse', refusal)
    } catch (refused) {
      // The update is over, or luod will never hear of it.
      const known = isLuoError(refused, 'LUO_WRONG_STATE') || isLuoError(refused, 'LUO_GONE')
      if (!known) process.emitWarning(`refuse update ${update}: ${String(refused)}`)
    }
  }

  async #resume(reason: string): Promise<void> {
    const update = this.#update
    if (!update) return
    clearTimeout(this.#patience)
    this.#patience = undefined
    update.abort.abort(new LuoError('LUO_ABORTED', reason))
    await update.work
    if (this.#update !== update) return
    this.#update = undefined
    this.#link.waitFor()
    await this.#goOn(reason)
  }

  async #goOn(reason: string): Promise<void> {
    this.#holdings.makeShared()
    this.#state = 'running'
    await this.#holdings.resumeServers()
    this.#link.letGo()
    if (this.#refused === undefined) await this.#takeBackConnections()
    await this.#hooks.runAll('resume', reason)
    const next = this.#next
    this.#next = undefined
    if (next) this.#startPreparing(next)
  }

  async #takeBackConnections(): Promise<void> {
    try {
      await this.#holdings.takeBackConnections()
    } catch (error) {
      if (this.active) process.emitWarning(`take connections back from luod: ${String(error)}`)
    }
  }

  async #release(update: string): Promise<void> {
    if (this.#state !== 'frozen') return
    this.#state = 'released'
    this.#update = undefined
    clearTimeout(this.#patience)
    try {
      await this.#link.call('Released', { id: randomUUID(), member: this.#member, update })
    } catch {
      // The word did not arrive; what it said is true, and luod knows what to do without it.
    }
    // The new version needs the processor more than we do.
    await new Promise((resolve) => setTimeout(resolve, TIDY_DELAY_MS))
    const drainMs = this.#options.drainMs ?? DEFAULT_DRAIN_MS
    const drained = this.#holdings.drain(drainMs)
    await this.#hooks.runAll('released')
    await drained
    this.#end()
    if (this.#options.exitWhenReleased !== false) process.exit(0)
  }

  /** luod ended. A version that has not given its word is the only one that can go on. */
  #luodGone(error: LuoError): void {
    const update = this.#update
    if (this.#state === 'released' || this.#state === 'left') return
    this.#gone = error
    if (update) {
      void this.#resume('luod is gone').then(() => this.#detach())
      return
    }
    this.#detach()
  }

  #detach(): void {
    this.#state = 'left'
    this.#end()
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  async leave(): Promise<void> {
    if (!this.active) return
    this.#state = 'left'
    await this.#holdings.giveUp(this.workload)
    this.#end()
  }

  async close(): Promise<void> {
    if (this.#state !== 'released') this.#state = 'left'
    this.#end()
  }

  #end(): void {
    this.#holdings.close()
    this.#sessionFd.close()
    this.#link.close()
  }
}
