/**
 * When a replica does its work: soon after something has come, when nothing more comes for a moment, and in small parts, so
 * that what comes is taken at once whatever there is to do. Not everything that luod records comes with a descriptor: so
 * the records are looked at now and then too.
 */
import type { LuoError } from '../errors.js'
import { isLuoError } from '../errors.js'
import type { Replica } from './replica.js'

/** In one turn of the loop. */
const PART_MS = 4
/** Without anything new before there is work: whoever sends has the processor to himself. */
const QUIET_MS = 20
/** The longest that work waits for that. */
const MOST_MS = 250
const LOOK_MS = 500

export class Preparing {
  readonly #replica: Pick<Replica, 'work'>
  #onDone: ((error?: LuoError) => void) | undefined
  #timer: NodeJS.Timeout | undefined
  #immediate: NodeJS.Immediate | undefined
  readonly #look: NodeJS.Timeout
  #changedAt = 0
  #since = 0

  constructor(replica: Pick<Replica, 'work'>) {
    this.#replica = replica
    this.#look = setInterval(() => this.#start(), LOOK_MS)
  }

  /** Something has come. */
  changed(): void {
    this.#changedAt = performance.now()
    if (this.#timer || this.#immediate) return
    this.#since = this.#changedAt
    this.#timer = setTimeout(() => this.#whenQuiet(), QUIET_MS)
  }

  /** Begins at once. `onDone` is called once, when nothing is left to do, or when it cannot be done now. */
  now(onDone: (error?: LuoError) => void): void {
    this.#onDone = onDone
    this.#start()
  }

  stop(): void {
    this.#onDone = undefined
    clearInterval(this.#look)
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
  }

  #whenQuiet(): void {
    this.#timer = undefined
    const now = performance.now()
    const left = Math.min(this.#changedAt + QUIET_MS, this.#since + MOST_MS) - now
    if (left > 1) this.#timer = setTimeout(() => this.#whenQuiet(), left)
    else this.#start()
  }

  #start(): void {
    this.#immediate ??= setImmediate(() => this.#work())
  }

  #work(): void {
    this.#immediate = undefined
    let failed: LuoError | undefined
    try {
      if (this.#replica.work(PART_MS)) return this.#start()
    } catch (error) {
      // It was read while it was written: the next time will do.
      if (!isLuoError(error)) throw error
      failed = error
    }
    const onDone = this.#onDone
    this.#onDone = undefined
    onDone?.(failed)
  }
}
