/**
 * The vault: every descriptor that luod's state cannot be built without, under a key. Whoever else keeps copies of them
 * (another process, the service manager) is a sink; it gets what comes and goes, in order.
 *
 * A descriptor is put before the commit of the records that mention it, and removed after the commit of those that do
 * not any more (`journal.ts`). So whenever luod ends, a sink has a descriptor for every record; what it has more is of
 * nobody's interest. The descriptors stay their owners', who close them.
 */
import type { Fd } from '../sys/fd.js'

/** Descriptors that go to a sink at once: as many as one message on a Unix socket takes. */
export const MAX_VAULT_BATCH = 253

export interface VaultEntry {
  key: string
  fd: Fd
}

/** Neither waits. What a sink throws ends it: it gets nothing more. */
export interface VaultSink {
  /** At most `MAX_VAULT_BATCH`. A key that is there already gets another descriptor. */
  put(entries: readonly VaultEntry[]): void
  remove(keys: readonly string[]): void
}

/** The keys: what comes after the slash is the key of a record, for `target` that of its update and a number. */
export type VaultKey =
  | 'listener'
  | 'lock'
  | 'records'
  | 'device'
  | `file/${string}`
  | `lifetime/${string}`
  | `pidfd/${string}`
  | `ticket/${string}`
  | `target/${string}/${string}`

export class Vault {
  readonly #entries: Map<string, Fd>
  readonly #sinks = new Set<VaultSink>()
  readonly #onSinkLost: (error: unknown) => void

  /** `entries`: what is in it from the beginning. */
  constructor(onSinkLost: (error: unknown) => void = () => {}, entries = new Map<string, Fd>()) {
    this.#onSinkLost = onSinkLost
    this.#entries = entries
  }

  get size(): number {
    return this.#entries.size
  }

  /** Everything that is in it, for whoever takes it along. */
  entries(): ReadonlyMap<string, Fd> {
    return this.#entries
  }

  put(entries: readonly VaultEntry[]): void {
    for (const { key, fd } of entries) this.#entries.set(key, fd)
    for (const sink of this.#sinks) this.#give(sink, entries)
  }

  remove(keys: readonly string[]): void {
    for (const key of keys) this.#entries.delete(key)
    for (const sink of this.#sinks) {
      try {
        for (const part of parts(keys)) sink.remove(part)
      } catch (error) {
        this.#lose(sink, error)
      }
    }
  }

  /** Gives it everything first, between two transactions. Answers how to take it away. */
  addSink(sink: VaultSink): () => void {
    const remove = this.follow(sink)
    this.#give(
      sink,
      [...this.#entries].map(([key, fd]) => ({ key, fd })),
    )
    return remove
  }

  /** Gives it only what comes and goes from here on. */
  follow(sink: VaultSink): () => void {
    this.#sinks.add(sink)
    return () => this.#sinks.delete(sink)
  }

  #give(sink: VaultSink, entries: readonly VaultEntry[]): void {
    try {
      for (const part of parts(entries)) sink.put(part)
    } catch (error) {
      this.#lose(sink, error)
    }
  }

  #lose(sink: VaultSink, error: unknown): void {
    this.#sinks.delete(sink)
    this.#onSinkLost(error)
  }
}

/** As many at once as a sink takes. */
export function* parts<T>(all: readonly T[]): Iterable<readonly T[]> {
  if (all.length <= MAX_VAULT_BATCH) {
    if (all.length > 0) yield all
    return
  }
  for (let at = 0; at < all.length; at += MAX_VAULT_BATCH) yield all.slice(at, at + MAX_VAULT_BATCH)
}
