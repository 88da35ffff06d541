/**
 * How an update goes on: events come in, one after the other, and the table (`update-machine.ts`) says which phase and
 * which actions follow. Each phase that waits for somebody has a deadline, but for a claim: there nobody waits but the
 * claimant itself. In a group, some events wait at the gate before they are looked at.
 */
import { monotonicMs } from './clock.js'
import {
  endOf,
  nextMove,
  type UpdateAction,
  type UpdateEnd,
  type UpdateEvent,
  type UpdatePhase,
} from './update-machine.js'
import type { UpdateParts } from './update-parts.js'
import { type Cause, GATED, isOver, WAITS } from './update-types.js'

interface Happened {
  event: UpdateEvent
  cause: Cause
}

export interface CourseOptions {
  /** Of the group, for this update. */
  gate: { lets(): boolean; changed(): void } | undefined
  act(action: UpdateAction, cause: Cause): void
  /** Called once, after the last action. */
  close(outcome: UpdateEnd): void
}

export class UpdateCourse {
  readonly #parts: UpdateParts
  readonly #options: CourseOptions
  readonly #events: Happened[] = []
  #atGate: Happened | undefined
  #working = false
  #timer: NodeJS.Timeout | undefined

  constructor(parts: UpdateParts, options: CourseOptions) {
    this.#parts = parts
    this.#options = options
  }

  get phase(): UpdatePhase {
    return this.#parts.facts.phase
  }

  /** The event that waits for the group. */
  get atGate(): UpdateEvent | undefined {
    return this.#atGate?.event
  }

  /** One that happens in the middle of another one is next. */
  event(event: UpdateEvent, cause: Cause = {}): void {
    this.#events.push({ event, cause })
    if (this.#working) return
    this.#working = true
    try {
      for (let next = this.#events.shift(); next && !this.#parts.ended(); next = this.#events.shift()) {
        this.#step(next.event, next.cause)
      }
    } finally {
      this.#working = false
      this.#parts.record()
    }
  }

  /** Asks the group again whether the event that waits may go on. */
  retry(): void {
    const held = this.#atGate
    if (held) this.event(held.event, held.cause)
  }

  #step(event: UpdateEvent, cause: Cause): void {
    const { facts, old } = this.#parts
    const move = nextMove(this.phase, event)
    if (!move || this.#mustWait(event, cause)) return
    if (event === 'checkDone') facts.checked = true
    if (move.to === 'aborting' || move.to === 'orphaned') facts.failure = cause
    const end = () => endOf({ checked: facts.checked, oldAlive: old?.alive === true })
    if (move.to !== this.phase) this.enter(event === 'successorGone' ? end() : move.to, cause)
    for (const action of move.actions) this.#options.act(action, cause)
    if (isOver(this.phase)) this.#options.close(this.phase)
    this.#options.gate?.changed()
  }

  /** Whom the group waits for has a deadline; this side is not to blame. */
  #mustWait(event: UpdateEvent, cause: Cause): boolean {
    const { gate } = this.#options
    if (!gate || !GATED.has(event)) return false
    this.#atGate = { event, cause }
    if (gate.lets()) {
      this.#atGate = undefined
      return false
    }
    clearTimeout(this.#timer)
    gate.changed()
    return true
  }

  enter(phase: UpdatePhase, cause: Cause): void {
    const { facts, timeline, isClaim, workload, id, group, state } = this.#parts
    facts.phase = phase
    timeline.add({ phase, ...cause })
    this.#atGate = undefined
    this.startDeadline()
    if (isClaim) return
    const { reason: detail, who: pid } = cause
    const about = { workload: workload.name, update: id, group, detail, pid }
    timeline.inform(() => state.events.progress(workload.uid, phase, about))
  }

  // --- time ---------------------------------------------------------------------------------------------------------

  /** The time that the phase has begins now. */
  startDeadline(ms = this.#parts.request.deadlineMs): void {
    const { facts, isClaim, old, request } = this.#parts
    clearTimeout(this.#timer)
    const waits = WAITS[this.phase]
    facts.deadlineAtMs = waits && !isClaim ? monotonicMs() + ms : undefined
    if (!waits || isClaim) return
    this.startTimer(ms, () => {
      const reason = `${waits(old?.pid, this.#parts.successor?.pid)} within ${request.deadlineMs / 1000} s`
      this.event('deadline', { code: 'LUO_DEADLINE', reason })
    })
  }

  /** In place of the one before. */
  startTimer(ms: number, then: () => void): void {
    clearTimeout(this.#timer)
    const timer = setTimeout(() => {
      this.#parts.state.turnstile.run(() => {
        if (this.#timer === timer) then()
      })
    }, ms)
    this.#timer = timer
  }

  stopTimer(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
