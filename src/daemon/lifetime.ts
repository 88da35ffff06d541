/**
 * Lifetimes: who holds a session is given one end of a socket pair, and luod watches the other. When the last copy of
 * the first is closed, by whoever has one, over dup, fork, passing on and SIGKILL, the lifetime has ended.
 *
 * luod asks for what has ended before it serves a request (`drain`, one system call however many there are), so that
 * no request sees what was closed before it. A descriptor is known by its inode, which is nobody else's for as long as
 * a copy is open.
 *
 * A descriptor whose answer never arrived is closed too, by the kernel, with the connection. Then the client asks
 * again, and gets another one. Its process has a moment to do so, if it lives, before the lifetime counts as ended.
 */
import { isLuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { inodeKey } from '../sys/file-info.js'
import { isEnding, openPidfd } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { socketPair } from '../sys/unix.js'
import { RECONNECT_MS } from './limits.js'
import { Turnstile } from './turnstile.js'

export class Lifetime {
  /** The session whose descriptor it is. */
  readonly session: string
  /** Of the holder's end. */
  readonly inode: string
  /** Who was given the descriptor, or showed it last. */
  pid: number
  /** Id of the request that it answered. */
  readonly request: string | undefined
  readonly #givenAt = performance.now()
  /** luod's own. */
  readonly end: Fd
  readonly #watch: Registration
  readonly #options: LifetimeOptions
  readonly #surroundings: Surroundings
  #timer: NodeJS.Timeout | undefined
  #ended = false

  constructor(end: Fd, inode: string, surroundings: Surroundings, options: LifetimeOptions) {
    this.session = options.session
    this.pid = options.pid
    this.request = options.request
    this.end = end
    this.inode = inode
    this.#options = options
    this.#surroundings = surroundings
    // A hang-up is told unasked; nobody has reason to write, and what comes is not read.
    this.#watch = surroundings.poller.add(end, { read: false, write: false }, ({ hangup }) => {
      if (!hangup) return
      // It would be told again and again.
      this.#watch.close()
      surroundings.turnstile.run(() => this.#hungUp())
    })
  }

  #hungUp(): void {
    if (this.end.closed) return
    const { mayBeLost, waitMs = RECONNECT_MS } = this.#options
    const recent = performance.now() - this.#givenAt < RECONNECT_MS
    if (!recent || !mayBeLost?.() || !lives(this.pid)) return this.#finish()
    const { doubtful, turnstile } = this.#surroundings
    doubtful.add(this)
    this.#timer = setTimeout(() => turnstile.run(() => this.#finish()), waitMs)
  }

  /** It may have been lost on the way, and nobody is there any more to ask for it again. */
  review(): void {
    if (!lives(this.pid)) this.#finish()
  }

  #finish(): void {
    if (this.end.closed) return
    this.#ended = true
    this.close()
    this.#options.onEnded()
  }

  /** Nobody has the descriptor any more. */
  get ended(): boolean {
    return this.#ended
  }

  /** It is of no interest any more, whether it has ended or not. */
  close(): void {
    if (this.end.closed) return
    clearTimeout(this.#timer)
    this.#watch.close()
    this.end.close()
    this.#surroundings.doubtful.delete(this)
    this.#surroundings.known.delete(this.inode)
    this.#options.onClosed?.()
  }
}

interface Surroundings {
  poller: Poller
  known: Map<string, Lifetime>
  doubtful: Set<Lifetime>
  turnstile: Turnstile
}

export interface LifetimeOptions {
  session: string
  pid: number
  request?: string | undefined
  /** Whether the answer with the descriptor may never have arrived: asked when the last copy is closed. */
  mayBeLost?: (() => boolean) | undefined
  /** How long it may be asked for again then. */
  waitMs?: number
  /** Once, and not after `close`. */
  onEnded(): void
  /** Once: it has ended, or is of no interest any more. Before `onEnded`. */
  onClosed?(): void
}

export class Lifetimes {
  readonly #poller = Poller.inner()
  /** By the inode of the holder's end. */
  readonly #known = new Map<string, Lifetime>()
  readonly #doubtful = new Set<Lifetime>()
  readonly #turnstile: Turnstile

  constructor(turnstile = new Turnstile()) {
    this.#turnstile = turnstile
  }

  /** Answers the holder's end too, owned by the caller. */
  create(options: LifetimeOptions): { lifetime: Lifetime; fd: Fd } {
    const [end, fd] = socketPair()
    try {
      return { lifetime: this.adopt(end, inodeKey(fd), options), fd }
    } catch (error) {
      end.close()
      fd.close()
      throw error
    }
  }

  /** One that was created before: `end` is luod's, and `inode` that of the holder's. Owns `end`, also when it fails. */
  adopt(end: Fd, inode: string, options: LifetimeOptions): Lifetime {
    const surroundings = {
      poller: this.#poller,
      known: this.#known,
      doubtful: this.#doubtful,
      turnstile: this.#turnstile,
    }
    try {
      const lifetime = new Lifetime(end, inode, surroundings, options)
      this.#known.set(inode, lifetime)
      return lifetime
    } catch (error) {
      end.close()
      throw error
    }
  }

  /** The lifetime that `file` is a holder's end of. In constant time. */
  find(file: Fd): Lifetime | undefined {
    return this.#known.get(inodeKey(file))
  }

  /** Sees now what has ended. */
  drain(): void {
    this.#poller.drain()
    for (const lifetime of [...this.#doubtful]) lifetime.review()
  }

  /** What ends from here on is of no interest; new ones can be made. */
  forget(): void {
    for (const lifetime of [...this.#known.values()]) lifetime.close()
  }

  close(): void {
    this.forget()
    this.#poller.close()
  }
}

/** Whether a process is there that can ask again. */
function lives(pid: number): boolean {
  try {
    using pidfd = openPidfd(pid)
    return !isEnding(pidfd)
  } catch (error) {
    // Of another pid namespace it has no number here, and luod may be short of descriptors: then it may be there.
    return !isLuoError(error, 'ESRCH')
  }
}
