/** What happens to workloads, for whoever watches: each user sees their own, root sees all. */
import type { Methods } from '../protocol/types.js'
import type { Usage } from './usage.js'

export type WatchEvent = Methods['Watch']['output']

interface Watcher {
  uid: number
  workload: string | undefined
  send(event: WatchEvent): boolean
}

export class Events {
  readonly #watchers = new Set<Watcher>()
  readonly #usage: Usage

  constructor(usage: Usage) {
    this.#usage = usage
  }

  /** Answers how to end it. LUO_LIMIT when this user has too many. */
  watch(watcher: Watcher): () => void {
    this.#usage.check(watcher.uid, 'watchers', 1, 'watch')
    this.#usage.change(watcher.uid, 'watchers', 1)
    this.#watchers.add(watcher)
    return () => {
      if (this.#watchers.delete(watcher)) this.#usage.change(watcher.uid, 'watchers', -1)
    }
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
