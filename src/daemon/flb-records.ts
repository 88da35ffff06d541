/**
 * What files share is recorded whenever it has changed, so that a luod after this one gives back what this one took.
 */
import type { FlbRecord } from '../abi/record-shapes.js'
import type { Change, Records } from '../abi/records.js'
import type { Flbs } from '../core/flb.js'
import type { Recorded } from './journal.js'

export class FlbRecords implements Recorded {
  readonly #flbs: Flbs
  /** What was recorded last, by name. */
  readonly #recorded = new Map<string, { key: string; text: string }>()
  #nextKey = 1

  constructor(flbs: Flbs, records: Records) {
    this.#flbs = flbs
    for (const [key, { compatible, state }] of records.entries('flb')) {
      this.#recorded.set(String(compatible), { key, text: JSON.stringify(state) })
      this.#nextKey = Math.max(this.#nextKey, Number(key) + 1)
    }
  }

  changes(): Change[] {
    const saved = this.#flbs.save()
    if (saved.length === 0 && this.#recorded.size === 0) return []
    const changes: Change[] = []
    const there = new Set<string>()
    for (const { compatible, saved: state } of saved) {
      there.add(compatible)
      const text = JSON.stringify(state)
      const before = this.#recorded.get(compatible)
      if (before?.text === text) continue
      const key = before?.key ?? String(this.#nextKey++)
      this.#recorded.set(compatible, { key, text })
      const value: FlbRecord = { compatible, state }
      changes.push({ type: 'flb', key, value: value })
    }
    for (const [compatible, { key }] of this.#recorded) {
      if (there.has(compatible)) continue
      this.#recorded.delete(compatible)
      changes.push({ type: 'flb', key, value: undefined })
    }
    return changes
  }
}
