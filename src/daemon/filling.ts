/**
 * A copy that is new gets everything that the vault has: in small parts, between which luod serves, and beside them
 * what comes and goes meanwhile. So however much that is, nobody waits for it. When the last part is sent, it has all.
 *
 * A part that the other side has no room for waits for the next turn; what changes does not (`mirror.ts`).
 */
import type { Fd } from '../sys/fd.js'
import { step } from './steps.js'
import type { VaultEntry, VaultSink } from './vault.js'

/** Descriptors of one part: sent in far less than a millisecond. */
const PART = 64
const PAUSE_MS = 1

export interface FillingOptions {
  entries: ReadonlyMap<string, Fd>
  line: VaultSink & {
    /** False, and nothing was sent, when there is no room for it now. */
    tryPut(entries: readonly VaultEntry[]): boolean
  }
  /** Everything is sent that was there, and all that has changed since. */
  onFull(): void
  onError(error: unknown): void
}

export class Filling implements VaultSink {
  readonly #options: FillingOptions
  /** Not sent yet. */
  readonly #left: Map<string, Fd>
  #timer: NodeJS.Timeout | undefined

  constructor(options: FillingOptions) {
    this.#options = options
    const isFile = ([key]: [string, Fd]) => key.startsWith('file/')
    const entries = [...options.entries]
    // What nothing can be gone on with without goes first: luod may end in the middle of this.
    this.#left = new Map([...entries.filter((entry) => !isFile(entry)), ...entries.filter(isFile)])
    this.#timer = setTimeout(() => this.#next(), 0)
  }

  put(entries: readonly VaultEntry[]): void {
    for (const { key } of entries) this.#left.delete(key)
    this.#options.line.put(entries)
  }

  remove(keys: readonly string[]): void {
    const sent = keys.filter((key) => !this.#left.delete(key))
    if (sent.length > 0) this.#options.line.remove(sent)
  }

  close(): void {
    clearTimeout(this.#timer)
  }

  #next(): void {
    try {
      const part: VaultEntry[] = []
      for (const [key, fd] of this.#left) {
        // What is closed was just let go of, and is taken out in a moment.
        if (fd.closed) this.#left.delete(key)
        else if (part.push({ key, fd }) === PART) break
      }
      step('copy.fill')
      if (part.length > 0 && this.#options.line.tryPut(part)) for (const { key } of part) this.#left.delete(key)
      if (this.#left.size === 0) return this.#options.onFull()
      this.#timer = setTimeout(() => this.#next(), PAUSE_MS)
    } catch (error) {
      this.#options.onError(error)
    }
  }
}
