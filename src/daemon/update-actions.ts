/** What the table (`update-machine.ts`) says is to be done in an update, and what is done at its end. */
import { asLuoError, LuoError } from '../errors.js'
import { checkFormats } from './describe.js'
import { KILL_WAIT_MS } from './limits.js'
import type { OldVersion } from './old-version.js'
import type { UpdateCourse } from './update-course.js'
import type { UpdateAction, UpdateEnd } from './update-machine.js'
import type { UpdateParts } from './update-parts.js'
import type { Cause, UpdateResult } from './update-types.js'

export class UpdateActions {
  readonly finished: Promise<UpdateResult>
  readonly #parts: UpdateParts
  readonly #course: UpdateCourse
  readonly #old: OldVersion
  #finish: (result: UpdateResult) => void = () => {}

  constructor(parts: UpdateParts, course: UpdateCourse, old: OldVersion) {
    this.#parts = parts
    this.#course = course
    this.#old = old
    this.finished = new Promise((resolve) => {
      this.#finish = resolve
    })
  }

  act(action: UpdateAction, cause: Cause): void {
    switch (action) {
      case 'askOld':
        return this.#old.ask()
      case 'freeze':
        return this.#freeze()
      case 'giveState':
        return this.#giveState()
      case 'release':
        return this.#old.release()
      case 'handOver':
        return this.#handOver()
      case 'killOld':
        return this.#old.kill()
      case 'killSuccessor':
        return this.#killSuccessor(cause)
      case 'goBack':
        return this.#goBack()
      case 'orphan':
        this.#leaveBehind()
    }
  }

  #freeze(): void {
    const { workload, successor, request, state } = this.#parts
    try {
      const alone = request.purpose === 'kexec'
      if (!workload.session || (!successor && !alone)) throw new LuoError('LUO_GONE', 'freeze: the session has ended')
      // It may have changed since the successor joined.
      if (successor) checkFormats(workload, successor.accepts, 'the new version')
      state.sessions.freeze(workload, successor)
    } catch (error) {
      const { code, message } = asLuoError(error, 'EIO', 'freeze the state')
      this.#course.event('abortAsked', { code, reason: message })
      return
    }
    this.#course.event('frozen')
  }

  #giveState(): void {
    this.#course.startDeadline()
    this.#parts.requests.giveState()
  }

  #handOver(): void {
    const { workload, old, successor, state, facts, requests, timeline, id, group } = this.#parts
    if (!successor) return
    state.sessions.handOver(workload, old, successor)
    workload.member = successor
    workload.generation += 1
    successor.ready = true
    successor.committed = facts.released ?? (old ? 'death' : 'none')
    workload.update = undefined
    this.#old.endBlackout()
    requests.answerCommit({ released: successor.committed })
    if (old) state.dropMember(old)
    timeline.inform(() => state.tell(workload, 'running', { by: successor, update: id, group }))
  }

  #killSuccessor(cause: Cause): void {
    const { ticket, requests, successor, targets } = this.#parts
    ticket.void()
    requests.fail(cause)
    successor?.kill()
    targets.kill()
    this.#course.startTimer(KILL_WAIT_MS, () => this.#course.event('successorGone'))
    this.lookForTheDead()
  }

  /** Whether all that there was of the successor has ended. */
  lookForTheDead(): void {
    if (this.#parts.targets.allGone) this.#course.event('successorGone')
  }

  #goBack(): void {
    const { facts, state, workload, successor } = this.#parts
    if (facts.phase === 'orphaned') return this.#leaveBehind()
    state.sessions.takeBack(workload, successor)
    workload.update = undefined
    this.#old.resume()
  }

  /** Nobody is left to hold the state. */
  #leaveBehind(): void {
    const { workload, old, successor, state } = this.#parts
    if (old) state.dropMember(old)
    workload.member = undefined
    workload.update = undefined
    // Frozen state had been given to us to keep, whatever the workload asked for.
    state.abandon(workload, { always: workload.session?.custody === 'frozen', successor })
  }

  close(outcome: UpdateEnd): void {
    const { workload, id, ticket, requests, successor, state, targets, facts, timeline } = this.#parts
    this.#course.stopTimer()
    this.#old.expectNobody()
    workload.update = undefined
    ticket.void()
    workload.lastUpdate = { id, committed: outcome === 'committed' }
    if (successor && workload.member !== successor) state.dropMember(successor)
    requests.fail(facts.failure)
    targets.close()
    // What ended while the update was there has waited for its end.
    if (workload.member?.released) state.memberReleased(workload, workload.member)
    timeline.inform(() => this.#tell(outcome))
  }

  #tell(outcome: UpdateEnd): void {
    const { workload, id, isClaim, request, old, successor, state, facts, timeline } = this.#parts
    const { reason, code } = facts.failure
    // A supervisor has nothing to do with a kexec.
    if (!isClaim && request.purpose !== 'kexec') {
      const why = reason === undefined ? {} : { reason }
      workload.supervisor?.tell({ event: 'ended', update: id, outcome, ...why })
    }
    state.tell(workload, isClaim ? 'claimed' : 'updated', {
      ...{ update: id, outcome, code, detail: reason, by: request.by },
      ...{ blackout_ms: facts.blackoutMs, duration_ms: timeline.phases.at(-1)?.at_ms },
      ...{ old_pid: old?.pid, new_pid: successor?.pid },
    })
    this.#finish({ outcome, blackoutMs: facts.blackoutMs, timeline: timeline.phases })
    state.endIfUnused(workload)
  }
}
