/**
 * Copies of the connections of luod's clients, at the process that stands by. A killed process gives its memory back
 * before it closes its files, and until then its clients wait for answers that nobody gives. So whoever takes its place
 * ends their connections, and they connect again.
 *
 * Nothing is ever read from a copy, or written to it. It goes when its connection has ended, which the kernel tells:
 * luod ends a connection for both sides before it closes it. One more or less does no harm: so what there is no room
 * for is not kept.
 */
import type { Fd } from '../sys/fd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { endConnection } from '../sys/unix.js'

export class ConnectionCopies {
  readonly #copies = new Map<Fd, Registration>()

  get size(): number {
    return this.#copies.size
  }

  /** Owned here. `cutOff`: some were lost, because this process may open no more: then all go, for what counts. */
  add(fds: readonly Fd[], cutOff: boolean): void {
    for (const fd of fds) this.#add(fd)
    if (cutOff) this.close()
  }

  /** luod is dead: its clients shall know. The copies go then as always. */
  end(): void {
    for (const fd of this.#copies.keys()) endConnection(fd)
  }

  close(): void {
    for (const fd of [...this.#copies.keys()]) this.#drop(fd)
  }

  #add(fd: Fd): void {
    try {
      const watch = Poller.shared().add(fd, HANGUP_ONLY, () => this.#drop(fd))
      this.#copies.set(fd, watch)
    } catch {
      // What cannot be watched would stay for ever.
      fd.close()
    }
  }

  #drop(fd: Fd): void {
    this.#copies.get(fd)?.close()
    this.#copies.delete(fd)
    fd.close()
  }
}

/** The end of a connection is told whether one asks for it or not. */
const HANGUP_ONLY = { read: false, write: false }
