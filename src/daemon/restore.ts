/**
 * luod's state, built anew from its records and the descriptors that it held, and from nothing else: after an upgrade
 * of luod, or when it has ended in the middle of something.
 *
 * `strict`, where the luod before is still there to go on: anything that is wrong is LUO_RECORDS, and nothing has been
 * done to anybody. `recover`, where it is not: what is wrong is listed and left out, what is sound is kept, and nothing
 * is guessed. Who takes part comes back by itself, watched by pidfd and lifetime; whatever ended while no luod looked
 * is an end now. Updates go on in the phase that they were in.
 */
import type {
  AnswerRecord,
  FileRecord,
  FlbRecord,
  LifetimeRecord,
  MemberRecord,
  RecordShapes,
  SessionRecord,
  UpdateRecord,
  WorkloadRecord,
} from '../abi/record-shapes.js'
import type { Change, RecordType } from '../abi/records.js'
import { compareKeys } from '../abi/records.js'
import type { Finding } from '../abi/records-check.js'
import type { HandlerRegistry } from '../core/handler.js'
import type { HeldFile } from '../handlers/held-file.js'
import type { Fd } from '../sys/fd.js'
import type { Answers } from './answers.js'
import { monotonicMs } from './clock.js'
import { resultsOf } from './group-update.js'
import type { Holding, LuodOrchestrator } from './holding.js'
import type { Lifetime } from './lifetime.js'
import { fenceLeftMs, RESTORE_WAIT_MS } from './limits.js'
import { Member } from './member.js'
import { type Checked, check, refuse } from './restore-check.js'
import type { RestoreSource } from './restore-source.js'
import { sortFiles } from './session-files.js'
import type { State } from './state.js'
import { Update } from './update.js'
import { finishedUpdate } from './update-record.js'
import type { Followed } from './update-types.js'
import type { SupervisorLink, Workload } from './workload.js'

/** What is built anew. */
export interface RestoreTarget {
  state: State
  answers: Answers
  orchestrator: LuodOrchestrator
  registry: HandlerRegistry<HeldFile>
}

/** Answers what was left out, and why; nothing in `strict`. */
export function restore(target: RestoreTarget, source: RestoreSource): Finding[] {
  const restoring = new Restoring(target, source)
  restoring.run()
  return restoring.findings
}

class Restoring {
  readonly findings: Finding[] = []
  readonly #target: RestoreTarget
  readonly #source: RestoreSource
  readonly #checked: Checked
  readonly #workloads = new Map<string, Workload>()
  readonly #members = new Map<string, Member>()
  readonly #holdings = new Map<string, Holding>()
  /** Their records name what is not there any more, or are as an older build makes them. */
  readonly #changed = new Set<Holding>()
  readonly #lifetimes: ReadonlyMap<string, LifetimeRecord>
  readonly #restoredFiles = new Set<string>()
  readonly #restoredLifetimes = new Set<string>()
  /** Records that something is wrong with. */
  readonly #bad = new Set<string>()

  constructor(target: RestoreTarget, source: RestoreSource) {
    this.#target = target
    this.#source = source
    this.#checked = this.#check()
    this.#lifetimes = new Map(this.#good('lifetime'))
  }

  /** Everything that can be seen before anything is done. */
  #check(): Checked {
    const checked = check(this.#source, this.#target.registry)
    for (const finding of checked.findings) this.findings.push(finding)
    this.#refuse()
    for (const { what, key } of this.findings) this.#bad.add(what === 'descriptor' ? key : `${what}/${key}`)
    return checked
  }

  #refuse(): void {
    if (this.#source.mode === 'strict') refuse('restore', this.findings)
  }

