/**
 * A process that has joined a workload: the running version, or the successor in an update. luod knows of its end in
 * two ways, whichever comes first: its pidfd, and its end of the session, a socket pair whose other end luod watches
 * (the last copy closed, by whoever has one).
 */
import { randomUUID } from 'node:crypto'
import type { Methods } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { signalPidfd } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { receive, socketPair } from '../sys/unix.js'

/** Nobody has reason to write into a session's descriptor; what comes is thrown away, in bounded steps. */
const MAX_DISCARDS = 16

export type MemberEvent = Methods['Subscribe']['output']

export interface MemberOptions {
  pid: number
  pidfd: Fd
  accepts: readonly string[]
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
  readonly pid: number
  readonly accepts: readonly string[]
  readonly origin: 'new' | 'update' | 'crash'
  /** Said that it is whole: the first start has happened, or the update was committed. */
  ready = false
  /** Sends an event; undefined until it subscribes. */
  subscriber: ((event: MemberEvent) => boolean) | undefined
  readonly #options: MemberOptions
  readonly #pidfd: Fd
  readonly #end: Fd
  readonly #watches: Registration[] = []
  #gone = false
  #dead = false
  #released = false

  /** Owns `pidfd`. Answers the member and the client's end of its session. */
  static create(options: MemberOptions): { member: Member; sessionFd: Fd } {
    const [end, sessionFd] = socketPair()
    return { member: new Member(options, end), sessionFd }
  }

  private constructor(options: MemberOptions, end: Fd) {
    this.#options = options
    this.pid = options.pid
    this.accepts = options.accepts
    this.origin = options.origin
    this.#pidfd = options.pidfd
    this.#end = end
    const poller = Poller.shared()
    const nothing = { read: false, write: false }
    const endWatch = poller.add(end, nothing, ({ hangup }) => {
      if (hangup) this.#onEnd()
    })
    const deathWatch = poller.add(options.pidfd, { read: true, write: false }, () => {
      deathWatch.close()
      this.#dead = true
      this.#leave()
      this.#options.onDead()
    })
    this.#watches.push(endWatch, deathWatch)
  }

  /** Can still be spoken to. */
  get alive(): boolean {
    return !this.#gone
  }

  get dead(): boolean {
    return this.#dead
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

  /** Sees now what the poller would report a moment later: a close before this request must count before it. */
  drainHangup(): void {
    if (this.#released || this.#end.closed) return
    for (let count = 0; count < MAX_DISCARDS; count++) {
      const got = receive(this.#end)
      if (!got) return
      for (const fd of got.fds) fd.close()
      if (got.bytes.length === 0) return this.#onEnd()
    }
  }

  /** Forgets the process: nothing that it does is of interest any more. */
  close(): void {
    this.#gone = true
    this.#released = true
    for (const watch of this.#watches.splice(0)) watch.close()
    this.#end.close()
    this.#pidfd.close()
  }

  #onEnd(): void {
    if (this.#released) return
    this.#released = true
    this.#watches[0]?.close()
    this.#leave()
    this.#options.onReleased()
  }

  #leave(): void {
    if (this.#gone) return
    this.#gone = true
    this.#options.onGone()
  }
}
