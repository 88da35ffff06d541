/**
 * What luod knows: workloads, who runs them, their sessions, and the records of it all. Every change is recorded
 * before the request that made it is answered.
 *
 * A workload's sessions end with its last member, unless it asked to keep its state: then they are orphaned, and end
 * when nobody has claimed them in time. During an update neither side's end ends anything; `update.ts` decides.
 */
import type { MetaRecord, WorkloadRecord } from '../abi/record-shapes.js'
import type { Change, Records } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { HeldFile } from '../handlers/held-file.js'
import type { Fd } from '../sys/fd.js'
import { afterOf } from './describe.js'
import { type Actor, type EventFacts, Events } from './events.js'
import { checkCycle } from './group.js'
import { History } from './history.js'
import type { Holding, LuodOrchestrator } from './holding.js'
import type { Journal } from './journal.js'
import { LEFT_BEHIND_KEEP_MS } from './limits.js'
import type { Logger } from './log.js'
import type { Member, MemberOptions } from './member.js'
import { Sessions } from './sessions.js'
import { Turnstile } from './turnstile.js'
import type { Usage } from './usage.js'
import { newWorkload, type Workload, workloadRecord } from './workload.js'

/** Why the state of a workload has no holder, and who saw to that. */
interface Leaving {
  why?: string
  by?: Actor | undefined
  successor?: Member | undefined
}

/** Ids of sessions are recorded as given so many at once. */
const IDS_AHEAD = 1_024

export interface StateOptions {
  log: Logger
  usage: Usage
  journal: Journal
  turnstile?: Turnstile
  meta: MetaRecord
  /** Why a file cannot cross a kexec; undefined when it can, or when there will be none. */
  whyNotCross?: (file: HeldFile) => string | undefined
}

export class State {
  readonly sessions: Sessions
  readonly events: Events
  readonly history: History
  readonly usage: Usage
  readonly log: Logger
  readonly journal: Journal
  readonly turnstile: Turnstile
  readonly whyNotCross: (file: HeldFile) => string | undefined
  readonly #orchestrator: LuodOrchestrator
  readonly #meta: MetaRecord
  /** uid, NUL, name. */
  readonly #workloads = new Map<string, Workload>()
  readonly #members = new Map<string, Member>()
  /** Members of a luod before this one, which may repeat what that one did not get to answer. */
  readonly restoredMembers = new WeakSet<Member>()
  readonly #onClose: (() => void)[] = []
  #nextWorkload = 1n
  #nextMember = 1n
  #nextUpdate = 1n
  /** Called whenever a workload or a session has ended. */
  onEnded: () => void = () => {}

