/**
 * What has happened in an update so far, and who is told. Watchers hear of it a little later, in order: while clients
 * wait, the processor is for the two versions.
 */
import type { Phase } from '../protocol/types.js'
import { NOTIFY_DELAY_MS } from './limits.js'

export class Timeline {
  readonly phases: Phase[] = []
  readonly #startedAt = performance.now()
  readonly #listeners = new Set<(phase: Phase) => void>()
  readonly #news: (() => void)[] = []
  #timer: NodeJS.Timeout | undefined

  /** Adds what happens now. */
  add(phase: Omit<Phase, 'at_ms'>): void {
    const entry: Phase = { ...phase, at_ms: millisecondsSince(this.#startedAt) }
    this.phases.push(entry)
    this.inform(() => {
      for (const listener of this.#listeners) listener(entry)
    })
  }

  /** Calls `listener` with every phase so far and to come. Answers how to stop that. */
  listen(listener: (phase: Phase) => void): () => void {
    this.#tell()
    for (const phase of this.phases) listener(phase)
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Something to be told later, after what happened before it. */
  inform(news: () => void): void {
    this.#news.push(news)
    this.#timer ??= setTimeout(() => this.#tell(), NOTIFY_DELAY_MS)
  }

  #tell(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    for (const tell of this.#news.splice(0)) tell()
  }
}

/** To the microsecond. */
export function millisecondsSince(start: number): number {
  return Math.round((performance.now() - start) * 1000) / 1000
}
