/**
 * Lifetimes: who holds a session is given one end of a socket pair, and luod watches the other. When the last copy of
 * the first is closed, by whoever has one, over dup, fork, passing on and SIGKILL, the lifetime has ended.
 *
 * luod asks for what has ended before it serves a request (`drain`, one system call however many there are), so that
 * no request sees what was closed before it. A descriptor is known by its inode, which is nobody else's for as long as
 * a copy is open.
 */
import type { Fd } from '../sys/fd.js'
import { inodeKey } from '../sys/file-info.js'
import { Poller, type Registration } from '../sys/poller.js'
import { socketPair } from '../sys/unix.js'

export class Lifetime {
  /** The session whose descriptor it is. */
  readonly session: string
  /** Who was given the descriptor, or showed it last. */
  pid: number
  readonly #end: Fd
  readonly #watch: Registration
  readonly #onClosed: () => void
  #ended = false

  constructor(end: Fd, poller: Poller, options: LifetimeOptions, onClosed: () => void) {
    this.session = options.session
    this.pid = options.pid
    this.#end = end
    this.#onClosed = onClosed
    // A hang-up is told unasked; nobody has reason to write, and what comes is not read.
    this.#watch = poller.add(end, { read: false, write: false }, ({ hangup }) => {
      if (!hangup) return
      this.#ended = true
      this.close()
      options.onEnded()
    })
  }

  /** Nobody has the descriptor any more. */
  get ended(): boolean {
    return this.#ended
  }

  /** It is of no interest any more, whether it has ended or not. */
  close(): void {
    if (this.#end.closed) return
    this.#watch.close()
    this.#end.close()
    this.#onClosed()
  }
}

export interface LifetimeOptions {
  session: string
  pid: number
  /** Once, and not after `close`. */
  onEnded(): void
}

export class Lifetimes {
  readonly #poller = Poller.inner()
  /** By the inode of the holder's end. */
  readonly #known = new Map<string, Lifetime>()

  /** Answers the holder's end too, owned by the caller. */
  create(options: LifetimeOptions): { lifetime: Lifetime; fd: Fd } {
    const [end, fd] = socketPair()
    try {
      const key = inodeKey(fd)
      const lifetime = new Lifetime(end, this.#poller, options, () => this.#known.delete(key))
      this.#known.set(key, lifetime)
      return { lifetime, fd }
    } catch (error) {
      end.close()
      fd.close()
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
