/**
 * A process that has joined a workload: the running version, or the successor in an update. luod knows of its end in
 * two ways, whichever comes first: its pidfd, and the lifetime of the session's descriptor that it was given.
 */
import { randomUUID } from 'node:crypto'
import type { MemberRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import type { Methods } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { killProcess, seemsEnding } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import type { HoldOptions, Holds } from './holds.js'
import type { Recorded } from './journal.js'
import type { Lifetime } from './lifetime.js'
import { RESTORE_WAIT_MS } from './limits.js'
import type { Turnstile } from './turnstile.js'
import type { Workload } from './workload.js'

export type MemberEvent = Methods['Subscribe']['output']

/** The answer that a descriptor goes out with. */
export type Given = Pick<HoldOptions, 'request' | 'mayBeLost'>

export interface MemberOptions {
  /** As clients know it; a new one if it is not said. */
  id?: string
  /** Of its record. */
  key: string
  workload: Workload
  /** The workload's own session. */
  session: string
  uid: number
  pid: number
  pidfd: Fd
  accepts: readonly string[]
  after: readonly string[]
  origin: 'new' | 'update' | 'crash'
  turnstile: Turnstile
  /** The process has ended, or its session is closed, whichever comes first. Once. */
  onGone(): void
  /** The process has ended. Once. */
  onDead(): void
  /** Nobody holds the session through this member any more. Once. */
  onReleased(): void
}

export class Member implements Recorded {
  readonly id: string
  readonly key: string
  readonly workload: Workload
  readonly uid: number
  readonly pid: number
  readonly accepts: readonly string[]
  /** What it says that its workload needs, by name. */
  readonly after: readonly string[]
  readonly origin: 'new' | 'update' | 'crash'
  /** Said that it is whole: the first start has happened, or the update was committed. */
  ready = false
  /** What its commit was answered. */
  committed: Methods['Commit']['output']['released'] | undefined
  /** Sends an event; undefined until it subscribes. */
  subscriber: ((event: MemberEvent) => boolean) | undefined
  /** Until when it may come back that has lost the connection for its events, of `performance.now()`. */
  #backBy = Number.NEGATIVE_INFINITY
  readonly #options: MemberOptions
  readonly #pidfd: Fd
  readonly #deathWatch: Registration
  readonly #holds: Holds
  #lifetime: Lifetime | undefined
  #gone = false
  #dead = false

  /**
   * Owns `pidfd`. Answers the member and its descriptor of the session, which goes with the answer that `given` is of.
   */
  static create(options: MemberOptions, holds: Holds, given: Given = {}): { member: Member; sessionFd: Fd } {
    const member = new Member(options, holds)
    try {
      return { member, sessionFd: member.#giveOut(given) }
    } catch (error) {
      member.#deathWatch.close()
      throw error
    }
  }

  /**
   * As it was recorded. Owns `pidfd`, also when it fails. `restoreLifetime` answers the one that it holds its session
   * through, if somebody may still have its descriptor.
   */
  static restore(
    options: MemberOptions,
    holds: Holds,
    { ready, released }: Pick<MemberRecord, 'ready' | 'released'>,
    restoreLifetime: (onEnded: () => void) => Lifetime | undefined,
  ): Member {
    let member: Member | undefined
    try {
      const restored = new Member(options, holds)
      member = restored
      restored.ready = ready
      restored.committed = released
      restored.#lifetime = restoreLifetime(() => restored.#onReleased())
      restored.expect(RESTORE_WAIT_MS)
      return restored
    } catch (error) {
      member?.close()
      options.pidfd.close()
      throw error
    }
  }

  private constructor(options: MemberOptions, holds: Holds) {
    this.#options = options
    this.#holds = holds
    this.id = options.id ?? randomUUID()
    this.key = options.key
    this.workload = options.workload
    this.uid = options.uid
    this.pid = options.pid
    this.accepts = options.accepts
    this.after = options.after
    this.origin = options.origin
    this.#pidfd = options.pidfd
    this.#deathWatch = Poller.shared().add(options.pidfd, { read: true, write: false }, () => {
      this.#deathWatch.close()
      options.turnstile.run(() => this.#onDeath())
    })
  }

  #onDeath(): void {
    if (this.#pidfd.closed) return
    // What it has closed by ending is seen before it counts as dead.
    this.#holds.lifetimes.drain()
    this.#dead = true
    this.#leave()
    this.#options.onDead()
  }

  #giveOut(given: Given): Fd {
    const { session, pid } = this.#options
    const options = { ...given, session, pid, member: this.key, onEnded: () => this.#onReleased() }
    const { lifetime, fd } = this.#holds.create(options)
    this.#lifetime?.close()
    this.#lifetime = lifetime
    return fd
  }

  /** Another descriptor of the session, in place of the one before, which nobody may have got. Owned by the caller. */
  giveAgain(given: Given): Fd {
    return this.#giveOut(given)
  }

  changes(): Change[] {
    const { id, key, uid, pid, accepts, after, origin, ready, committed } = this
    const lifetime = this.#lifetime && this.#holds.keyOf(this.#lifetime)
    const value: MemberRecord = {
      ...{ id, workload: this.workload.id, uid, pid, accepts: [...accepts], after: [...after], origin, ready },
      ...(lifetime === undefined ? {} : { lifetime }),
      ...(committed === undefined ? {} : { released: committed }),
    }
    return [{ type: 'member', key, value: value }]
  }

  /** For the vault; it stays the member's. */
  get handle(): Fd {
    return this.#pidfd
  }

  /** Can still be spoken to. */
  get alive(): boolean {
    return !this.#gone
  }

  /** Subscribes to events, or has just lost the connection for them, and comes back. */
  get listens(): boolean {
    return this.subscriber !== undefined || this.backWithinMs > 0
  }

  /** It has lost the connection for its events, or luod was replaced: it has this long to come back. */
  expect(waitMs: number): void {
    this.#backBy = performance.now() + waitMs
  }

  /** How long it still has to come back. */
  get backWithinMs(): number {
    return Math.max(0, this.#backBy - performance.now())
  }

  get dead(): boolean {
    return this.#dead
  }

  /** It closes its files because it ends. False again when it is dead: if anything is still open, others have it. */
  get ending(): boolean {
    return !this.#dead && !this.#pidfd.closed && seemsEnding(this.#pidfd)
  }

  /** Sends an event; false when nobody is there to hear it. */
  tell(event: MemberEvent): boolean {
    return this.alive && this.subscriber?.(event) === true
  }

  /** SIGKILL; false when it has ended already. */
  kill(): boolean {
    return !this.#dead && !this.#pidfd.closed && killProcess(this.#pidfd)
  }

  /** A copy of its pidfd, owned by the caller. */
  pidfd(): Fd {
    return this.#pidfd.dup()
  }

  /** Nobody holds the session through it any more. */
  get released(): boolean {
    return this.#lifetime === undefined || this.#lifetime.ended
  }

  /** Forgets the process: nothing that it does is of interest any more. */
  close(): void {
    this.#gone = true
    this.#deathWatch.close()
    this.#lifetime?.close()
    this.#pidfd.close()
  }

  #onReleased(): void {
    this.#leave()
    this.#options.onReleased()
  }

  #leave(): void {
    if (this.#gone) return
    this.#gone = true
    this.#options.onGone()
  }
}
