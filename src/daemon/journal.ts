/**
 * What a request, or anything else that happens, changes in the records and in the vault: all of it in one transaction,
 * before anybody is told. Descriptors are put before it, and removed after it.
 *
 * `add` is for what must not be done when it cannot be recorded: it throws at once. `touch` is for what has happened:
 * it is written down as it is when the transaction is committed, once, however often it was touched. `tell` is for what
 * others hear of it: they hear it after the commit. What nobody commits is committed before the loop goes on. A commit
 * that fails leaves everything to the next one.
 */
import type { Change, Records } from '../abi/records.js'
import type { Fd } from '../sys/fd.js'
import { step } from './steps.js'
import type { Vault, VaultKey } from './vault.js'

/** Something that is recorded. */
export interface Recorded {
  /** What there is to record of it now. */
  changes(): readonly Change[]
}

export class Journal {
  readonly #records: Records
  readonly #vault: Vault
  readonly #onDefect: (error: unknown) => void
  readonly #touched = new Set<Recorded>()
  readonly #watched: Recorded[] = []
  readonly #puts = new Map<VaultKey, Fd>()
  readonly #removes = new Set<VaultKey>()
  #tells: (() => void)[] = []
  #scheduled = false
  #closed = false

  constructor(records: Records, vault: Vault, onDefect: (error: unknown) => void) {
    this.#records = records
    this.#vault = vault
    this.#onDefect = onDefect
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
    this.add(changes)
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
   * part of. When that fails it is called all the same, a moment later: what has happened has happened.
   */
  tell(run: () => void): void {
    if (this.#closed) return
    this.#tells.push(run)
    this.#schedule()
  }

  /** Everything up to now is recorded, with `more`. Throws when it is not. */
  commit(more: readonly Change[] = []): void {
    if (this.#closed) return
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
    this.#tellAll()
  }

  /** Nothing is recorded any more: it ends here, or somebody else goes on with it. */
  close(): void {
    this.#closed = true
    this.#tells = []
  }

  #tellAll(): void {
    for (const run of this.#tells.splice(0)) {
      try {
        run()
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
      try {
        this.commit()
      } catch (error) {
        this.#onDefect(error)
        this.#tellAll()
      }
    })
  }
}
