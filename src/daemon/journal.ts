/**
 * What a request, or anything else that happens, changes in the records and in the vault: all of it in one transaction,
 * before anybody is told. Descriptors are put before it, and removed after it.
 *
 * `add` is for what must not be done when it cannot be recorded: it throws at once. `touch` is for what has happened:
 * it is written down as it is when the transaction is committed, once, however often it was touched. `tell` is for what
 * others hear of it: they hear it after the commit. What nobody commits is committed before the loop goes on. A commit
 * that fails leaves everything to the next one, which comes by itself, with growing pauses, if nothing else happens.
 */
import type { Change, Records } from '../abi/records.js'
import type { Fd } from '../sys/fd.js'
import { step } from './steps.js'
import type { Vault, VaultKey } from './vault.js'

const FIRST_RETRY_MS = 50
const MOST_RETRY_MS = 5_000

/** Something that is recorded. */
export interface Recorded {
  /** What there is to record of it now. */
  changes(): readonly Change[]
}

interface Told {
  run(): void
  unrecorded(error: unknown): void
}

export class Journal {
  readonly #records: Records
  readonly #vault: Vault
  readonly #onDefect: (error: unknown) => void
  readonly #touched = new Set<Recorded>()
  readonly #watched: Recorded[] = []
  readonly #puts = new Map<VaultKey, Fd>()
  readonly #removes = new Set<VaultKey>()
  readonly #onRecorded: () => void
  #tells: Told[] = []
  #scheduled = false
  #closed = false
  /** Until the next attempt; undefined while everything is recorded. */
  #retry: NodeJS.Timeout | undefined
  #retryMs = FIRST_RETRY_MS
  /** Nobody was there to be told but whoever reads the log. */
  #reported = false

  /** `onDefect`: something cannot be recorded, or told. `onRecorded`: after that, everything is recorded again. */
  constructor(records: Records, vault: Vault, onDefect: (error: unknown) => void, onRecorded = () => {}) {
    this.#records = records
    this.#vault = vault
    this.#onDefect = onDefect
    this.#onRecorded = onRecorded
  }

  /** Looked at in every commit. */
  watch(recorded: Recorded): void {
    this.#watched.push(recorded)
  }

  /** Throws, and nothing was added, when it cannot be recorded. */
  add(changes: readonly Change[]): void {
    if (this.#closed) return
    this.#records.add(changes)
    this.#schedule()
  }

  touch(recorded: Recorded): void {
    this.#touched.add(recorded)
    this.#schedule()
  }

  /** Its last changes, instead of what it would say. */
  forget(recorded: Recorded, changes: readonly Change[]): void {
    this.#touched.delete(recorded)
    this.touch({ changes: () => changes })
  }

  keep(key: VaultKey, fd: Fd): void {
    this.#puts.set(key, fd)
    this.#removes.delete(key)
    this.#schedule()
  }

  /** The descriptor may be closed at once: sinks have their own. */
  drop(key: VaultKey): void {
    if (!this.#puts.delete(key)) this.#removes.add(key)
    this.#schedule()
  }

  /**
   * Called when everything up to now is recorded, in the same transaction as the answer to the request that this is
   * part of. When that fails `unrecorded` is called, a moment later. Without it `run` is all the same: what has
   * happened has happened.
   */
  tell(run: () => void, unrecorded: (error: unknown) => void = run): void {
    if (this.#closed) return
    this.#tells.push({ run, unrecorded })
    this.#schedule()
  }

  /** Everything up to now is recorded, with `more`. Throws when it is not. */
  commit(more: readonly Change[] = []): void {
    if (this.#closed) return
    try {
      this.#commit(more)
    } catch (error) {
      this.#commitLater()
      throw error
    }
    this.#stopRetrying()
    if (this.#reported) this.#onRecorded()
    this.#reported = false
    this.#tellAll(({ run }) => run())
  }

  #commit(more: readonly Change[]): void {
    const touched = [...this.#touched]
    for (const recorded of [...touched, ...this.#watched]) this.#records.add(recorded.changes())
    for (const recorded of touched) this.#touched.delete(recorded)
    this.#records.add(more)
    if (this.#puts.size > 0) {
      step('change.put')
      this.#vault.put([...this.#puts].map(([key, fd]) => ({ key, fd })))
      this.#puts.clear()
    }
    step('change.commit')
    this.#records.commit()
    if (this.#removes.size > 0) {
      step('change.remove')
      this.#vault.remove([...this.#removes])
      this.#removes.clear()
    }
  }

  /** If nothing else happens that would be recorded with it. */
  #commitLater(): void {
    clearTimeout(this.#retry)
    this.#retry = setTimeout(() => this.#try(), this.#retryMs)
    this.#retry.unref()
    this.#retryMs = Math.min(this.#retryMs * 2, MOST_RETRY_MS)
  }

  #stopRetrying(): void {
    clearTimeout(this.#retry)
    this.#retry = undefined
    this.#retryMs = FIRST_RETRY_MS
  }

  /** Nothing is recorded any more: it ends here, or somebody else goes on with it. */
  close(): void {
    this.#closed = true
    this.#tells = []
    this.#stopRetrying()
  }

  #tellAll(tell: (told: Told) => void): void {
    for (const told of this.#tells.splice(0)) {
      try {
        tell(told)
      } catch (error) {
        this.#onDefect(error)
      }
    }
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(() => {
      this.#scheduled = false
      this.#try()
    })
  }

  #try(): void {
    try {
      this.commit()
    } catch (error) {
      if (!this.#reported) this.#onDefect(error)
      this.#reported = true
      this.#tellAll(({ unrecorded }) => unrecorded(error))
    }
  }
}
