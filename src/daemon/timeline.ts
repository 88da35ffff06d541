/**
 * What has happened in an update so far, and who is told. Watchers hear of it a little later, in order: while clients
 * wait, the processor is for the two versions.
 */
import type { Phase } from '../protocol/types.js'
import { millisecondsSince, monotonicMs } from './clock.js'
import { NOTIFY_DELAY_MS } from './limits.js'
import type { Turnstile } from './turnstile.js'

export class Timeline {
  readonly phases: Phase[]
  /** Of the monotonic clock. */
  readonly startedMs: number
  readonly #turnstile: Turnstile
  readonly #listeners = new Set<(phase: Phase) => void>()
  readonly #news: (() => void)[] = []
  #timer: NodeJS.Timeout | undefined

  /** `known`: what has happened before, in a luod before this one. */
  constructor(turnstile: Turnstile, known: { startedMs: number; phases: Phase[] } | undefined) {
    this.#turnstile = turnstile
    this.startedMs = known?.startedMs ?? monotonicMs()
    this.phases = known?.phases ?? []
  }

  /** Adds what happens now. */
  add(phase: Omit<Phase, 'at_ms'>): void {
    const entry: Phase = { ...phase, at_ms: millisecondsSince(this.startedMs) }
    this.phases.push(entry)
    this.inform(() => {
      for (const listener of this.#listeners) listener(entry)
    })
  }

  /** How long ago this phase was entered, in milliseconds. */
  sincePhase(phase: string): number {
    const { at_ms = 0 } = this.phases.findLast((entry) => entry.phase === phase) ?? {}
    return millisecondsSince(this.startedMs + at_ms)
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
    this.#timer ??= setTimeout(() => this.#turnstile.run(() => this.#tell()), NOTIFY_DELAY_MS)
  }

  /** Nobody is told any more. */
  close(): void {
    clearTimeout(this.#timer)
    this.#news.length = 0
    this.#listeners.clear()
  }

  #tell(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    for (const tell of this.#news.splice(0)) tell()
  }
}
