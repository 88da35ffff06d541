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
import type { Change } from '../abi/records.js'
import type { FileToPreserve } from '../core/file-set.js'
import type { Orchestrator } from '../core/orchestrator.js'
import type { OutgoingSession, PreservedFile } from '../core/session.js'
import { LuoError } from '../errors.js'
import type { FileAbout, HeldFile } from '../handlers/held-file.js'
import { MAX_FILES_PAGE, MAX_SESSIONS_PAGE } from '../protocol/interface.js'
import type { Fd } from '../sys/fd.js'
import { type Lifetime, Lifetimes } from './lifetime.js'
import { LIMITS } from './limits.js'
import { Listing } from './listing.js'
import type { Member } from './member.js'
import type { Workload } from './state.js'
import type { Usage } from './usage.js'

export type LuodOrchestrator = Orchestrator<HeldFile, FileAbout>
export type LuodSession = OutgoingSession<HeldFile, FileAbout>
export type LuodFile = PreservedFile<HeldFile, FileAbout>

/** A session, and who has it. */
export interface Holding {
  readonly session: LuodSession
  readonly uid: number
  /** All that is of the same user. */
  readonly user: User
  readonly workload: Workload | undefined
  readonly createdAt: number
  readonly files: Listing<LuodFile>
  /** Of all its files, when they were preserved. */
  bytes: number
  /** How long it waits when nobody holds it any more. */
  readonly keepMs: number
  /** Who holds it: descriptors, and for which member of the workload each was given out. */
  readonly holds: Map<Lifetime, Member | undefined>
  /** The successor that made it and has not committed: if it fails, it was never there. */
  madeBy: Member | undefined
  /** In an update: the successor, until it has adopted it. */
  heir: Member | undefined
  /** The member that an update handed it to and that has not adopted it: it ends with this member. */
  keeper: Member | undefined
  /** Until when it waits, orphaned, and what ends it then. */
  expiry: { at: number; timer: NodeJS.Timeout } | undefined
}

interface User {
  readonly sessions: Map<string, Holding>
  readonly names: Map<string, Holding>
  readonly listing: Listing<Holding>
}

function newUser(): User {
  const sessions = new Map<string, Holding>()
  return { sessions, names: new Map(), listing: new Listing(sessions, MAX_SESSIONS_PAGE) }
}

export interface SessionsOptions {
  orchestrator: LuodOrchestrator
  usage: Usage
  record(changes: readonly Change[]): void
  tell(holding: Holding, event: string, more?: { pid?: number; detail?: string }): void
  /** The time of an orphaned session is over. */
  onExpired(holding: Holding): void
  /** One has gone. */
  onReleased(): void
}

export class Sessions {
  readonly lifetimes = new Lifetimes()
  readonly #options: SessionsOptions
  readonly #orchestrator: LuodOrchestrator
  readonly #users = new Map<number, User>()
  readonly #all = new Map<string, Holding>()
  readonly #listing = new Listing(this.#all, MAX_SESSIONS_PAGE)
  readonly #fileKeys = new Map<string, string>()
  #nextFile = 1n

  constructor(options: SessionsOptions) {
    this.#options = options
    this.#orchestrator = options.orchestrator
  }

  // --- finding ------------------------------------------------------------------------------------------------------

  get count(): number {
    return this.#all.size
  }

  /** By id, of this user; for root of anybody. LUO_NOT_FOUND otherwise. */
  get(uid: number, id: string): Holding {
    const holding = this.#all.get(id)
    if (holding && (uid === 0 || holding.uid === uid)) return holding
    throw new LuoError('LUO_NOT_FOUND', `find the session ${id}: there is none`)
  }

