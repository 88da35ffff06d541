/** What happens to workloads, for whoever watches: each user sees their own, root sees all. */
import { LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import { LIMITS } from './limits.js'

export type WatchEvent = Methods['Watch']['output']

interface Watcher {
  uid: number
  workload: string | undefined
  send(event: WatchEvent): boolean
}

export class Events {
  readonly #watchers = new Set<Watcher>()

  /** Answers how to end it. LUO_LIMIT when this user has too many. */
  watch(watcher: Watcher): () => void {
    const count = [...this.#watchers].filter(({ uid }) => uid === watcher.uid).length
    if (count >= LIMITS.watchers) {
      throw new LuoError('LUO_LIMIT', `watch: uid ${watcher.uid} has ${count} streams of events already`)
    }
    this.#watchers.add(watcher)
    return () => this.#watchers.delete(watcher)
  }

  emit(owner: number, event: WatchEvent): void {
    const told: WatchEvent = { ...event, uid: owner, at: new Date().toISOString() }
    for (const watcher of this.#watchers) {
      if (watcher.uid !== owner && watcher.uid !== 0) continue
      if (watcher.workload !== undefined && watcher.workload !== event.workload) continue
      watcher.send(told)
    }
  }
}
