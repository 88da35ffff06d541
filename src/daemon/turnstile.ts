/**
 * Where everything that happens by itself passes: ends that are seen, and times that are over. While luod is paused
 * they wait here, in order, so that nothing changes; a luod that takes over sees them itself.
 */
export class Turnstile {
  #waiting: (() => void)[] | undefined
  #closed = false

  get paused(): boolean {
    return this.#waiting !== undefined
  }

  /** Now, or in `resume`. */
  run(what: () => void): void {
    if (this.#closed) return
    if (this.#waiting) this.#waiting.push(what)
    else what()
  }

  pause(): void {
    this.#waiting ??= []
  }

  resume(): void {
    const waiting = this.#waiting ?? []
    this.#waiting = undefined
    for (const what of waiting) what()
  }

  /** Nothing passes any more. */
  close(): void {
    this.#closed = true
    this.#waiting = undefined
  }
}
