/**
 * Sessions: whose they are, who holds them, and what ends them.
 *
 * Each workload has one of its own, which its members hold and whose end `state.ts` and `update.ts` decide. It may have
 * more, and a user may have some without any workload: those live as long as somebody has a descriptor of them, and
 * then end, or wait, orphaned, for as long as whoever made them asked for. Names are in one space for each user.
 *
 * In an update all held sessions of the workload are frozen, and nobody's end ends one. A commit hands them to the new
 * version, which is their keeper until it adopts them, that is, asks for a descriptor. A rollback looks again at who is
 * still there.
 *
 * Everything is recorded before the call returns.
 */
import type { LifetimeRecord, SessionRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { monotonicMs, wallClockOf } from './clock.js'
import type { EventFacts } from './events.js'
import {
  frozenOf,
  type Holding,
  handedOn,
  isOwn,
  type LuodOrchestrator,
  type LuodSession,
  newHolding,
  ownHolding,
} from './holding.js'
import { type HoldOptions, Holds } from './holds.js'
import type { Journal } from './journal.js'
import { LIMITS } from './limits.js'
import type { Member } from './member.js'
import { SessionFiles } from './session-files.js'
import { SessionIndex } from './session-index.js'
import type { Turnstile } from './turnstile.js'
import type { Usage } from './usage.js'
import type { Workload } from './workload.js'

export interface SessionsOptions {
  orchestrator: LuodOrchestrator
  usage: Usage
  journal: Journal
  turnstile: Turnstile
  /** To be recorded with a new session, if its id says so. */
  ids(): readonly Change[]
  tell(holding: Holding, event: string, facts?: EventFacts): void
  /** The time of an orphaned session is over. */
  onExpired(holding: Holding): void
  /** One has gone. */
  onReleased(): void
}

/** Who gets a descriptor, and the answer that it goes out with. */
export type Recipient = Pick<HoldOptions, 'pid' | 'request' | 'mayBeLost'>

export class Sessions {
  readonly holds: Holds
  readonly index = new SessionIndex()
  readonly files: SessionFiles
  readonly #options: SessionsOptions
  readonly #orchestrator: LuodOrchestrator

  constructor(options: SessionsOptions) {
    this.#options = options
    this.#orchestrator = options.orchestrator
    this.files = new SessionFiles(options)
    this.holds = new Holds(options.journal, options.turnstile)
  }

  // --- the life of a session ----------------------------------------------------------------------------------------

  /** EINVAL for a bad name, EEXIST for one that this user has, LUO_LIMIT. */
  create(uid: number, name: string, options: { workload?: Workload; keepMs?: number; madeBy?: Member } = {}): Holding {
    const { workload, keepMs = 0, madeBy } = options
    const what = `create the session ${name}`
    this.#options.usage.check(uid, 'sessions', 1, what)
    if (workload && workload.sessions.size > LIMITS.workload_sessions) {
      throw new LuoError(
        'LUO_LIMIT',
        `${what}: ${workload.name} has ${LIMITS.workload_sessions} beside its own already`,
      )
    }
    const session = this.#orchestrator.createSession(String(uid), name)
    const holding = newHolding(session, { uid, workload, keepMs, createdAt: Date.now() })
    holding.madeBy = madeBy
    try {
      this.#options.journal.add([this.change(holding), ...this.#options.ids()])
    } catch (error) {
      this.#orchestrator.release(session)
      throw error
    }
    this.#know(holding)
    return holding
  }

  /** One that a luod before this one had, without its holders. `ahead`: what is there of it already. EEXIST, EINVAL. */
  restore(id: string, record: SessionRecord, workload: Workload | undefined, ahead?: LuodSession): Holding {
    const { uid, name, custody, keep_ms: keepMs, created_at: createdAt } = record
    const session = ahead ?? this.#orchestrator.adoptSession({ id, scope: String(uid), name, custody })
    session.custody = custody
    const holding = newHolding(session, { uid, workload, keepMs, createdAt })
    this.#know(holding)
    const leftMs = waitsFor(record)
    if (leftMs !== undefined) this.startExpiry(holding, Math.min(Math.max(0, leftMs), LIMITS.keep_ms))
    return holding
  }

  /** A descriptor of it that a luod before this one gave out. Owns `end`. */
  restoreHold(holding: Holding, key: string, record: LifetimeRecord, end: Fd, member: Member | undefined): void {
    const lifetime = this.holds.restore(key, record, end, () => {
      holding.holds.delete(lifetime)
      this.#review(holding)
    })
    holding.holds.set(lifetime, member)
  }

  /** Looks at whether anybody holds it, after all of its holders were restored. */
  review(holding: Holding): void {
    this.#review(holding)
  }

  #know(holding: Holding): void {
    const { uid, workload } = holding
    this.#options.usage.change(uid, 'sessions', 1)
    this.index.add(holding)
    workload?.sessions.add(holding)
  }

  /** A new descriptor of it, whose last copy keeps it alive. Owned by the caller. */
  giveOut(holding: Holding, recipient: Recipient, member: Member | undefined): Fd {
    const { lifetime, fd } = this.holds.create({
      ...recipient,
      session: holding.session.id,
      member: member?.key,
      onEnded: () => {
        holding.holds.delete(lifetime)
        this.#review(holding)
      },
    })
    holding.holds.set(lifetime, member)
    return fd
  }

  /** In place of the one that the same request was answered with; LUO_REPEATED when that was closed. */
  giveAgain(holding: Holding, recipient: Recipient): Fd {
    for (const [lifetime, member] of holding.holds) {
      if (lifetime.request !== recipient.request) continue
      const fd = this.giveOut(holding, recipient, member)
      holding.holds.delete(lifetime)
      lifetime.close()
      return fd
    }
    const { name } = holding.session
    throw new LuoError('LUO_REPEATED', `open the session ${name}: this request was answered, and its descriptor closed`)
  }

  /** The one that `file` is a descriptor of. */
  ofDescriptor(uid: number, file: Fd, pid: number): Holding {
    const lifetime = this.holds.lifetimes.find(file)
    if (!lifetime) {
      throw new LuoError('LUO_NOT_FOUND', 'find the session of this file: it is no descriptor of a session that lives')
    }
    const holding = this.index.get(uid, lifetime.session)
    this.holds.shownBy(lifetime, pid)
    return holding
  }

  /** For whoever asks for it by its name: an orphan for everybody, what an update handed over for its member. */
  adopt(holding: Holding, recipient: Recipient, member: Member | undefined): Fd {
    const { session, workload } = holding
    const what = `adopt the session ${session.name}`
    if (isOwn(holding) || (session.custody === 'orphaned' && workload?.session?.custody === 'orphaned')) {
      throw new LuoError('LUO_WRONG_STATE', `${what}: it is of the workload ${workload?.name}; join that`)
    }
    if (member && member.workload !== workload) {
      throw new LuoError('LUO_WRONG_STATE', `${what}: it is not of the workload that pid ${member.pid} is of`)
    }
    if (session.custody === 'orphaned') {
      const fd = this.giveOut(holding, recipient, member)
      this.#orchestrator.claim(session)
      this.#orchestrator.commit([session])
      this.#stopExpiry(holding)
      this.record([holding])
      return fd
    }
    if (!member || (member !== holding.heir && (member !== holding.keeper || session.custody === 'frozen'))) {
      if (session.custody === 'frozen') throw new LuoError('LUO_UPDATING', `${what}: an update decides whose it is`)
      throw new LuoError('EBUSY', `${what}: it is held; who holds it can pass its descriptor on`)
    }
    const fd = this.giveOut(holding, recipient, member)
    if (member === holding.heir) holding.heir = undefined
    else holding.keeper = undefined
    this.record([holding])
    return fd
  }

  /** The end of a session, in any custody. Answers how many files were let go of. */
  release(holding: Holding): number {
    const { session, uid, workload } = holding
    this.#letGo(holding)
    const { changes, count } = this.files.releaseAll(holding)
    this.#options.usage.change(uid, 'sessions', -1)
    this.index.remove(holding)
    workload?.sessions.delete(holding)
    if (workload?.session === session) workload.session = undefined
    const last: Change[] = [...changes, { type: 'session', key: session.id, value: undefined }]
    this.#options.journal.touch({ changes: () => last })
    this.#options.onReleased()
    return count
  }

  /** Nobody holds it any more. */
  #review(holding: Holding): void {
    const { session, holds, keeper, keepMs, workload } = holding
    if (isOwn(holding) || session.custody !== 'held' || holds.size > 0 || keeper) return
    // It may close this one before the workload's own: what becomes of all of them is then decided at once.
    if (workload?.member?.ending) return
    if (keepMs === 0 || session.files.size === 0) {
      const files = this.release(holding)
      this.#options.tell(holding, 'sessionReleased', { detail: `its last holder is gone: ${files} files` })
      return
    }
    this.#orchestrator.orphan(session)
    this.startExpiry(holding, keepMs)
    this.record([holding])
    this.#options.tell(holding, 'sessionOrphaned', { detail: `kept for ${keepMs / 1000} s` })
  }

  startExpiry(holding: Holding, keepMs: number): void {
    this.#stopExpiry(holding)
    const timer = setTimeout(() => {
      this.#options.turnstile.run(() => {
        if (holding.expiry?.timer !== timer) return
        holding.expiry = undefined
        this.#options.onExpired(holding)
      })
    }, keepMs)
    holding.expiry = { atMs: monotonicMs() + keepMs, timer }
  }

  #stopExpiry(holding: Holding): void {
    if (holding.expiry) clearTimeout(holding.expiry.timer)
    holding.expiry = undefined
  }

  /** Whoever held it does not any more, and nothing follows from that. */
  #letGo(holding: Holding): void {
    this.#stopExpiry(holding)
    for (const lifetime of holding.holds.keys()) lifetime.close()
    holding.holds.clear()
    holding.keeper = undefined
    holding.heir = undefined
  }

  // --- all of a workload --------------------------------------------------------------------------------------------

  /** They are luod's until the update, or the claim of orphaned state, has ended. All or none. */
  freeze(workload: Workload, successor: Member | undefined): void {
    const handed = handedOn(workload)
    const own = workload.session
    // What waits for somebody is not part of an update, but of the restart of a workload that waits itself.
    const frozen = handed.filter(({ session }) => session.custody === 'held' || own?.custody === 'orphaned')
    const sessions = frozen.map(({ session }) => session)
    if (own?.custody === 'orphaned') this.#claim(sessions)
    else this.#orchestrator.freeze(sessions)
    for (const holding of frozen) {
      this.#stopExpiry(holding)
      holding.heir = successor
    }
  }

  #claim(sessions: readonly LuodSession[]): void {
    const claimed: LuodSession[] = []
    try {
      for (const session of sessions) {
        this.#orchestrator.claim(session)
        claimed.push(session)
      }
    } catch (error) {
      for (const session of claimed) this.#orchestrator.orphan(session)
      throw error
    }
  }

  /** The update is committed. */
  handOver(workload: Workload, old: Member | undefined, successor: Member): void {
    const frozen = frozenOf(workload)
    this.#orchestrator.commit(frozen.map(({ session }) => session))
    for (const holding of workload.sessions) {
      if (holding.madeBy === successor) holding.madeBy = undefined
      if (old) this.#dropHolds(holding, old)
    }
    for (const holding of frozen) {
      holding.keeper = holding.heir
      holding.heir = undefined
      this.#review(holding)
    }
  }

  /** The update has failed: what the successor made and adopted is as if it had not. */
  takeBack(workload: Workload, successor: Member | undefined): void {
    const frozen = frozenOf(workload)
    this.#orchestrator.unfreeze(frozen.map(({ session }) => session))
    this.#forgetSuccessor(workload, successor)
    for (const holding of frozen) this.#review(holding)
  }

  /** A member of the workload is dead, and somebody else may have its own session still. */
  memberDead(workload: Workload): void {
    for (const holding of [...workload.sessions]) this.#review(holding)
  }

  /** No member is left: all sessions of the workload wait together, if they have files, or end. */
  abandon(workload: Workload, keepMs: number, successor: Member | undefined): 'orphaned' | 'released' {
    this.#forgetSuccessor(workload, successor)
    const own = ownHolding(workload)
    const files = [...workload.sessions].reduce((sum, { session }) => sum + session.files.size, 0)
    const keep = own !== undefined && keepMs > 0 && files > 0
    for (const holding of [...workload.sessions].reverse()) {
      const { session } = holding
      if (!keep || (holding !== own && session.files.size === 0)) {
        this.release(holding)
        continue
      }
      this.#letGo(holding)
      if (session.custody !== 'orphaned') this.#orchestrator.orphan(session)
    }
    if (!keep) return 'released'
    this.startExpiry(own, keepMs)
    this.record(workload.sessions)
    return 'orphaned'
  }

  #forgetSuccessor(workload: Workload, successor: Member | undefined): void {
    if (!successor) return
    for (const holding of [...workload.sessions]) {
      holding.heir = undefined
      if (holding.madeBy === successor) this.release(holding)
      else this.#dropHolds(holding, successor)
    }
  }

  #dropHolds(holding: Holding, member: Member): void {
    for (const [lifetime, holder] of holding.holds) {
      if (holder !== member) continue
      holding.holds.delete(lifetime)
      lifetime.close()
    }
  }

  // --- records ------------------------------------------------------------------------------------------------------

  /** As they are when the transaction is committed. */
  record(holdings: Iterable<Holding>): void {
    const all = [...holdings]
    const there = () => all.filter(({ session }) => this.index.find(session.id))
    this.#options.journal.touch({ changes: () => there().map((holding) => this.change(holding)) })
  }

  change({ session, uid, workload, keepMs, createdAt, expiry, madeBy, heir, keeper }: Holding): Change {
    const { id, name, custody } = session
    const value: SessionRecord = { uid, name, custody, keep_ms: keepMs, created_at: createdAt }
    if (workload) value.workload = workload.id
    if (expiry) {
      value.expires_at = wallClockOf(expiry.atMs)
      value.expires_at_ms = expiry.atMs
    }
    if (madeBy) value.made_by = madeBy.key
    if (heir) value.heir = heir.key
    if (keeper) value.keeper = keeper.key
    return { type: 'session', key: id, value: value }
  }

  /** Somebody else goes on with them. */
  letGo(): void {
    for (const holding of this.index.all()) this.#letGo(holding)
    this.#orchestrator.letGo()
    this.holds.close()
  }

  /** luod ends: nothing is told or recorded any more. */
  close(): void {
    for (const holding of this.index.all()) {
      this.#letGo(holding)
      this.#orchestrator.release(holding.session)
    }
    this.holds.close()
  }
}

/** What an older build recorded goes by a clock that may have been set meanwhile. */
function waitsFor({ expires_at: at, expires_at_ms: atMs }: SessionRecord): number | undefined {
  if (atMs !== undefined) return atMs - monotonicMs()
  return at === undefined ? undefined : at - Date.now()
}
