/**
 * One update of a workload, from the request to its end, as the table in `update-machine.ts` has it. A claim of
 * orphaned state is the same thing with nobody to take it from: it begins at `restoring`.
 *
 * Events come from both versions, from the supervisor, from timers and from the kernel (pidfds), in any order and more
 * than once; the table makes sense of them. This file is where they come in: what each side may say when. Its parts are
 * listed in `update-parts.ts`.
 */
import type { Change } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { Phase } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { killProcess } from '../sys/pidfd.js'
import { socketPair } from '../sys/unix.js'
import { monotonicMs } from './clock.js'
import type { Gate } from './gate.js'
import type { Recorded } from './journal.js'
import { fenceLeftMs, RECONNECT_MS, RESTORE_WAIT_MS } from './limits.js'
import type { Member, MemberEvent } from './member.js'
import { OldVersion } from './old-version.js'
import type { State } from './state.js'
import type { ClaimAnswer, CommitAnswer } from './successor-requests.js'
import { UpdateActions } from './update-actions.js'
import { UpdateCourse } from './update-course.js'
import type { UpdateEvent, UpdatePhase } from './update-machine.js'
import { newParts, type Origin, type Recalled, tellRecorded, type UpdateParts } from './update-parts.js'
import { requestOf, updateChange } from './update-record.js'
import { type Cause, type Followed, HOLDING, isOver, type UpdateRequest, type UpdateResult } from './update-types.js'
import type { Workload } from './workload.js'

/** What is left of an update, when luod was replaced in the middle of it. */
export interface UpdateLeft {
  old: Member | undefined
  successor: Member | undefined
  ticket: Fd | undefined
  targets: readonly { key: string; pid: number; pidfd: Fd }[]
}

export class Update implements Followed, Recorded {
  readonly #parts: UpdateParts
  readonly #course: UpdateCourse
  readonly #old: OldVersion
  readonly #actions: UpdateActions
  /** Nobody will ask how it has ended: a claim, or one whose answer is forgotten. */
  #forgotten: boolean

  /** Asks the supervisor to start the successor. Throws, and changes nothing, when that cannot be asked. */
  static start(state: State, workload: Workload, request: UpdateRequest, gate?: Gate): Update {
    const { supervisor, member } = workload
    if (!supervisor || !member) throw new LuoError('LUO_WRONG_STATE', `update ${workload.name}: it does not run`)
    const update = new Update(state, workload, { request, old: member, gate })
    const [ticket, unused] = socketPair()
    unused.close()
    update.#parts.ticket.take(ticket)
    update.#course.enter('starting', { who: supervisor.pid })
    workload.update = update
    // If its connection was just lost it is told when it comes back, and if it does not, that ends the update.
    update.startAgain()
    state.tell(workload, 'updating', { update: update.id, group: update.group, by: request.by, old_pid: member.pid })
    return update
  }

  /**
   * Asks the workload to let go for a kexec, once `begin` is called. Nobody comes after it in this kernel: it stays at the
   * gate, frozen, until it is aborted, or ended as a check.
   */
  static forKexec(state: State, workload: Workload, request: UpdateRequest, gate: Gate): Update {
    const update = new Update(state, workload, { request, old: workload.member, gate })
    update.#parts.facts.phase = 'joined'
    update.#forgotten = true
    workload.update = update
    update.#parts.record()
    state.tell(workload, 'updating', {
      ...{ update: update.id, group: update.group, by: request.by },
      ...{ old_pid: workload.member?.pid, detail: 'kexec' },
    })
    return update
  }

  /** Lets `claimant` have orphaned state; if it fails, the state is orphaned again. Throws, and nothing has changed. */
  static claim(state: State, workload: Workload, claimant: Member): Update {
    const request = { deadlineMs: 0, check: undefined, command: undefined, by: claimant }
    const update = new Update(state, workload, { request })
    update.#parts.targets.add(claimant.pid, claimant.pidfd())
    try {
      state.sessions.freeze(workload, claimant)
    } catch (error) {
      update.#parts.targets.close()
      throw error
    }
    update.#parts.successor = claimant
    workload.update = update
    update.#course.enter('restoring', { who: claimant.pid })
    update.#parts.record()
    return update
  }

  /** As it was recorded, with what is left of it, which it owns. Goes on with `restored`, once everything is there. */
  static restore(state: State, workload: Workload, record: Recalled, left: UpdateLeft): Update {
    const { old, successor, ticket, targets } = left
    const update = new Update(state, workload, { request: requestOf(record), old, record })
    update.#parts.successor = successor
    if (ticket) update.#parts.ticket.take(ticket)
    for (const { key, pid, pidfd } of targets) update.#parts.targets.add(pid, pidfd, key)
    workload.update = update
    return update
  }

