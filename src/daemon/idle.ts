/** Ends a luod that was started to end by itself: when nothing has been there to be done for a moment. */

/** Between the end of one client and the coming of the next, such as the steps of a script. */
const GRACE_MS = 500

export class IdleWatch {
  readonly #idle: () => boolean
  readonly #onIdle: (() => void) | undefined
  #timer: NodeJS.Timeout | undefined

  /** Without `onIdle` it watches nothing. */
  constructor(idle: () => boolean, onIdle: (() => void) | undefined) {
    this.#idle = idle
    this.#onIdle = onIdle
  }

  /** To be called whenever something has ended or begun. */
  look(): void {
    clearTimeout(this.#timer)
    if (!this.#onIdle || !this.#idle()) return
    this.#timer = setTimeout(() => {
      if (this.#idle()) this.#onIdle?.()
    }, GRACE_MS)
  }

  close(): void {
    clearTimeout(this.#timer)
  }
}
