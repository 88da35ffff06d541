/**
 * When a replica does its work: soon after something has come, when nothing more comes for a moment, and in small
 * parts, so that what comes is taken at once whatever there is to do. Not everything that luod records comes with a
 * descriptor: so the records are looked at now and then too.
 */
import { isLuoError, type LuoError } from '../errors.js'
import type { Replica } from './replica.js'

/** In one turn of the loop. */
const PART_MS = 4
/** Without anything new before there is work: whoever sends has the processor to himself. */
const QUIET_MS = 20
/** The longest that work waits for that. */
const MOST_MS = 250
const LOOK_MS = 500
/** Whoever waits for the end of the work waits no longer than this, if there is always more. */
const PATIENCE_MS = 5_000

export class Preparing {
  readonly #replica: Pick<Replica, 'work'>
  #onDone: ((error?: LuoError) => void) | undefined
  #patientUntil = 0
  #timer: NodeJS.Timeout | undefined
  #immediate: NodeJS.Immediate | undefined
  readonly #look: NodeJS.Timeout
  #changedAt = 0
  #since = 0
  #stopped = false

  constructor(replica: Pick<Replica, 'work'>) {
    this.#replica = replica
    this.#look = setInterval(() => this.#start(), LOOK_MS)
  }

  /** Something has come. */
  changed(): void {
    this.#changedAt = performance.now()
    if (this.#timer || this.#immediate || this.#stopped) return
    this.#since = this.#changedAt
    this.#timer = setTimeout(() => this.#whenQuiet(), QUIET_MS)
  }

  /**
   * Begins at once. `onDone` is called once: nothing is left to do, or it is too much to wait for, or cannot be done
   * now.
   */
  now(onDone: (error?: LuoError) => void): void {
    this.#onDone = onDone
    this.#patientUntil = performance.now() + PATIENCE_MS
    this.#start()
  }

  /** What it has become is somebody else's. */
  stop(): void {
    this.#stopped = true
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
      if (this.#replica.work(PART_MS)) {
        this.#start()
        if (performance.now() < this.#patientUntil) return
      }
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
