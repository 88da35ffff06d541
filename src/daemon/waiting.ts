/** Somebody's request that is answered later: when a phase is reached, or never will be. */
import type { LuoError } from '../errors.js'

export class Waiting<T> {
  readonly promise: Promise<T>
  #settled = false
  #resolve: (value: T) => void = () => {}
  #reject: (error: LuoError) => void = () => {}

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // Whoever waited may be gone.
    this.promise.catch(() => {})
  }

  get settled(): boolean {
    return this.#settled
  }

  answer(value: T): void {
    this.#settled = true
    this.#resolve(value)
  }

  fail(error: LuoError): void {
    this.#settled = true
    this.#reject(error)
  }
}
