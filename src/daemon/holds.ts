/**
 * The lifetimes of luod's sessions: each is recorded, and luod's end of it is in the vault. What is written down of one
 * lets a luod after this one know the holder's descriptor again, by its inode.
 */
import type { LifetimeRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import type { Fd } from '../sys/fd.js'
import { monotonicMs, wallClockOf } from './clock.js'
import type { Journal, Recorded } from './journal.js'
import { type Lifetime, Lifetimes } from './lifetime.js'
import { RECENT_HOLD_MS, RESTORE_WAIT_MS } from './limits.js'
import type { Turnstile } from './turnstile.js'

export interface HoldOptions {
  session: string
  pid: number
  /** Key of the member that it is given out for. */
  member: string | undefined
  request?: string | undefined
  mayBeLost?: (() => boolean) | undefined
  waitMs?: number
  /** Once, and not after `close`. */
  onEnded(): void
}

interface Hold extends Recorded {
  readonly key: string
}

export class Holds {
  readonly lifetimes: Lifetimes
  readonly #journal: Journal
  readonly #holds = new Map<Lifetime, Hold>()
  #nextKey = 1n
  #restoring = true

  constructor(journal: Journal, turnstile: Turnstile) {
    this.#journal = journal
    this.lifetimes = new Lifetimes(turnstile)
  }

  /** Answers the holder's end too, owned by the caller. */
  create(options: HoldOptions): { lifetime: Lifetime; fd: Fd } {
    const key = String(this.#nextKey++)
    const { lifetime, fd } = this.lifetimes.create(this.#closing(key, options, () => lifetime))
    this.#know(key, lifetime, options.member, monotonicMs())
    return { lifetime, fd }
  }

  /**
   * As it was recorded. Owns `end`. If nobody has it, and it was given out just before, its answer may be lost; whoever
   * is looked at once (`drain`) and has it, has it.
   */
  restore(key: string, record: LifetimeRecord, end: Fd, onEnded: () => void) {
    const { inode, pid, session, member, request } = record
    const givenAtMs = givenAt(record)
    const mayBeLost = () => {
      const sinceMs = monotonicMs() - givenAtMs
      // The clock begins anew with the kernel: what was given out later than now was before that.
      return this.#restoring && sinceMs >= 0 && sinceMs < RECENT_HOLD_MS
    }
    const options = { session, pid, member, request, mayBeLost, waitMs: RESTORE_WAIT_MS, onEnded }
    const lifetime = this.lifetimes.adopt(
      end,
      inode,
      this.#closing(key, options, () => lifetime),
    )
    this.startKeysAt(BigInt(key) + 1n)
    this.#know(key, lifetime, member, givenAtMs)
    return lifetime
  }

  /** Sees what has ended while nobody looked, after all were restored. */
  restored(): void {
    this.lifetimes.drain()
    this.#restoring = false
  }

  /** Keys from this one on are free. */
  startKeysAt(key: bigint): void {
    if (key > this.#nextKey) this.#nextKey = key
  }

  keyOf(lifetime: Lifetime): string | undefined {
    return this.#holds.get(lifetime)?.key
  }

  /** Somebody else has it by now. */
  shownBy(lifetime: Lifetime, pid: number): void {
    if (lifetime.pid === pid) return
    lifetime.pid = pid
    const hold = this.#holds.get(lifetime)
    if (hold) this.#journal.touch(hold)
  }

  close(): void {
    this.lifetimes.close()
  }

  #closing(key: string, { member: _, ...options }: HoldOptions, lifetime: () => Lifetime) {
    const onClosed = () => {
      const hold = this.#holds.get(lifetime())
      if (!hold) return
      this.#holds.delete(lifetime())
      this.#journal.forget(hold, [{ type: 'lifetime', key, value: undefined }])
      this.#journal.drop(`lifetime/${key}`)
    }
    return { ...options, onClosed }
  }

  #know(key: string, lifetime: Lifetime, member: string | undefined, givenAtMs: number): void {
    const changes = (): Change[] => {
      const { session, pid, inode, request } = lifetime
      const value: LifetimeRecord = {
        ...{ session, pid, inode, given_at: wallClockOf(givenAtMs), given_at_ms: givenAtMs },
        ...(member ? { member } : {}),
        ...(request === undefined ? {} : { request }),
      }
      return [{ type: 'lifetime', key, value: value }]
    }
    const hold = { key, changes }
    this.#holds.set(lifetime, hold)
    this.#journal.touch(hold)
    this.#journal.keep(`lifetime/${key}`, lifetime.end)
  }
}

/** Of the monotonic clock. What an older build recorded goes by a clock that may have been set meanwhile. */
function givenAt({ given_at: at, given_at_ms: atMs }: LifetimeRecord): number {
  return atMs ?? monotonicMs() - (Date.now() - at)
}