  constructor(orchestrator: LuodOrchestrator, records: Records, options: StateOptions) {
    const { log, usage, journal, turnstile = new Turnstile(), meta, whyNotCross = () => undefined } = options
    this.whyNotCross = whyNotCross
    this.usage = usage
    this.journal = journal
    this.turnstile = turnstile
    this.#orchestrator = orchestrator
    this.#meta = meta
    this.events = new Events(usage)
    this.history = new History({
      records,
      busy: () => [...this.#workloads.values()].some(({ update }) => update?.holdsRequests),
      onDefect: (error) => log('error', `record what has happened: ${String(error)}`),
    })
    this.events.onEvent((event) => this.history.add(event))
    journal.watch({ changes: () => this.history.takeChanges() })
    this.log = log
    this.sessions = new Sessions({
      orchestrator,
      usage,
      journal,
      turnstile,
      ids: () => this.#ids(),
      tell: (holding, event, more) => this.tellOf(holding, event, more),
      onExpired: (holding) => this.#expired(holding),
      onReleased: () => this.onEnded(),
    })
  }

  // --- finding ------------------------------------------------------------------------------------------------------

  get workloadCount(): number {
    return this.#workloads.size
  }

  /** Those that this user may see. */
  workloads(uid: number): Workload[] {
    return [...this.#workloads.values()].filter((workload) => uid === 0 || workload.uid === uid)
  }

  /** A user's own workload; root also finds the only one of that name. LUO_NOT_FOUND otherwise. */
  find(uid: number, name: string): Workload {
    const own = this.#workloads.get(keyOf(uid, name))
    if (own) return own
    const others = uid === 0 ? this.workloads(0).filter((workload) => workload.name === name) : []
    const [other] = others
    if (other && others.length === 1) return other
    const why = others.length > 1 ? `${others.length} users have one` : 'there is none'
    throw new LuoError('LUO_NOT_FOUND', `find the workload ${name}: ${why}`)
  }

  lookup(uid: number, name: string): Workload | undefined {
    return this.#workloads.get(keyOf(uid, name))
  }

  /** The workload of this user, made if there is none. */
  ensure(uid: number, name: string): Workload {
    const key = keyOf(uid, name)
    const known = this.#workloads.get(key)
    if (known) return known
    this.usage.check(uid, 'workloads', 1, `start the workload ${name}`)
    return this.#newWorkload(String(this.#nextWorkload++), uid, name)
  }

  #newWorkload(id: string, uid: number, name: string): Workload {
    const changes = () => this.#changesOf(workload)
    const workload = newWorkload(id, uid, name, { changes })
    this.#workloads.set(keyOf(uid, name), workload)
    this.usage.change(uid, 'workloads', 1)
    return workload
  }

  /** As it was recorded: who takes part in it, and its sessions, come later. */
  restoreWorkload(id: string, { uid, name, keep_ms: keepMs, generation, last_update }: WorkloadRecord): Workload {
    const workload = this.#newWorkload(id, uid, name)
    workload.keepMs = keepMs
    workload.generation = generation
    workload.lastUpdate = last_update
    return workload
  }

  /** Keys from these on are free. */
  startKeysAt(next: { workload: bigint; member: bigint; update: bigint }): void {
    this.#nextWorkload = next.workload
    this.#nextMember = next.member
    this.#nextUpdate = next.update
  }

  /** Whether this Unix socket is of ours: somebody's end of a lifetime, or a ticket. */
  made(file: Fd): boolean {
    if (this.sessions.holds.lifetimes.find(file)) return true
    return [...this.#workloads.values()].some(({ update }) => update?.hasTicket(file))
  }

  /** luod ends. */
  close(): void {
    for (const run of this.#onClose) run()
    this.history.close()
  }

  /** When this luod ends, or lets go. */
  onClose(run: () => void): void {
    this.#onClose.push(run)
  }

  /**
   * Somebody else goes on: nothing is released, recorded or told any more, and nobody is killed. The orchestrator
   * closes its files.
   */
  letGo(): void {
    this.journal.close()
    this.turnstile.close()
    for (const run of this.#onClose) run()
    for (const { update } of this.#workloads.values()) update?.letGo()
    for (const member of this.#members.values()) member.close()
    this.sessions.letGo()
    this.history.letGo()
  }

  nextUpdateKey(): string {
    return String(this.#nextUpdate++)
  }

  /** What every member is made with, for its end to be seen. */
  memberOptions(workload: Workload, member: () => Member, key = String(this.#nextMember++)) {
    return {
      key,
      workload,
      session: workload.session?.id ?? '',
      turnstile: this.turnstile,
      onGone: () => workload.update?.memberGone(member()),
      onDead: () => {
        workload.update?.memberDead(member())
        // The end of an update decides for all of them.
        if (!workload.update) this.sessions.memberDead(workload)
      },
      onReleased: () => {
        if (!workload.update) this.memberReleased(workload, member())
      },
    } satisfies Partial<MemberOptions>
  }

  addMember(member: Member): void {
    this.#members.set(member.id, member)
    this.journal.touch(member)
    this.journal.keep(`pidfd/${member.key}`, member.handle)
  }

  /** The member and its workload, for its own user and root. */
  member(uid: number, id: string): { member: Member; workload: Workload } {
    const member = this.#members.get(id)
    if (member && (uid === 0 || member.workload.uid === uid)) return { member, workload: member.workload }
    throw new LuoError('LUO_NOT_FOUND', `find the member ${id}: there is none; it has left, or another took its place`)
  }

  // --- dependencies -------------------------------------------------------------------------------------------------

  /** The workloads that this one needs and that are there. */
  needsOf(workload: Workload): Workload[] {
    const found = afterOf(workload).map((name) => this.lookup(workload.uid, name))
    return found.filter((needed) => needed !== undefined)
  }

  /** Throws LUO_CYCLE when the workload would need itself if it needed these too. */
  checkAfter(uid: number, name: string, after: readonly string[]): void {
    const needs = (other: string) => {
      const workload = this.lookup(uid, other)
      return workload ? afterOf(workload) : []
    }
    checkCycle(name, [...needs(name), ...after], needs)
  }

  // --- the state of a workload --------------------------------------------------------------------------------------

  /** The session that its members hold. */
  createSession(workload: Workload): void {
    workload.session = this.sessions.create(workload.uid, workload.name, { workload }).session
    workload.generation = 0
  }

  /** Nobody holds its sessions: they wait for a restart when the workload asked for that, or when `always`. */
  abandon(workload: Workload, options: { always: boolean; successor?: Member | undefined }): void {
    if (!workload.session) return
    this.#leave(workload, workload.keepMs > 0 ? workload.keepMs : options.always ? LEFT_BEHIND_KEEP_MS : 0, options)
  }

  /** The end of all its sessions; `why` is for people. */
  release(workload: Workload, why: string, by?: Actor): void {
    if (workload.session) this.#leave(workload, 0, { why, by })
  }

  #leave(workload: Workload, keepMs: number, options: Leaving): void {
    const { why = 'its last holder is gone', by, successor } = options
    const files = [...workload.sessions].reduce((sum, { session }) => sum + session.files.size, 0)
    const left = this.sessions.abandon(workload, keepMs, successor)
    this.recordWorkload(workload)
    this.tell(workload, left, {
      by,
      detail: left === 'orphaned' ? `kept for ${keepMs / 1000} s` : `${why}: ${files} files`,
    })
  }

  #expired(holding: Holding): void {
    const { workload } = holding
    if (workload?.session !== holding.session) {
      this.tellOf(holding, 'sessionExpired', { detail: 'nobody adopted it in time' })
      this.sessions.release(holding)
      return
    }
    this.tell(workload, 'expired', { detail: 'nobody claimed its state in time' })
    this.release(workload, 'nobody claimed it in time')
    this.endIfUnused(workload)
  }

  // --- members ------------------------------------------------------------------------------------------------------

  /** Forgets a member; its session is somebody else's matter. */
  dropMember(member: Member): void {
    if (this.#members.delete(member.id)) {
      this.journal.forget(member, [{ type: 'member', key: member.key, value: undefined }])
      this.journal.drop(`pidfd/${member.key}`)
    }
    member.close()
  }

  /** Everybody who has joined, luod's own end included. */
  members(): Iterable<Member> {
    return this.#members.values()
  }

  /** The running version's hold on its session has ended, and no update is there to decide what that means. */
  memberReleased(workload: Workload, member: Member): void {
    if (workload.member !== member) return
    workload.member = undefined
    this.dropMember(member)
    this.tell(workload, 'left', { by: member, detail: member.dead ? 'its process ended' : 'it let go of its session' })
    this.abandon(workload, { always: false })
    this.endIfUnused(workload)
  }

  /** Takes away a workload that nothing is left of. */
  endIfUnused(workload: Workload): void {
    const { session, member, supervisor, update } = workload
    if (session || member || supervisor || update) {
      this.recordWorkload(workload)
      return
    }
    const key = keyOf(workload.uid, workload.name)
    // Asked late, such as by an update's last words, it may be another one of this name by now.
    if (this.#workloads.get(key) !== workload) return
    this.#workloads.delete(key)
    this.usage.change(workload.uid, 'workloads', -1)
    this.journal.forget(workload.recorded, [{ type: 'workload', key: workload.id, value: undefined }])
    this.onEnded()
  }

  // --- records and events --------------------------------------------------------------------------------------------

  /** The workload, its sessions and its members are recorded as they are when the transaction is committed. */
  recordWorkload(workload: Workload): void {
    this.journal.touch(workload.recorded)
  }

  /** Everything up to now is recorded, before somebody is told of it who does not wait for an answer. */
  commit(): void {
    try {
      this.journal.commit()
    } catch (error) {
      this.log('error', `record what has changed: ${String(error)}`)
    }
  }

  #changesOf(workload: Workload): Change[] {
    const { id, uid, name, member, update, sessions } = workload
    if (this.#workloads.get(keyOf(uid, name)) !== workload) return []
    const changes: Change[] = [{ type: 'workload', key: id, value: workloadRecord(workload) }]
    for (const holding of sessions) changes.push(this.sessions.change(holding))
    for (const one of [member, update?.successor]) if (one) changes.push(...one.changes())
    return changes
  }

  /** A luod after this one gives no session an id that was given before. */
  #ids(): Change[] {
    const next = Number(this.#orchestrator.nextId)
    if (next <= this.#meta.next_session) return []
    this.#meta.next_session = next + IDS_AHEAD
    return [{ type: 'meta', key: '0', value: this.#meta }]
  }

  /** Somebody was refused something: an event of the workload that it was about, if that is one of theirs. */
  refused(by: Actor, about: { error: LuoError; method?: string; input?: Record<string, unknown> }): void {
    const { error, method, input } = about
    const workload = input && this.#workloadOf(by.uid, input)
    const { code, message: detail } = error
    this.events.emit(workload?.uid ?? by.uid, 'refused', { workload: workload?.name, by, method, code, detail })
  }

  #workloadOf(uid: number, { workload, member, session }: Record<string, unknown>): Workload | undefined {
    const found =
      (typeof workload === 'string' && this.#workloads.get(keyOf(uid, workload))) ||
      (typeof member === 'string' && this.#members.get(member)?.workload) ||
      (typeof session === 'string' && this.sessions.index.find(session)?.workload)
    return found && (uid === 0 || found.uid === uid) ? found : undefined
  }

  /** Something has happened to a workload: an event. */
  tell({ uid, name }: Workload, event: string, facts: EventFacts = {}): void {
    this.events.emit(uid, event, { workload: name, ...facts })
  }

  /** Something has happened to one session. */
  tellOf({ uid, session, workload }: Holding, event: string, facts: EventFacts = {}): void {
    this.events.emit(uid, event, { workload: workload?.name, session: session.name, ...facts })
  }
}

function keyOf(uid: number, name: string): string {
  return `${uid}\0${name}`
}
