/**
 * What happens, told once: here it goes to whoever watches (each user sees their own, root sees all), and to those who
 * keep it, the history and the metrics. What is told must not fail: it has happened.
 */
import type { HistoryEvent } from '../protocol/types.js'
import { LIMITS } from './limits.js'
import type { Usage } from './usage.js'

interface Watcher {
  uid: number
  workload: string | undefined
  send(event: HistoryEvent): boolean
}

/** Who did it, as the kernel says. */
export interface Actor {
  uid: number
  pid: number
}

/** What is said of an event beside its name, its time, and whose workload it is about. */
export type EventFacts = Omit<HistoryEvent, 'event' | 'at' | 'last_at' | 'times' | 'uid' | 'by_uid'> & { by?: Actor }

export class Events {
  readonly #watchers = new Set<Watcher>()
  readonly #keepers = new Set<(event: HistoryEvent) => void>()
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

  /** Calls `keep` with everything but what is on its way only (`progress`). Answers how to end it. */
  onEvent(keep: (event: HistoryEvent) => void): () => void {
    this.#keepers.add(keep)
    return () => {
      this.#keepers.delete(keep)
    }
  }

  /** Something has happened. `uid`: whose. */
  emit(uid: number, event: string, facts: EventFacts): void {
    const told = describe(uid, event, facts)
    for (const keep of this.#keepers) keep(told)
    this.#show(told)
  }

  /** Something is on its way, and how it ends will be an event: only for those who watch now. */
  progress(uid: number, event: string, facts: EventFacts): void {
    this.#show(describe(uid, event, facts))
  }

  #show(event: HistoryEvent): void {
    for (const watcher of this.#watchers) {
      if (watcher.uid !== event.uid && watcher.uid !== 0) continue
      if (watcher.workload !== undefined && watcher.workload !== event.workload) continue
      watcher.send(event)
    }
  }
}

function describe(uid: number, event: string, { by, detail, ...facts }: EventFacts): HistoryEvent {
  const told: HistoryEvent = { event, at: new Date().toISOString(), uid, ...facts }
  if (by) Object.assign(told, { by_uid: by.uid, pid: by.pid })
  if (detail !== undefined) told.detail = cut(detail)
  return told
}

/** A client may have chosen some of the words. */
function cut(text: string): string {
  if (Buffer.byteLength(text) <= LIMITS.detail_bytes) return text
  return new TextDecoder().decode(Buffer.from(text).subarray(0, LIMITS.detail_bytes), { stream: true })
}
