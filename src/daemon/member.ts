/**
 * A process that has joined a workload: the running version, or the successor in an update. luod knows of its end in
 * two ways, whichever comes first: its pidfd, and the lifetime of the session's descriptor that it was given.
 */
import { randomUUID } from 'node:crypto'
import type { Methods } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { isEnding, signalPidfd } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import type { Lifetime, LifetimeOptions, Lifetimes } from './lifetime.js'
import { RECONNECT_MS } from './limits.js'
import type { Workload } from './state.js'

export type MemberEvent = Methods['Subscribe']['output']

/** The answer that a descriptor goes out with. */
export type Given = Pick<LifetimeOptions, 'request' | 'mayBeLost'>

export interface MemberOptions {
  workload: Workload
  /** The workload's own session. */
  session: string
  uid: number
  pid: number
  pidfd: Fd
  accepts: readonly string[]
  after: readonly string[]
  origin: 'new' | 'update' | 'crash'
  /** The process has ended, or its session is closed, whichever comes first. Once. */
  onGone(): void
  /** The process has ended. Once. */
  onDead(): void
  /** Nobody holds the session through this member any more. Once. */
  onReleased(): void
}

export class Member {
  readonly id = randomUUID()
  readonly workload: Workload
  readonly uid: number
  readonly pid: number
  readonly accepts: readonly string[]
  /** What it says that its workload needs, by name. */
  readonly after: readonly string[]
  readonly origin: 'new' | 'update' | 'crash'
  /** Said that it is whole: the first start has happened, or the update was committed. */
  ready = false
  /** Sends an event; undefined until it subscribes. */
  subscriber: ((event: MemberEvent) => boolean) | undefined
  /** When it lost the connection for its events. */
  lostAt: number | undefined
  readonly #options: MemberOptions
  readonly #pidfd: Fd
  readonly #deathWatch: Registration
  #lifetime: Lifetime
  #gone = false
  #dead = false

  /** Owns `pidfd`. Answers the member and its descriptor of the session, which goes with the answer that `given` is of. */
  static create(options: MemberOptions, lifetimes: Lifetimes, given: Given): { member: Member; sessionFd: Fd } {
    const { session, pid } = options
    const { lifetime, fd } = lifetimes.create({ ...given, session, pid, onEnded: () => member.#onReleased() })
    let member: Member
    try {
      member = new Member(options, lifetime, lifetimes)
    } catch (error) {
      lifetime.close()
      fd.close()
      throw error
    }
    return { member, sessionFd: fd }
  }

  private constructor(options: MemberOptions, lifetime: Lifetime, lifetimes: Lifetimes) {
    this.#options = options
    this.workload = options.workload
    this.uid = options.uid
    this.pid = options.pid
    this.accepts = options.accepts
    this.after = options.after
    this.origin = options.origin
    this.#pidfd = options.pidfd
    this.#lifetime = lifetime
    this.#deathWatch = Poller.shared().add(options.pidfd, { read: true, write: false }, () => {
      this.#deathWatch.close()
      // What it has closed by ending is seen before it counts as dead.
      lifetimes.drain()
      this.#dead = true
      this.#leave()
      this.#options.onDead()
    })
  }

  /** Another descriptor of the session, in place of the one before, which nobody may have got. Owned by the caller. */
  giveAgain(lifetimes: Lifetimes, given: Given): Fd {
    const { session, pid } = this.#options
    const { lifetime, fd } = lifetimes.create({ ...given, session, pid, onEnded: () => this.#onReleased() })
    this.#lifetime.close()
    this.#lifetime = lifetime
    return fd
  }

  /** Can still be spoken to. */
  get alive(): boolean {
    return !this.#gone
  }

  /** Subscribes to events, or has just lost the connection for them, and comes back. */
  get listens(): boolean {
    return this.subscriber !== undefined || performance.now() - (this.lostAt ?? Number.NEGATIVE_INFINITY) < RECONNECT_MS
  }

  get dead(): boolean {
    return this.#dead
  }

  /** It closes its files because it ends. False again when it is dead: if anything is still open, others have it. */
  get ending(): boolean {
    return !this.#dead && !this.#pidfd.closed && isEnding(this.#pidfd)
  }

  /** Sends an event; false when nobody is there to hear it. */
  tell(event: MemberEvent): boolean {
    return this.alive && this.subscriber?.(event) === true
  }

  /** SIGKILL; false when it has ended already. */
  kill(): boolean {
    return !this.#dead && !this.#pidfd.closed && signalPidfd(this.#pidfd, 'SIGKILL')
  }

  /** A copy of its pidfd, owned by the caller. */
  pidfd(): Fd {
    return this.#pidfd.dup()
  }

  /** Nobody holds the session through it any more. */
  get released(): boolean {
    return this.#lifetime.ended
  }

  /** Forgets the process: nothing that it does is of interest any more. */
  close(): void {
    this.#gone = true
    this.#deathWatch.close()
    this.#lifetime.close()
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
