/**
 * One update of a workload, from the request to its end, as the table in `update-machine.ts` has it. A claim of
 * orphaned state is the same thing with nobody to take it from: it begins at `restoring`.
 *
 * Events come from both versions, from the supervisor, from timers and from the kernel (pidfds), in any order and more
 * than once; the table makes sense of them. Each phase that waits for somebody has a deadline, but for a claim: there
 * nobody waits but the claimant itself.
 */
import { randomUUID } from 'node:crypto'
import type { UpdateRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import { asLuoError, LuoError } from '../errors.js'
import { MAX_FDS } from '../protocol/interface.js'
import type { Methods, Phase } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { sameOpenFile } from '../sys/file-info.js'
import { signalPidfd } from '../sys/pidfd.js'
import { socketPair } from '../sys/unix.js'
import { millisecondsSince, monotonicMs } from './clock.js'
import { checkFormats, describeFile, describeSession } from './describe.js'
import { handedOn, ownHolding } from './holding.js'
import type { Recorded } from './journal.js'
import { FENCE_MS, fenceLeftMs, KILL_WAIT_MS, RECONNECT_MS, RESTORE_WAIT_MS } from './limits.js'
import type { Member, MemberEvent } from './member.js'
import type { State, Workload } from './state.js'
import { Targets } from './targets.js'
import { Timeline } from './timeline.js'
import {
  endOf,
  nextMove,
  type UpdateAction,
  type UpdateEnd,
  type UpdateEvent,
  type UpdatePhase,
} from './update-machine.js'
import { factsOf, newFacts, requestOf, type UpdateFacts, updateChange } from './update-record.js'
import {
  type Cause,
  type Followed,
  GATED,
  HOLDING,
  isOver,
  type UpdateRequest,
  type UpdateResult,
  WAITS,
} from './update-types.js'
import { Waiting } from './waiting.js'

/**
 * Holds the updates of a group back, so that they go on in the group's order. Asked before each event of `GATED`; the
 * event that it does not let through waits, without a deadline, until `Update.retry` asks again.
 */
export interface Gate {
  /** Id of the group. */
  readonly group: string
  lets(update: Update): boolean
  /** An update has moved, or waits. Called in the middle of what it does: look at it later. */
  changed(): void
}

type ClaimAnswer = Methods['Claim']['output']
type CommitAnswer = Methods['Commit']['output']

/** What is left of an update, when luod was replaced in the middle of it. */
export interface UpdateLeft {
  old: Member | undefined
  successor: Member | undefined
  ticket: Fd | undefined
  targets: readonly { key: string; pid: number; pidfd: Fd }[]
}

export class Update implements Followed, Recorded {
  readonly id: string
  readonly key: string
  readonly request: UpdateRequest
  /** Of orphaned state, by a new instance after a crash. */
  readonly isClaim: boolean
  readonly finished: Promise<UpdateResult>
  /** Id of the group that it is, or was, updated in. */
  readonly group: string | undefined
  successor: Member | undefined
  readonly #state: State
  readonly #workload: Workload
  readonly #old: Member | undefined
  readonly #gate: Gate | undefined
  readonly #timeline: Timeline
  readonly #targets: Targets
  readonly #facts: UpdateFacts
  readonly #events: { event: UpdateEvent; cause: Cause }[] = []
  /** An event that waits for the group. */
  #atGate: { event: UpdateEvent; cause: Cause } | undefined
  /** A copy of the ticket: while it is open, no other file can be taken for it. */
  #ticket: Fd | undefined
  #working = false
  #timer: NodeJS.Timeout | undefined
  #backTimer: NodeJS.Timeout | undefined
  #claim: Waiting<ClaimAnswer> | undefined
  #commit: Waiting<CommitAnswer> | undefined
  /** Nobody will ask how it has ended: a claim, or one whose answer is forgotten. */
  #forgotten: boolean
  #finish: (result: UpdateResult) => void = () => {}

  /** Asks the supervisor to start the successor. Throws, and changes nothing, when that cannot be asked. */
  static start(state: State, workload: Workload, request: UpdateRequest, gate?: Gate): Update {
    const { supervisor, member } = workload
    if (!supervisor || !member) throw new LuoError('LUO_WRONG_STATE', `update ${workload.name}: it does not run`)
    const update = new Update(state, workload, { request, old: member, gate })
    const [ticket, unused] = socketPair()
    unused.close()
    update.#takeTicket(ticket)
    update.#enter('starting', { who: supervisor.pid })
    workload.update = update
    update.#record()
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
    update.#facts.phase = 'joined'
    update.#forgotten = true
    workload.update = update
    update.#record()
    const { id, group } = update
    state.tell(workload, 'updating', {
      update: id,
      group,
      by: request.by,
      old_pid: workload.member?.pid,
      detail: 'kexec',
    })
    return update
  }

  /** Lets `claimant` have orphaned state; if it fails, the state is orphaned again. */
  static claim(state: State, workload: Workload, claimant: Member): Update {
    state.sessions.freeze(workload, claimant)
    const request = { deadlineMs: 0, check: undefined, command: undefined, by: claimant }
    const update = new Update(state, workload, { request })
    update.successor = claimant
    update.#targets.add(claimant.pid, claimant.pidfd())
    workload.update = update
    update.#enter('restoring', { who: claimant.pid })
    update.#record()
    return update
  }

  /** As it was recorded, with what is left of it, which it owns. Goes on with `restored`, once everything is there. */
  static restore(state: State, workload: Workload, record: UpdateRecord & { key: string }, left: UpdateLeft): Update {
    const { old, successor, ticket, targets } = left
    const update = new Update(state, workload, { request: requestOf(record), old, record })
    update.successor = successor
    if (ticket) update.#takeTicket(ticket)
    for (const { key, pid, pidfd } of targets) update.#targets.add(pid, pidfd, key)
    workload.update = update
    return update
  }

  private constructor(
    state: State,
    workload: Workload,
    from: {
      request: UpdateRequest
      old?: Member | undefined
      gate?: Gate | undefined
      record?: UpdateRecord & { key: string }
    },
  ) {
    const { request, old, gate, record } = from
    this.#state = state
    this.#workload = workload
    this.request = request
    this.#old = old
    this.#gate = gate
    this.id = record?.id ?? randomUUID()
    this.key = record?.key ?? state.nextUpdateKey()
    this.group = record?.group ?? gate?.group
    this.isClaim = record ? record.old === undefined : old === undefined
    this.#forgotten = this.isClaim
    this.#facts = record ? factsOf(record) : newFacts(this.isClaim ? 'restoring' : 'starting')
    const { journal, turnstile } = state
    const known = record && { startedMs: record.started_ms, phases: record.timeline as unknown as Phase[] }
    this.#timeline = new Timeline(turnstile, known)
    const onEnded = (pid: number) => this.#targetEnded(pid)
    this.#targets = new Targets({ update: this.key, journal, turnstile, onEnded })
    this.finished = new Promise((resolve) => {
      this.#finish = resolve
    })
  }

  get phase(): UpdatePhase {
    return this.#facts.phase
  }

  /** Between what a client may notice first and last. */
  get holdsRequests(): boolean {
    return HOLDING.has(this.phase)
  }

  get workload(): string {
    return this.#workload.name
  }

  /** The event that waits for the group. */
  get atGate(): UpdateEvent | undefined {
    return this.#atGate?.event
  }

  /** Whether it was a check that has seen what it wanted. */
  get checked(): boolean {
    return this.#facts.checked
  }

  /** Why it does not commit, if that is known. */
  get failure(): Cause {
    return this.#facts.failure
  }

  listen(listener: (phase: Phase) => void): () => void {
    return this.#timeline.listen(listener)
  }

  forget(): void {
    this.#forgotten = true
    if (this.ended) this.#state.journal.forget(this, [{ type: 'update', key: this.key, value: undefined }])
  }

  // --- being recorded -----------------------------------------------------------------------------------------------

  changes(): Change[] {
    const { key } = this
    if (this.ended && this.#forgotten) return [{ type: 'update', key, value: undefined }]
    const { startedMs, phases } = this.#timeline
    const outcome = this.ended && isOver(this.phase) ? this.phase : undefined
    const more = { workload: this.#workload, old: this.#old, ticket: this.#ticket !== undefined, startedMs, phases }
    return [updateChange(key, this, this.#facts, { ...more, targets: this.#targets.list(), outcome })]
  }

  #record(): void {
    this.#state.journal.touch(this)
    this.#state.recordWorkload(this.#workload)
  }

  /** Of a kexec: the workload is asked as soon as the gate lets it. */
  begin(): void {
    this.event('claimed')
  }

  /** A luod before this one began it; whoever takes part has a moment to come back. */
  restored(): void {
    const { phase } = this
    if (this.group !== undefined && !['committing', 'aborting'].includes(phase)) {
      const reason = 'luod was replaced in the middle of an update of a group, or of a kexec'
      return this.event('abortAsked', { code: 'LUO_ABORTED', reason })
    }
    if (phase === 'aborting') return this.#killSuccessor(this.failure)
    if (phase === 'committing') {
      if (!this.#old || this.#old.dead) return this.event('oldDied')
      this.#startTimer(fenceLeftMs(this.#timeline.sincePhase(phase)), () => this.event('fenceLate'))
      return
    }
    const left = (this.#facts.deadlineAtMs ?? 0) - monotonicMs()
    this.#startDeadline(Math.max(left, RECONNECT_MS))
    if (this.#old) this.expectBack(this.#old, RESTORE_WAIT_MS)
  }

  /** It goes on in another luod: nothing is told, and nobody is killed. */
  letGo(): void {
    this.#stopTimers()
    this.#timeline.close()
    this.#targets.close()
    this.#voidTicket()
  }

  // --- what the sides say -------------------------------------------------------------------------------------------

  /** Whether `file` is this update's ticket, and it is still good. */
  hasTicket(file: Fd): boolean {
    return this.#ticket !== undefined && sameOpenFile(this.#ticket, file)
  }

  #takeTicket(ticket: Fd): void {
    this.#ticket = ticket
    this.#state.journal.keep(`ticket/${this.key}`, ticket)
  }

  #voidTicket(): void {
    if (!this.#ticket) return
    this.#ticket.close()
    this.#ticket = undefined
    this.#state.journal.drop(`ticket/${this.key}`)
  }

  /** Asks the supervisor for the successor, if nothing came of it yet. A supervisor starts one for each update. */
  startAgain(): void {
    const ticket = this.#ticket
    if (this.phase !== 'starting' || !ticket || this.#targets.list().length > 0) return
    this.#state.commit()
    const command = this.request.command && { command: [...this.request.command] }
    this.#workload.supervisor?.tell({ event: 'start', update: this.id, ...command, fds: 1 }, [ticket])
  }

  /** The supervisor has started this process for us. Owns `pidfd`. */
  spawned(pid: number, pidfd: Fd): void {
    if (this.ended || this.phase === 'aborting') {
      signalPidfd(pidfd, 'SIGKILL')
      if (this.ended) return pidfd.close()
    }
    this.#targets.add(pid, pidfd)
    this.#record()
  }

  joined(member: Member): void {
    this.successor = member
    this.#voidTicket()
    this.#targets.add(member.pid, member.pidfd())
    this.event('joined', { who: member.pid })
  }

  /** The successor wants the state: answered when it is frozen. */
  waitForState(member: Member): Promise<ClaimAnswer> {
    if (member !== this.successor || this.#claim) {
      throw new LuoError('LUO_WRONG_STATE', `claim: pid ${member.pid} has claimed before, or is not the successor`)
    }
    this.#claim = new Waiting()
    const { promise } = this.#claim
    // In a luod that was replaced it may have been answered before.
    if (this.isClaim || ['restoring', 'committing'].includes(this.phase)) this.#claim.answer(this.#describe())
    else if (this.request.check === 'successor') this.#check(member)
    else this.event('claimed', { who: member.pid })
    return promise
  }

  /** The successor is whole: answered when the old version has let go. */
  waitForCommit(member: Member): Promise<CommitAnswer> {
    // In a luod that was replaced it may have asked before.
    const early = !['restoring', 'committing'].includes(this.phase) || this.#claim?.settled === false
    if (member !== this.successor || this.#commit || early) {
      throw new LuoError(
        'LUO_WRONG_STATE',
        `commit: pid ${member.pid} has not claimed, or has committed, or the update is over`,
      )
    }
    this.#commit = new Waiting()
    const { promise } = this.#commit
    this.event('commitAsked', { who: member.pid })
    return promise
  }

  /** The old version has let go. `preserve` is done first, and only if it is asked for now. */
  oldReady(member: Member, heldMs: number | undefined, preserve: () => void): void {
    this.#mustBe(['preparing'], member, 'ready')
    preserve()
    this.#held(heldMs)
    if (this.request.check === 'prepare') this.#check(member)
    else this.event('oldReady', { who: member.pid })
  }

  oldRefused(member: Member, heldMs: number | undefined, reason: string): void {
    if (member !== this.#old || this.phase !== 'committing') this.#mustBe(['preparing', 'restoring'], member, 'refuse')
    this.#held(heldMs)
    const facts = { by: member, update: this.id, code: 'LUO_REFUSED', detail: reason, method: 'Refuse' }
    this.#timeline.inform(() => this.#state.tell(this.#workload, 'refused', facts))
    this.event('oldRefused', { who: member.pid, code: 'LUO_REFUSED', reason })
  }

  oldReleased(member: Member): void {
    this.#mustBe(['committing'], member, 'released')
    this.#facts.released = 'word'
    this.event('oldReleased', { who: member.pid })
  }

  /** A member's process has ended, or it has closed its session. */
  memberGone(member: Member): void {
    const how = member.dead ? 'ended' : 'ended, or left its session'
    const cause = { who: member.pid, code: 'LUO_GONE' }
    if (member === this.#old) {
      // It has closed its session and not given its word: only its death will do.
      if (this.phase === 'committing' && !member.dead) return this.#killOld()
      this.event('oldDied', { ...cause, reason: `the old version (pid ${member.pid}) ${how}` })
    } else if (member === this.successor) {
      this.event('successorDied', { ...cause, reason: `the new version (pid ${member.pid}) ${how}` })
    }
  }

  /** A member's process has ended; if it had left before, that was not enough for a commit. */
  memberDead(member: Member): void {
    if (member === this.#old && this.phase === 'committing') this.event('oldDied')
  }

  /**
   * The old version has lost its connection, or luod was replaced. It has a moment to come back, in which its end is
   * seen too, if it was that; then it can neither be told to let go nor to go on. Its word has a deadline of its own.
   */
  expectBack(member: Member, waitMs = RECONNECT_MS): void {
    if (member !== this.#old || !this.#facts.asked) return
    clearTimeout(this.#backTimer)
    const lost = () => {
      if (!member.alive || member.subscriber || !['preparing', 'restoring'].includes(this.phase)) return
      const reason = `the old version (pid ${member.pid}) closed its connection`
      this.event('abortAsked', { who: member.pid, code: 'LUO_GONE', reason })
    }
    this.#backTimer = setTimeout(() => this.#state.turnstile.run(lost), waitMs)
  }

  /** Whether this member is asked to let go in this update, and what is to be said to it if that was not heard. */
  asks(member: Member): { update: string; due: MemberEvent | undefined } | undefined {
    if (member !== this.#old || !this.#facts.asked || this.ended) return undefined
    return { update: this.id, due: this.#due() }
  }

  #due(): MemberEvent | undefined {
    if (this.phase === 'committing') return { event: 'release', update: this.id }
    if (this.phase !== 'preparing' || this.#atGate) return undefined
    const leftMs = this.request.deadlineMs - millisecondsSince(this.#facts.askedAtMs)
    return this.#prepare(Math.max(1, Math.round(leftMs)))
  }

  #prepare(deadlineMs: number): MemberEvent {
    const { purpose = 'update' } = this.request
    return { event: 'prepare', update: this.id, deadline_ms: deadlineMs, purpose }
  }

  get ended(): boolean {
    return this.#workload.update !== this
  }

  // --- the machine --------------------------------------------------------------------------------------------------

  event(event: UpdateEvent, cause: Cause = {}): void {
    this.#events.push({ event, cause })
    if (this.#working) return
    this.#working = true
    try {
      for (let next = this.#events.shift(); next && !this.ended; next = this.#events.shift()) {
        this.#step(next.event, next.cause)
      }
    } finally {
      this.#working = false
      this.#record()
    }
  }

  /** Asks the group again whether the event that waits may go on. */
  retry(): void {
    const held = this.#atGate
    if (held) this.event(held.event, held.cause)
  }

  #step(event: UpdateEvent, cause: Cause): void {
    const move = nextMove(this.phase, event)
    if (!move || this.#mustWait(event, cause)) return
    if (event === 'checkDone') this.#facts.checked = true
    if (move.to === 'aborting' || move.to === 'orphaned') this.#facts.failure = cause
    if (move.to !== this.phase) this.#enter(event === 'successorGone' ? this.#end() : move.to, cause)
    for (const action of move.actions) this.#act(action, cause)
    if (isOver(this.phase)) this.#close(this.phase)
    this.#gate?.changed()
  }

  /** Whom the group waits for has a deadline; this side is not to blame. */
  #mustWait(event: UpdateEvent, cause: Cause): boolean {
    if (!this.#gate || !GATED.has(event)) return false
    this.#atGate = { event, cause }
    if (this.#gate.lets(this)) {
      this.#atGate = undefined
      return false
    }
    clearTimeout(this.#timer)
    this.#gate.changed()
    return true
  }

  #end(): UpdateEnd {
    return endOf({ checked: this.#facts.checked, oldAlive: this.#old?.alive === true })
  }

  #enter(phase: UpdatePhase, cause: Cause): void {
    this.#facts.phase = phase
    this.#timeline.add({ phase, ...cause })
    this.#atGate = undefined
    this.#startDeadline()
    if (this.isClaim) return
    const { reason: detail, who: pid } = cause
    const { uid, name } = this.#workload
    const facts = { workload: name, update: this.id, group: this.group, detail, pid }
    this.#timeline.inform(() => this.#state.events.progress(uid, phase, facts))
  }

  /** The time that the phase has begins now. */
  #startDeadline(ms = this.request.deadlineMs): void {
    clearTimeout(this.#timer)
    const waits = WAITS[this.phase]
    this.#facts.deadlineAtMs = waits && !this.isClaim ? monotonicMs() + ms : undefined
    if (!waits || this.isClaim) return
    this.#startTimer(ms, () => {
      const reason = `${waits(this.#old?.pid, this.successor?.pid)} within ${this.request.deadlineMs / 1000} s`
      this.event('deadline', { code: 'LUO_DEADLINE', reason })
    })
  }

  #startTimer(ms: number, then: () => void): void {
    clearTimeout(this.#timer)
    const timer = setTimeout(() => {
      this.#state.turnstile.run(() => {
        if (this.#timer === timer) then()
      })
    }, ms)
    this.#timer = timer
  }

  #stopTimers(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#backTimer)
    this.#timer = undefined
  }

  #act(action: UpdateAction, cause: Cause): void {
    switch (action) {
      case 'askOld':
        return this.#askOld()
      case 'freeze':
        return this.#freeze()
      case 'giveState':
        return this.#giveState()
      case 'release':
        return this.#release()
      case 'handOver':
        return this.#handOver()
      case 'killOld':
        return this.#killOld()
      case 'killSuccessor':
        return this.#killSuccessor(cause)
      case 'goBack':
        return this.#goBack()
      case 'orphan':
        this.#leaveBehind()
    }
  }

  /** The old version knows when it began to hold requests back; without its word it counts from when it was asked. */
  #held(heldMs: number | undefined): void {
    const facts = this.#facts
    if (heldMs === undefined || facts.blackoutFromMs === undefined) return
    const from = Math.max(facts.blackoutFromMs, monotonicMs() - Math.max(0, heldMs))
    facts.blackoutFromMs = heldMs === 0 ? undefined : from
  }

  #askOld(): void {
    const facts = this.#facts
    facts.asked = true
    facts.askedAtMs = monotonicMs()
    facts.blackoutFromMs = facts.askedAtMs
    this.#recordNow()
    if (this.#old?.tell(this.#prepare(this.request.deadlineMs))) return
    if (this.#old?.alive) return this.expectBack(this.#old, this.#old.backWithinMs)
    this.event('oldDied', { code: 'LUO_GONE', reason: 'the old version does not listen for updates any more' })
  }

  /** Before anybody is told: a luod after this one must know of it. */
  #recordNow(): void {
    this.#record()
    this.#state.commit()
  }

  #freeze(): void {
    const workload = this.#workload
    const { successor } = this
    try {
      const alone = this.request.purpose === 'kexec'
      if (!workload.session || (!successor && !alone)) throw new LuoError('LUO_GONE', 'freeze: the session has ended')
      // It may have changed since the successor joined.
      if (successor) checkFormats(workload, successor.accepts, 'the new version')
      this.#state.sessions.freeze(workload, successor)
    } catch (error) {
      const { code, message } = asLuoError(error, 'EIO', 'freeze the state')
      this.event('abortAsked', { code, reason: message })
      return
    }
    this.event('frozen')
  }

  #giveState(): void {
    this.#startDeadline()
    this.#claim?.answer(this.#describe())
  }

  #release(): void {
    if (!this.#old) return this.event('oldReleased')
    this.#recordNow()
    // If it cannot be asked just now, it is asked when it subscribes again.
    if (!this.#old.tell({ event: 'release', update: this.id }) && !this.#old.alive) return this.#killOld()
    this.#startTimer(FENCE_MS, () => this.event('fenceLate'))
  }

  #killOld(): void {
    clearTimeout(this.#timer)
    if (!this.#old?.kill()) return this.event('oldDied')
    this.#startTimer(KILL_WAIT_MS, () => this.event('oldDied'))
  }

  #handOver(): void {
    const workload = this.#workload
    const old = this.#old
    const { successor } = this
    if (!successor) return
    this.#state.sessions.handOver(workload, old, successor)
    workload.member = successor
    workload.generation += 1
    successor.ready = true
    successor.committed = this.#facts.released ?? (old ? 'death' : 'none')
    workload.update = undefined
    this.#endBlackout()
    this.#commit?.answer({ released: successor.committed })
    if (old) this.#state.dropMember(old)
    const about = { by: successor, update: this.id, group: this.group }
    this.#timeline.inform(() => this.#state.tell(workload, 'running', about))
  }

  #endBlackout(): void {
    const { blackoutFromMs } = this.#facts
    if (blackoutFromMs !== undefined) this.#facts.blackoutMs = millisecondsSince(blackoutFromMs)
  }

  #killSuccessor(cause: Cause): void {
    this.#voidTicket()
    this.#fail(cause)
    this.successor?.kill()
    this.#targets.kill()
    this.#startTimer(KILL_WAIT_MS, () => this.event('successorGone'))
    this.#lookForTheDead()
  }

  #goBack(): void {
    const old = this.#old
    if (this.phase === 'orphaned') return this.#leaveBehind()
    this.#state.sessions.takeBack(this.#workload, this.successor)
    this.#workload.update = undefined
    if (!this.#facts.asked || !old) return
    this.#endBlackout()
    this.#recordNow()
    const what = this.request.purpose === 'kexec' ? 'the kexec was a dry run' : 'the update was a check'
    old.tell({ event: 'resume', update: this.id, reason: this.failure.reason ?? what })
  }

  /** Nobody is left to hold the state. */
  #leaveBehind(): void {
    const workload = this.#workload
    const old = this.#old
    if (old) this.#state.dropMember(old)
    workload.member = undefined
    workload.update = undefined
    // Frozen state had been given to us to keep, whatever the workload asked for.
    this.#state.abandon(workload, { always: workload.session?.custody === 'frozen', successor: this.successor })
  }

  #close(outcome: UpdateEnd): void {
    this.#stopTimers()
    const workload = this.#workload
    workload.update = undefined
    this.#voidTicket()
    workload.lastUpdate = { id: this.id, committed: outcome === 'committed' }
    const { successor } = this
    if (successor && workload.member !== successor) this.#state.dropMember(successor)
    this.#fail(this.failure)
    this.#targets.close()
    const { reason, code } = this.failure
    // What ended while the update was there has waited for its end.
    if (workload.member?.released) this.#state.memberReleased(workload, workload.member)
    this.#timeline.inform(() => {
      // A supervisor has nothing to do with a kexec.
      if (!this.isClaim && this.request.purpose !== 'kexec') {
        const why = reason === undefined ? {} : { reason }
        workload.supervisor?.tell({ event: 'ended', update: this.id, outcome, ...why })
      }
      this.#state.tell(workload, this.isClaim ? 'claimed' : 'updated', {
        ...{ update: this.id, outcome, code, detail: reason, by: this.request.by },
        ...{ blackout_ms: this.#facts.blackoutMs, duration_ms: this.#timeline.phases.at(-1)?.at_ms },
        ...{ old_pid: this.#old?.pid, new_pid: successor?.pid },
      })
      this.#finish({ outcome, blackoutMs: this.#facts.blackoutMs, timeline: this.#timeline.phases })
      this.#state.endIfUnused(workload)
    })
  }

  /** Requests that wait will not be answered any more. */
  #fail(cause: Cause): void {
    const code = (cause.code ?? 'LUO_ABORTED') as 'LUO_ABORTED'
    for (const waiting of [this.#claim, this.#commit]) {
      if (waiting && !waiting.settled)
        waiting.fail(new LuoError(code, `the update ended: ${cause.reason ?? 'aborted'}`))
    }
  }

  #check(member: Member): void {
    this.event('checkDone', { who: member.pid })
  }

  #describe(): ClaimAnswer {
    const own = ownHolding(this.#workload)
    if (!own) throw new LuoError('LUO_GONE', 'claim: the session has ended')
    const { session } = own
    const files = own.files.page({ limit: MAX_FDS }).map(describeFile)
    const sessions = handedOn(this.#workload).map(describeSession)
    return { session: session.id, files, total: session.files.size, sessions, fds: files.length }
  }

  #mustBe(phases: readonly UpdatePhase[], member: Member, what: string): void {
    if (member === this.#old && phases.includes(this.phase) && !this.#atGate) return
    throw new LuoError('LUO_WRONG_STATE', `${what}: pid ${member.pid} was not asked; the update is ${this.phase}`)
  }

  #targetEnded(pid: number): void {
    if (this.phase === 'aborting') this.#lookForTheDead()
    // Once it has joined, what started it may end: a shell, or env(1).
    else if (!this.successor || this.successor.pid === pid) {
      this.event('successorDied', { who: pid, code: 'LUO_GONE', reason: `the new version (pid ${pid}) ended` })
    }
  }

  #lookForTheDead(): void {
    if (this.#targets.allGone) this.event('successorGone')
  }
}
