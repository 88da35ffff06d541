/**
 * Updates of several workloads at once. Each is an `Update` of its own, with its own commit; a gate holds it back at
 * the steps that concern others, and the plan (`group.ts`) says when it may go on, and who rolls back when one fails.
 *
 * A gate always opens, or the group fails: whoever is held has no deadline, and whoever it waits for has one.
 */
import { randomUUID } from 'node:crypto'
import { Gate } from './gate.js'
import { GroupPlan } from './group.js'
import { LIMITS } from './limits.js'
import type { State } from './state.js'
import { Update } from './update.js'
import type { Followed, UpdateRequest, UpdateResult } from './update-types.js'
import type { Workload } from './workload.js'

export interface GroupResult extends UpdateResult {
  workload: string
  update: string
}

/** A group's update as whoever asked for it sees it, also when it is over. */
export interface FollowedGroup {
  readonly group: string
  readonly updates: readonly Followed[]
  readonly finished: Promise<readonly GroupResult[]>
}

export async function resultsOf(updates: readonly Followed[]): Promise<readonly GroupResult[]> {
  return Promise.all(
    updates.map(async (update) => ({ ...(await update.finished), workload: update.workload, update: update.id })),
  )
}

export class GroupUpdate extends Gate implements FollowedGroup {
  readonly group = randomUUID()
  readonly finished: Promise<readonly GroupResult[]>
  readonly #needs: (workload: Workload) => readonly Workload[]
  #plan: GroupPlan<Workload>
  /** All successors are there. */
  #complete = false
  /** One was let to its commit: they cannot all go back any more. */
  #begun = false

  /**
   * Asks every supervisor to start its successor. When one cannot be asked it throws; those that were asked before it
   * end again, and no old version has heard of anything.
   */
  constructor(state: State, workloads: readonly Workload[], request: UpdateRequest) {
    super()
    this.#needs = (workload) => state.needsOf(workload)
    this.#plan = new GroupPlan(workloads, this.#needs)
    try {
      for (const workload of workloads) this.byWorkload.set(workload, Update.start(state, workload, request, this))
    } catch (error) {
      const reason = 'the group could not be started'
      for (const update of this.updates) {
        update.event('abortAsked', { code: 'LUO_GROUP', reason })
        update.forget()
      }
      throw error
    }
    this.finished = resultsOf(this.updates)
  }

  get updates(): Update[] {
    return [...this.byWorkload.values()]
  }

  lets(update: Update): boolean {
    this.#planAgain()
    const [workload] = [...this.byWorkload].find(([, candidate]) => candidate === update) ?? []
    if (!workload || !this.#plan.mayGoOn(workload, this.standing, this.#begun)) return false
    if (update.atGate === 'commitAsked') this.#begun = true
    return true
  }

  /** Once, when all successors are there: they may need others than the versions before them. */
  #planAgain(): void {
    if (this.#complete || this.updates.some((update) => update.atGate === undefined)) return
    this.#complete = true
    this.#plan = new GroupPlan([...this.byWorkload.keys()], this.#needs)
  }

  protected override look(): void {
    for (const [workload, culprit] of this.#plan.rollBacks(this.standing, this.#begun)) {
      const why = this.byWorkload.get(culprit)?.failure.reason ?? 'it ended'
      const reason = `${culprit.name}, in the same group, does not commit: ${why}`.slice(0, LIMITS.reason_bytes)
      this.byWorkload.get(workload)?.event('abortAsked', { code: 'LUO_GROUP', reason })
    }
    for (const [workload, update] of this.byWorkload) {
      if (this.#plan.mayGoOn(workload, this.standing, this.#begun)) update.retry()
    }
  }
}
