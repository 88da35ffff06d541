/**
 * Holds the updates of a group back, so that they go on in the group's order. It is asked before each event that
 * concerns others (`GATED`). An event that it does not let through waits, without a deadline, until `Update.retry` asks
 * again, so it looks whenever an update of the group has moved.
 */
import { type Standing, standingOf } from './group.js'
import type { Update } from './update.js'
import type { Workload } from './workload.js'

export abstract class Gate {
  /** Id of the group. */
  abstract readonly group: string
  protected readonly byWorkload = new Map<Workload, Update>()
  #looking = false

  abstract lets(update: Update): boolean

  /** Who may go on now, and who has to end? */
  protected abstract look(): void

  /** An update has moved, or waits. Called in the middle of what it does, so it is looked at later. */
  changed(): void {
    if (this.#looking) return
    this.#looking = true
    queueMicrotask(() => {
      this.#looking = false
      this.look()
    })
  }

  protected readonly standing = (workload: Workload): Standing => {
    const update = this.byWorkload.get(workload)
    return update ? standingOf(update) : 'starting'
  }
}