  /** By name: the user's own; root also finds the only one of that name. */
  named(uid: number, name: string): Holding {
    const own = this.#users.get(uid)?.names.get(name)
    if (own) return own
    const found = uid === 0 ? [...this.#users.values()].flatMap(({ names }) => names.get(name) ?? []) : []
    const [other] = found
    if (other && found.length === 1) return other
    const why = found.length > 1 ? `${found.length} users have one` : 'there is none'
    throw new LuoError('LUO_NOT_FOUND', `find the session ${name}: ${why}`)
  }

  /** The one that `file` is a descriptor of. */
  ofDescriptor(uid: number, file: Fd, pid: number): Holding {
    const lifetime = this.lifetimes.find(file)
    const holding = lifetime && this.#all.get(lifetime.session)
    if (!holding || (uid !== 0 && holding.uid !== uid)) {
      throw new LuoError('LUO_NOT_FOUND', 'find the session of this file: it is no descriptor of a session that lives')
    }
    lifetime.pid = pid
    return holding
  }

  page(uid: number, request: { offset?: number; limit?: number }): { holdings: Holding[]; total: number } {
    if (uid === 0) return { holdings: this.#listing.page(request), total: this.#all.size }
    const user = this.#users.get(uid)
    return user ? { holdings: user.listing.page(request), total: user.sessions.size } : { holdings: [], total: 0 }
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
    const user = this.#users.get(uid) ?? newUser()
    const holding: Holding = {
      session,
      uid,
      user,
      workload,
      createdAt: Date.now(),
      files: new Listing(session.files, MAX_FILES_PAGE),
      bytes: 0,
      keepMs,
      holds: new Map(),
      madeBy,
      heir: undefined,
      keeper: undefined,
      expiry: undefined,
    }
    this.#users.set(uid, user)
    this.#options.usage.change(uid, 'sessions', 1)
    try {
      this.record([holding])
    } catch (error) {
      this.#orchestrator.release(session)
      throw error
    }
    this.#all.set(session.id, holding)
    user.sessions.set(session.id, holding)
    user.names.set(name, holding)
    workload?.sessions.add(holding)
    this.#listing.changed()
    user.listing.changed()
    return holding
  }

  /** A new descriptor of it, whose last copy keeps it alive. Owned by the caller. */
  giveOut(holding: Holding, pid: number, member: Member | undefined): Fd {
    const { lifetime, fd } = this.lifetimes.create({
      session: holding.session.id,
      pid,
      onEnded: () => {
        holding.holds.delete(lifetime)
        this.#review(holding)
      },
    })
    holding.holds.set(lifetime, member)
    return fd
  }

  /** For whoever asks for it by its name: an orphan for everybody, what an update handed over for its member. */
  adopt(holding: Holding, pid: number, member: Member | undefined): Fd {
    const { session, workload } = holding
    const what = `adopt the session ${session.name}`
    if (isOwn(holding) || (session.custody === 'orphaned' && workload?.session?.custody === 'orphaned')) {
      throw new LuoError('LUO_WRONG_STATE', `${what}: it is of the workload ${workload?.name}; join that`)
    }
    if (member && member.workload !== workload) {
      throw new LuoError('LUO_WRONG_STATE', `${what}: it is not of the workload that pid ${member.pid} is of`)
    }
    if (session.custody === 'orphaned') {
      const fd = this.giveOut(holding, pid, member)
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
    const fd = this.giveOut(holding, pid, member)
    if (member === holding.heir) holding.heir = undefined
    else holding.keeper = undefined
    return fd
  }

  /** The end of a session, in any custody. Answers how many files were let go of. */
  release(holding: Holding): number {
    const { session, uid, user, workload } = holding
    const files = [...session.files.values()]
    const changes = files.map(({ token }) => this.#fileChange(session, token, undefined))
    this.#letGo(holding)
    this.#orchestrator.release(session)
    this.#count(holding, files, -1)
    this.#options.usage.change(uid, 'sessions', -1)
    this.#all.delete(session.id)
    user.sessions.delete(session.id)
    user.names.delete(session.name)
    if (user.sessions.size === 0) this.#users.delete(uid)
    workload?.sessions.delete(holding)
    if (workload?.session === session) workload.session = undefined
    this.#listing.changed()
    user.listing.changed()
    this.#options.record([...changes, { type: 'session', key: session.id, value: undefined }])
    this.#options.onReleased()
    return files.length
  }

  /** Nobody holds it any more. */
  #review(holding: Holding): void {
    const { session, holds, keeper, keepMs } = holding
    if (isOwn(holding) || session.custody !== 'held' || holds.size > 0 || keeper) return
    if (keepMs === 0 || session.files.size === 0) {
      this.release(holding)
      this.#options.tell(holding, 'sessionReleased')
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
      holding.expiry = undefined
      this.#options.onExpired(holding)
    }, keepMs)
    holding.expiry = { at: Date.now() + keepMs, timer }
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
  freeze(workload: Workload, successor: Member): void {
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

  // --- files --------------------------------------------------------------------------------------------------------

  /** All or none; LUO_LIMIT when the user would have too many, or too much. Answers what is luod's from here on. */
  preserve(holding: Holding, files: readonly FileToPreserve<HeldFile, FileAbout>[]): LuodFile[] {
    const { session, uid } = holding
    const { usage } = this.#options
    const memory = memoryOf(files)
    usage.check(uid, 'files', files.length, `preserve ${files.length} files`)
    usage.check(uid, 'bytes', memory, `preserve ${files.length} files of ${memory} bytes`)
    const preserved = this.#orchestrator.preserve(session, files)
    try {
      this.#options.record(preserved.map((file) => this.#fileChange(session, file.token, file)))
    } catch (error) {
      // What is not recorded is not held.
      const tokens = preserved.map(({ token }) => token)
      this.#orchestrator.unpreserve(session, tokens)
      throw error
    }
    this.#count(holding, preserved, 1)
    return preserved
  }

  /** All or none. */
  unpreserve(holding: Holding, tokens: readonly string[]): void {
    const { session } = holding
    const files = [...new Set(tokens)].flatMap((token) => session.files.get(token) ?? [])
    this.#orchestrator.unpreserve(session, tokens)
    this.#count(holding, files, -1)
    this.#options.record(files.map(({ token }) => this.#fileChange(session, token, undefined)))
  }

  #count(holding: Holding, files: readonly LuodFile[], sign: 1 | -1): void {
    const { usage } = this.#options
    holding.files.changed()
    holding.bytes += sign * bytesOf(files)
    usage.change(holding.uid, 'files', sign * files.length)
    usage.change(holding.uid, 'bytes', sign * memoryOf(files))
  }

  /** New references to files, in the order of the tokens, owned by the caller. ENOENT for a token that is not there. */
  reference({ session }: Holding, tokens: readonly string[]): { fd: Fd; file: LuodFile }[] {
    return this.#orchestrator.reference(session, tokens).map(({ file: { fd }, preserved: file }) => ({ fd, file }))
  }

  // --- records ------------------------------------------------------------------------------------------------------

  record(holdings: Iterable<Holding>): void {
    this.#options.record([...holdings].map((holding) => this.change(holding)))
  }

  change({ session, uid, workload, keepMs, expiry }: Holding): Change {
    const { id, name, custody } = session
    const value = { workload: workload?.id, uid, name, custody, keep_ms: keepMs, expires_at: expiry?.at }
    return { type: 'session', key: id, value }
  }

  #fileChange(session: LuodSession, token: string, file: LuodFile | undefined): Change {
    const name = `${session.id} ${token}`
    let key = this.#fileKeys.get(name)
    if (key === undefined) {
      key = String(this.#nextFile++)
      this.#fileKeys.set(name, key)
    }
    if (!file) this.#fileKeys.delete(name)
    const value = file && {
      session: session.id,
      token,
      kind: file.about.kind,
      compatible: file.handler.compatible,
      format: file.about.format,
    }
    return { type: 'file', key, value }
  }

  /** luod ends: nothing is told or recorded any more. */
  close(): void {
    for (const holding of this.#all.values()) {
      this.#letGo(holding)
      this.#orchestrator.release(holding.session)
    }
    this.lifetimes.close()
  }
}

/** Whether it is the one that a workload's members hold. */
function isOwn({ session, workload }: Holding): boolean {
  return workload?.session === session
}

/** What the next version gets: all but what it has made itself. Its own session is the first. */
export function handedOn(workload: Workload): Holding[] {
  return [...workload.sessions].filter(({ madeBy }) => madeBy === undefined)
}

export function ownHolding(workload: Workload | undefined): Holding | undefined {
  return workload && [...workload.sessions].find(isOwn)
}

function frozenOf(workload: Workload): Holding[] {
  return [...workload.sessions].filter(({ session }) => session.custody === 'frozen')
}

const MEMORY_KINDS: ReadonlySet<string> = new Set(['memfd', 'shmem', 'hugetlb'])

/** Bytes of memory that cannot be freed while these files are held. */
function memoryOf(files: readonly { about: FileAbout }[]): number {
  return bytesOf(files.filter(({ about }) => MEMORY_KINDS.has(about.kind)))
}

function bytesOf(files: readonly { about: FileAbout }[]): number {
  return files.reduce((sum, { about }) => sum + about.bytes, 0)
}
