/**
 * The version that lets go: how it is asked to, what it is told when it comes back, and for how long its clients wait
 * (the blackout). It may lose its connection at any time, and has a moment to come back; its word has a deadline of its
 * own, and its end is seen by its pidfd.
 */
import { asLuoError } from '../errors.js'
import { millisecondsSince, monotonicMs } from './clock.js'
import { FENCE_MS, KILL_WAIT_MS, RECONNECT_MS } from './limits.js'
import type { Member, MemberEvent } from './member.js'
import type { UpdateCourse } from './update-course.js'
import { tellRecorded, type UpdateParts } from './update-parts.js'

export class OldVersion {
  readonly #parts: UpdateParts
  readonly #course: UpdateCourse
  #backTimer: NodeJS.Timeout | undefined

  constructor(parts: UpdateParts, course: UpdateCourse) {
    this.#parts = parts
    this.#course = course
  }

  ask(): void {
    const { facts, old, request } = this.#parts
    facts.asked = true
    facts.askedAtMs = monotonicMs()
    facts.blackoutFromMs = facts.askedAtMs
    tellRecorded(this.#parts, () => {
      if (facts.phase !== 'preparing' || old?.tell(this.#prepare(request.deadlineMs))) return
      if (old?.alive) return this.expectBack(old, old.backWithinMs)
      const reason = 'the old version does not listen for updates any more'
      this.#course.event('oldDied', { code: 'LUO_GONE', reason })
    })
  }

  /** Whether this member is asked to let go, and what is to be said to it if that was not heard. */
  asks(member: Member): { update: string; due: MemberEvent | undefined } | undefined {
    const { old, facts, id } = this.#parts
    if (member !== old || !facts.asked || this.#parts.ended()) return undefined
    return { update: id, due: this.#due() }
  }

  #due(): MemberEvent | undefined {
    const { request, facts, id } = this.#parts
    if (facts.phase === 'committing') return { event: 'release', update: id }
    if (facts.phase !== 'preparing' || this.#course.atGate) return undefined
    const leftMs = request.deadlineMs - millisecondsSince(facts.askedAtMs)
    return this.#prepare(Math.max(1, Math.round(leftMs)))
  }

  #prepare(deadlineMs: number): MemberEvent {
    const { id, request } = this.#parts
    const { purpose = 'update' } = request
    return { event: 'prepare', update: id, deadline_ms: deadlineMs, purpose }
  }

  /**
   * It has lost its connection, or luod was replaced. It has a moment to come back, in which its end is seen too, if it
   * was that; then it can neither be told to let go nor to go on.
   */
  expectBack(member: Member, waitMs = RECONNECT_MS): void {
    const { old, facts, state } = this.#parts
    if (member !== old || !facts.asked) return
    clearTimeout(this.#backTimer)
    const lost = () => {
      if (!member.alive || member.subscriber || !['preparing', 'restoring'].includes(facts.phase)) return
      const reason = `the old version (pid ${member.pid}) closed its connection`
      this.#course.event('abortAsked', { who: member.pid, code: 'LUO_GONE', reason })
    }
    this.#backTimer = setTimeout(() => state.turnstile.run(lost), waitMs)
  }

  expectNobody(): void {
    clearTimeout(this.#backTimer)
  }

  /** There is no way back from here on, so a luod after this one has to know. */
  release(): void {
    const { old, facts, id, state } = this.#parts
    const unrecorded = (error: unknown) => {
      const { code, message } = asLuoError(error, 'EIO', 'record the commit')
      this.#course.event('oldRefused', { code, reason: `the commit cannot be recorded: ${message}` })
    }
    if (!old) {
      try {
        this.#parts.record()
        state.journal.commit()
      } catch (error) {
        return unrecorded(error)
      }
      return this.#course.event('oldReleased')
    }
    this.#course.startTimer(FENCE_MS, () => this.#course.event('fenceLate'))
    const release = () => {
      // If it cannot be asked just now, it is asked when it subscribes again.
      if (facts.phase === 'committing' && !old.tell({ event: 'release', update: id }) && !old.alive) this.kill()
    }
    tellRecorded(this.#parts, release, unrecorded)
  }

  kill(): void {
    this.#course.stopTimer()
    if (!this.#parts.old?.kill()) return this.#course.event('oldDied')
    this.#course.startTimer(KILL_WAIT_MS, () => this.#course.event('oldDied'))
  }

  /** It goes on; said only to a version that was asked to let go. */
  resume(): void {
    const { facts, old, request, id } = this.#parts
    if (!facts.asked || !old) return
    this.endBlackout()
    const what = request.purpose === 'kexec' ? 'the kexec was a dry run' : 'the update was a check'
    const reason = facts.failure.reason ?? what
    tellRecorded(this.#parts, () => old.tell({ event: 'resume', update: id, reason }))
  }

  /** It knows when it began to hold requests back; without its word it counts from when it was asked. */
  held(heldMs: number | undefined): void {
    const { facts } = this.#parts
    if (heldMs === undefined || facts.blackoutFromMs === undefined) return
    const from = Math.max(facts.blackoutFromMs, monotonicMs() - Math.max(0, heldMs))
    facts.blackoutFromMs = heldMs === 0 ? undefined : from
  }

  endBlackout(): void {
    const { facts } = this.#parts
    if (facts.blackoutFromMs !== undefined) facts.blackoutMs = millisecondsSince(facts.blackoutFromMs)
  }
}