  #good<T extends RecordType>(type: T): [string, RecordShapes[T]][] {
    return this.#checked.good(type)
  }

  /** The descriptor under a key, if it is what it should be. It is the caller's from here on. */
  #take(key: string): Fd | undefined {
    const { descriptors } = this.#source
    const fd = this.#bad.has(key) ? undefined : descriptors.get(key)
    if (fd) descriptors.delete(key)
    return fd
  }

  #fail(what: Finding['what'], key: string, error: unknown): void {
    this.findings.push({ what, key, why: error instanceof Error ? error.message : String(error) })
    this.#refuse()
  }

  // --- building -----------------------------------------------------------------------------------------------------

  run(): void {
    const { state, orchestrator } = this.#target
    const { records } = this.#source
    orchestrator.startIdsAt(BigInt(Number(records.get('meta', '0')?.next_session ?? 0)) + 1n)
    state.startKeysAt({
      workload: this.#after('workload'),
      member: this.#after('member'),
      update: this.#after('update'),
    })
    state.sessions.files.startKeysAt(this.#after('file'))
    state.sessions.holds.startKeysAt(this.#after('lifetime'))
    this.#target.answers.startKeysAt(this.#after('answer'))
    for (const [key, why] of state.history.restore(records.entries('history'))) this.#fail('history', key, why)
    for (const [id, record] of this.#good('workload')) this.#restoreWorkload(id, record)
    for (const [id, record] of this.#good('session')) this.#restoreSession(id, record)
    this.#restoreFiles()
    this.#restoreMembers()
    for (const [key, record] of this.#lifetimes) this.#restoreLifetime(key, record)
    const updates = this.#restoreUpdates()
    for (const [key, record] of this.#good('answer')) this.#restoreAnswer(key, record, updates)
    this.#dropUnknown()
    this.#goOn()
  }

  #after(type: RecordType): bigint {
    const { ahead, records } = this.#source
    let last = type === 'file' ? ahead.lastKey : '0'
    if (type === 'file' && ahead.size === records.entries(type).size) return BigInt(last) + 1n
    for (const key of this.#source.records.entries(type).keys()) if (compareKeys(key, last) > 0) last = key
    return BigInt(last) + 1n
  }

  #restoreWorkload(id: string, record: WorkloadRecord): void {
    const { state } = this.#target
    if (state.lookup(record.uid, record.name)) return this.#fail('workload', id, 'there is another one of this name')
    const workload = state.restoreWorkload(id, record)
    if (record.supervisor) workload.supervisor = absent(record.supervisor)
    this.#workloads.set(id, workload)
  }

  #restoreSession(id: string, record: SessionRecord): void {
    const { state } = this.#target
    const workload = record.workload === undefined ? undefined : this.#workloads.get(record.workload)
    try {
      const holding = state.sessions.restore(id, record, workload, this.#source.ahead.session(id)?.session)
      this.#holdings.set(id, holding)
      if (holding.expiry && record.expires_at_ms === undefined) this.#changed.add(holding)
      if (workload && this.#source.records.get('workload', workload.id)?.session === id) {
        workload.session = holding.session
      }
    } catch (error) {
      this.#fail('session', id, error)
    }
  }

  #restoreFiles(): void {
    const { flbs } = this.#target.registry
    for (const [key, { compatible, state: saved }] of this.#good('flb') as [string, FlbRecord][]) {
      try {
        flbs.load({ compatible, saved })
      } catch (error) {
        this.#fail('flb', key, error)
      }
    }
    const { ahead } = this.#source
    for (const holding of this.#holdings.values()) {
      const known = ahead.session(holding.session.id)
      if (known) this.#target.state.sessions.files.restoredAhead(holding, known.files)
    }
    const unordered = new Set<Holding>()
    for (const [key, record] of this.#good('file')) {
      const holding = this.#restoreFile(key, record)
      if (holding && ahead.session(record.session)) unordered.add(holding)
    }
    for (const { session } of unordered) sortFiles(session)
    flbs.settle()
  }

  /** Answers the session that has it. */
  #restoreFile(key: string, record: FileRecord): Holding | undefined {
    const holding = this.#holdings.get(record.session)
    if (!holding || this.#bad.has(`file/${key}`)) return undefined
    const fd = this.#take(`file/${key}`)
    const info = this.#source.infos.get(`file/${key}`)
    if (!fd || !info) return undefined
    try {
      this.#target.state.sessions.files.restore(holding, key, record, { fd, info })
      this.#restoredFiles.add(key)
      return holding
    } catch (error) {
      fd.close()
      this.#fail('file', key, error)
      return undefined
    }
  }

  /** Those that a workload or an update has; others had just left. */
  #restoreMembers(): void {
    const wanted = new Set<string | undefined>()
    for (const [, { member }] of this.#good('workload')) wanted.add(member)
    for (const [, { outcome, old, successor }] of this.#good('update')) {
      if (outcome === undefined) wanted.add(old).add(successor)
    }
    for (const [key, record] of this.#good('member')) if (wanted.has(key)) this.#restoreMember(key, record)
    for (const [id, { member }] of this.#good('workload')) {
      const workload = this.#workloads.get(id)
      if (workload && member !== undefined) workload.member = this.#members.get(member)
    }
    for (const [id, { workload, made_by, heir, keeper }] of this.#good('session')) {
      const holding = this.#holdings.get(id)
      if (!holding) continue
      holding.madeBy = this.#member(made_by)
      holding.heir = this.#member(heir)
      holding.keeper = this.#member(keeper)
      const gone = [made_by, heir, keeper].some((key) => key !== undefined && !this.#members.has(key))
      if (gone || (workload !== undefined && !holding.workload)) this.#changed.add(holding)
    }
  }

  #member(key: string | undefined): Member | undefined {
    return key === undefined ? undefined : this.#members.get(key)
  }

  #restoreMember(key: string, record: MemberRecord): void {
    const { state } = this.#target
    const workload = this.#workloads.get(record.workload)
    const pidfd = workload && this.#take(`pidfd/${key}`)
    if (!workload || !pidfd) return
    const { id, uid, pid, accepts, after, origin } = record
    const options = { ...state.memberOptions(workload, () => member, key), id, uid, pid, pidfd, accepts, after, origin }
    const lifetime = (onEnded: () => void) => this.#lifetimeOf(record, onEnded)
    const member: Member = Member.restore(options, state.sessions.holds, record, lifetime)
    this.#members.set(key, member)
    state.addMember(member)
    state.restoredMembers.add(member)
  }

  /** The one that a member holds its workload's session through. */
  #lifetimeOf({ lifetime: key }: MemberRecord, onEnded: () => void): Lifetime | undefined {
    const record = key === undefined ? undefined : this.#lifetimes.get(key)
    if (key === undefined || !record) return undefined
    const end = this.#takeLifetime(key)
    return end && this.#target.state.sessions.holds.restore(key, record, end, onEnded)
  }

  #restoreLifetime(key: string, record: LifetimeRecord): void {
    const holding = this.#holdings.get(record.session)
    // A member's own is restored with it; what is of no session any more was just about to be closed.
    const end = holding && this.#takeLifetime(key)
    if (!end) return
    const { member: name, ...others } = record
    const member = this.#member(name)
    this.#target.state.sessions.restoreHold(holding, key, member ? record : others, end, member)
  }

  #takeLifetime(key: string): Fd | undefined {
    const end = this.#take(`lifetime/${key}`)
    if (end) this.#restoredLifetimes.add(key)
    return end
  }

  // --- updates and answers ------------------------------------------------------------------------------------------

  #restoreUpdates(): Map<string, Followed> {
    const { state } = this.#target
    const updates = new Map<string, Followed>()
    for (const [key, record] of this.#good('update')) {
      if (record.outcome === undefined) {
        const update = this.#restoreUpdate(key, record)
        if (update) updates.set(key, update)
        continue
      }
      const forget = () => state.journal.add([{ type: 'update', key, value: undefined }])
      updates.set(key, finishedUpdate(key, record, forget))
    }
    return updates
  }

  #restoreUpdate(key: string, record: UpdateRecord): Update | undefined {
    const workload = this.#workloads.get(record.workload)
    const old = this.#member(record.old)
    const successor = this.#member(record.successor)
    const lost = (record.old !== undefined && !old) || (record.successor !== undefined && !successor)
    if (!workload || lost || workload.update) return undefined
    const targets = record.targets.flatMap(({ key: number, pid }) => {
      const pidfd = this.#take(`target/${key}/${number}`)
      return pidfd ? [{ key: number, pid, pidfd }] : []
    })
    const ticket = record.ticket ? this.#take(`ticket/${key}`) : undefined
    return Update.restore(this.#target.state, workload, { ...record, key }, { old, successor, ticket, targets })
  }

  #restoreAnswer(key: string, record: AnswerRecord, all: ReadonlyMap<string, Followed>): void {
    const { answers } = this.#target
    if (!record.updates) return answers.restore(key, record, record.output)
    const updates = record.updates.flatMap((one) => all.get(one) ?? [])
    const [first] = updates
    if (!first || updates.length !== record.updates.length) return this.#fail('answer', key, 'its update is not there')
    const { group } = record
    const answer = group === undefined ? first : { group, updates, finished: resultsOf(updates) }
    answers.restore(key, record, answer, {
      onForgotten: () => {
        for (const update of updates) update.forget()
      },
      underWay: () => updates.some(({ ended }) => !ended),
    })
  }

  // --- going on -----------------------------------------------------------------------------------------------------

  /** Records of what is not there are taken out, in the transaction in which everything is written down anew. */
  #dropUnknown(): void {
    const { state } = this.#target
    const known: Partial<Record<RecordType, (key: string) => boolean>> = {
      workload: (key) => this.#workloads.has(key),
      session: (key) => this.#holdings.has(key),
      file: (key) => this.#restoredFiles.has(key),
      member: (key) => this.#members.has(key),
      lifetime: (key) => this.#restoredLifetimes.has(key),
    }
    const unknown = [...this.#checked.wrong]
    for (const [type, knows] of Object.entries(known) as [RecordType, (key: string) => boolean][]) {
      for (const [key] of this.#good(type)) if (!knows(key)) unknown.push({ type, key })
    }
    const changed = [...this.#changed].map((holding) => state.sessions.change(holding))
    state.journal.add([...unknown.map(({ type, key }): Change => ({ type, key, value: undefined })), ...changed])
  }

  /** What has ended is seen, and times that are over are over. */
  #goOn(): void {
    const { state, orchestrator } = this.#target
    const { sessions } = state
    for (const workload of this.#workloads.values()) {
      state.recordWorkload(workload)
      const frozen = [...workload.sessions].filter(({ session }) => session.custody === 'frozen')
      if (workload.update || frozen.length === 0) continue
      // What its update was is lost: it has not happened.
      orchestrator.unfreeze(frozen.map(({ session }) => session))
    }
    for (const holding of this.#holdings.values()) {
      if (holding.session.custody === 'frozen' && !holding.workload) orchestrator.unfreeze([holding.session])
    }
    sessions.holds.restored()
    for (const holding of this.#holdings.values()) if (sessions.index.find(holding.session.id)) sessions.review(holding)
    for (const workload of this.#workloads.values()) {
      const { update, member, session } = workload
      if (update) update.restored()
      else if (session?.custody === 'held' && !member) state.abandon(workload, { always: true })
      else if (member?.released && session) state.memberReleased(workload, member)
    }
    const now = monotonicMs()
    for (const workload of this.#workloads.values()) {
      const { awaySinceMs: since } = workload.supervisor ?? {}
      if (since !== undefined) this.#later(fenceLeftMs(now - since), () => this.#forgetSupervisor(workload))
    }
    this.#later(RESTORE_WAIT_MS, () => {
      for (const workload of state.workloads(0)) state.endIfUnused(workload)
    })
  }

  #later(ms: number, run: () => void): void {
    const { state } = this.#target
    const timer = setTimeout(() => state.turnstile.run(run), ms)
    state.onClose(() => clearTimeout(timer))
  }

  /** It was there before and has not come back. */
  #forgetSupervisor(workload: Workload): void {
    const { supervisor, update } = workload
    if (supervisor?.awaySinceMs === undefined) return
    const reason = `the supervisor (pid ${supervisor.pid}) did not come back`
    workload.supervisor = undefined
    update?.event('supervisorGone', { who: supervisor.pid, code: 'LUO_NO_SUPERVISOR', reason })
    this.#target.state.endIfUnused(workload)
  }
}

/** However often luod is replaced meanwhile, it is waited for only once. */
function absent({ away_since_ms: since, ...known }: NonNullable<WorkloadRecord['supervisor']>): SupervisorLink {
  return { ...known, awaySinceMs: since ?? monotonicMs(), tell: () => false }
}