  private constructor(state: State, workload: Workload, from: Origin) {
    const { gate } = from
    this.#parts = newParts(state, workload, from, {
      ended: () => this.ended,
      record: () => {
        state.journal.touch(this)
        state.recordWorkload(workload)
      },
      onTargetEnded: (pid) => this.#targetEnded(pid),
    })
    this.#forgotten = this.isClaim
    this.#course = new UpdateCourse(this.#parts, {
      gate: gate && { lets: () => gate.lets(this), changed: () => gate.changed() },
      act: (action, cause) => this.#actions.act(action, cause),
      close: (outcome) => this.#actions.close(outcome),
    })
    this.#old = new OldVersion(this.#parts, this.#course)
    this.#actions = new UpdateActions(this.#parts, this.#course, this.#old)
  }

  get id(): string {
    return this.#parts.id
  }

  get key(): string {
    return this.#parts.key
  }

  get request(): UpdateRequest {
    return this.#parts.request
  }

  /** Of orphaned state, by a new instance after a crash. */
  get isClaim(): boolean {
    return this.#parts.isClaim
  }

  /** Id of the group that it is, or was, updated in. */
  get group(): string | undefined {
    return this.#parts.group
  }

  get successor(): Member | undefined {
    return this.#parts.successor
  }

  get phase(): UpdatePhase {
    return this.#parts.facts.phase
  }

  get finished(): Promise<UpdateResult> {
    return this.#actions.finished
  }

  /** Between what a client may notice first and last. */
  get holdsRequests(): boolean {
    return HOLDING.has(this.phase)
  }

  get workload(): string {
    return this.#parts.workload.name
  }

  /** The event that waits for the group. */
  get atGate(): UpdateEvent | undefined {
    return this.#course.atGate
  }

  /** Whether it was a check that has seen what it wanted. */
  get checked(): boolean {
    return this.#parts.facts.checked
  }

  /** Why it does not commit, if that is known. */
  get failure(): Cause {
    return this.#parts.facts.failure
  }

  listen(listener: (phase: Phase) => void): () => void {
    return this.#parts.timeline.listen(listener)
  }

  forget(): void {
    this.#forgotten = true
    if (this.ended) this.#parts.state.journal.forget(this, [{ type: 'update', key: this.key, value: undefined }])
  }

  // --- being recorded -----------------------------------------------------------------------------------------------

  changes(): Change[] {
    const { key, facts, workload, old, ticket, targets, timeline } = this.#parts
    if (this.ended && this.#forgotten) return [{ type: 'update', key, value: undefined }]
    const { startedMs, phases } = timeline
    const outcome = this.ended && isOver(this.phase) ? this.phase : undefined
    const left = { workload, old, ticket: ticket.file !== undefined, targets: targets.list() }
    return [updateChange(key, this, facts, { ...left, startedMs, phases, outcome })]
  }

  /** Of a kexec: the workload is asked as soon as the gate lets it. */
  begin(): void {
    this.event('claimed')
  }

  /** A luod before this one began it; whoever takes part has a moment to come back. */
  restored(): void {
    const { phase } = this
    const { old, facts, timeline } = this.#parts
    if (this.group !== undefined && !['committing', 'aborting'].includes(phase)) {
      const reason = 'luod was replaced in the middle of an update of a group, or of a kexec'
      return this.event('abortAsked', { code: 'LUO_ABORTED', reason })
    }
    if (phase === 'aborting') return this.#actions.act('killSuccessor', this.failure)
    if (phase === 'committing') {
      if (!old || old.dead) return this.event('oldDied')
      this.#course.startTimer(fenceLeftMs(timeline.sincePhase(phase)), () => this.event('fenceLate'))
      return
    }
    const left = (facts.deadlineAtMs ?? 0) - monotonicMs()
    this.#course.startDeadline(Math.max(left, RECONNECT_MS))
    if (old) this.expectBack(old, RESTORE_WAIT_MS)
  }

  /** It goes on in another luod: nothing is told, and nobody is killed. */
  letGo(): void {
    this.#course.stopTimer()
    this.#old.expectNobody()
    this.#parts.timeline.close()
    this.#parts.targets.close()
    this.#parts.ticket.void()
  }

  // --- what the sides say -------------------------------------------------------------------------------------------

  /** Whether `file` is this update's ticket, and it is still good. */
  hasTicket(file: Fd): boolean {
    return this.#parts.ticket.is(file)
  }

  /** Asks the supervisor for the successor, if nothing came of it yet. A supervisor starts one for each update. */
  startAgain(): void {
    if (this.phase !== 'starting') return
    const { ticket, targets, workload } = this.#parts
    const command = this.request.command && { command: [...this.request.command] }
    tellRecorded(this.#parts, () => {
      const { file } = ticket
      if (this.phase !== 'starting' || !file || targets.list().length > 0) return
      workload.supervisor?.tell({ event: 'start', update: this.id, ...command, fds: 1 }, [file])
    })
  }

  /** The supervisor has started this process for us. Owns `pidfd`. */
  spawned(pid: number, pidfd: Fd): void {
    if (this.ended || this.phase === 'aborting') {
      killProcess(pidfd)
      if (this.ended) return pidfd.close()
    }
    this.#parts.targets.add(pid, pidfd)
    this.#parts.record()
  }

  /** Throws, and nothing has changed, when its end cannot be watched. */
  joined(member: Member): void {
    this.#parts.targets.add(member.pid, member.pidfd())
    this.#parts.successor = member
    this.#parts.ticket.void()
    this.event('joined', { who: member.pid })
  }

  /** The successor wants the state: answered when it is frozen. */
  waitForState(member: Member): Promise<ClaimAnswer> {
    const { requests } = this.#parts
    if (member !== this.successor || requests.hasClaimed) {
      throw new LuoError('LUO_WRONG_STATE', `claim: pid ${member.pid} has claimed before, or is not the successor`)
    }
    const answer = requests.claim()
    // In a luod that was replaced it may have been answered before.
    if (this.isClaim || ['restoring', 'committing'].includes(this.phase)) requests.giveState()
    else if (this.request.check === 'successor') this.#check(member)
    else this.event('claimed', { who: member.pid })
    return answer
  }

  /** The successor is whole: answered when the old version has let go. */
  waitForCommit(member: Member): Promise<CommitAnswer> {
    const { requests } = this.#parts
    // In a luod that was replaced it may have asked before.
    const early = !['restoring', 'committing'].includes(this.phase) || requests.claimWaits
    if (member !== this.successor || requests.hasCommitted || early) {
      throw new LuoError(
        'LUO_WRONG_STATE',
        `commit: pid ${member.pid} has not claimed, or has committed, or the update is over`,
      )
    }
    const answer = requests.commit()
    this.event('commitAsked', { who: member.pid })
    return answer
  }

  /** The old version has let go. `preserve` is done first, and only if it is asked for now. */
  oldReady(member: Member, heldMs: number | undefined, preserve: () => void): void {
    this.#mustBe(['preparing'], member, 'ready')
    preserve()
    this.#old.held(heldMs)
    if (this.request.check === 'prepare') this.#check(member)
    else this.event('oldReady', { who: member.pid })
  }

  oldRefused(member: Member, heldMs: number | undefined, reason: string): void {
    const { old, timeline, state, workload } = this.#parts
    if (member !== old || this.phase !== 'committing') this.#mustBe(['preparing', 'restoring'], member, 'refuse')
    this.#old.held(heldMs)
    const facts = { by: member, update: this.id, code: 'LUO_REFUSED', detail: reason, method: 'Refuse' }
    timeline.inform(() => state.tell(workload, 'refused', facts))
    this.event('oldRefused', { who: member.pid, code: 'LUO_REFUSED', reason })
  }

  oldReleased(member: Member): void {
    this.#mustBe(['committing'], member, 'released')
    this.#parts.facts.released = 'word'
    this.event('oldReleased', { who: member.pid })
  }

  /** A member's process has ended, or it has closed its session. */
  memberGone(member: Member): void {
    const how = member.dead ? 'ended' : 'ended, or left its session'
    const cause = { who: member.pid, code: 'LUO_GONE' }
    if (member === this.#parts.old) {
      // It has closed its session and not given its word: only its death will do.
      if (this.phase === 'committing' && !member.dead) return this.#old.kill()
      this.event('oldDied', { ...cause, reason: `the old version (pid ${member.pid}) ${how}` })
    } else if (member === this.successor) {
      this.event('successorDied', { ...cause, reason: `the new version (pid ${member.pid}) ${how}` })
    }
  }

  /** A member's process has ended; if it had left before, that was not enough for a commit. */
  memberDead(member: Member): void {
    if (member === this.#parts.old && this.phase === 'committing') this.event('oldDied')
  }

  /** The old version has lost its connection, or luod was replaced: see `OldVersion`. */
  expectBack(member: Member, waitMs?: number): void {
    this.#old.expectBack(member, waitMs)
  }

  /** Whether this member is asked to let go in this update, and what is to be said to it if that was not heard. */
  asks(member: Member): { update: string; due: MemberEvent | undefined } | undefined {
    return this.#old.asks(member)
  }

  get ended(): boolean {
    return this.#parts.workload.update !== this
  }

  event(event: UpdateEvent, cause: Cause = {}): void {
    this.#course.event(event, cause)
  }

  /** Asks the group again whether the event that waits may go on. */
  retry(): void {
    this.#course.retry()
  }

  #check(member: Member): void {
    this.event('checkDone', { who: member.pid })
  }

  #mustBe(phases: readonly UpdatePhase[], member: Member, what: string): void {
    if (member === this.#parts.old && phases.includes(this.phase) && !this.atGate) return
    throw new LuoError('LUO_WRONG_STATE', `${what}: pid ${member.pid} was not asked; the update is ${this.phase}`)
  }

  #targetEnded(pid: number): void {
    if (this.phase === 'aborting') this.#actions.lookForTheDead()
    // Once it has joined, what started it may end: a shell, or env(1).
    else if (!this.successor || this.successor.pid === pid) {
      this.event('successorDied', { who: pid, code: 'LUO_GONE', reason: `the new version (pid ${pid}) ended` })
    }
  }
}
