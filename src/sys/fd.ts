/**
 * A file descriptor that is owned: closed once, on every path. Numbers of files live only inside `sys/`; everywhere
 * else a file is an `Fd`. `using fd = …` closes it at the end of the block; `release` gives the number away.
 *
 * Using a closed Fd throws EBADF, so that a number that the kernel has given to somebody else meanwhile is never used.
 *
 * Closing what somebody else has opened may wait: for a file system that does not answer, or for a connection that
 * lingers. Such a file is `foreign`, and is closed in a way that this process does not wait.
 */
import { close as closeInPool, readdirSync, statSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { checked, integer, libc } from './ffi.js'

const F_DUPFD_CLOEXEC = 1030
const F_SETFD = 2
const F_GETFD = 1
const FD_CLOEXEC = 1
const MAX_FD = 2 ** 31 - 1

/** Makes a file ready to be closed. True when closing it may still wait. */
export type BeforeClose = (fd: Fd) => boolean

export class Fd implements Disposable {
  #number: number
  readonly #beforeClose: BeforeClose | undefined

  private constructor(number: number, beforeClose?: BeforeClose) {
    this.#number = number
    this.#beforeClose = beforeClose
  }

  /** Takes over an open descriptor. Nobody else may close it from here on. */
  static adopt(number: number): Fd {
    return new Fd(integer(number, 0, MAX_FD, 'a file descriptor'))
  }

  /** Takes over a descriptor that another process has sent. `beforeClose` must not wait, and must not throw. */
  static foreign(number: number, beforeClose: BeforeClose): Fd {
    return new Fd(integer(number, 0, MAX_FD, 'a file descriptor'), beforeClose)
  }

  get number(): number {
    if (this.#number < 0) throw new LuoError('EBADF', 'use a file that was closed, or given away, before')
    return this.#number
  }

  get closed(): boolean {
    return this.#number < 0
  }

  /** Closes it; closing again does nothing. */
  close(): void {
    if (this.#number < 0) return
    const number = this.#number
    const waits = this.#beforeClose?.(this) === true
    this.#number = -1
    // In another thread, and nobody waits for it.
    if (waits) return closeInPool(number, () => {})
    // On Linux the descriptor is gone whatever close answers; EINTR and EIO are about the data, not about it.
    libc('close', number)
  }

  /** Another descriptor of the same open file, close-on-exec. */
  dup(): Fd {
    return new Fd(checked(`duplicate fd ${this.number}`, 'fcntl', this.number, F_DUPFD_CLOEXEC, 0), this.#beforeClose)
  }

  /** The same descriptor with a new owner; this object is closed then. */
  move(): Fd {
    return new Fd(this.release(), this.#beforeClose)
  }

  /** Gives the number away; this object is closed then, the file is not. */
  release(): number {
    const number = this.number
    this.#number = -1
    return number
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** A descriptor that this process was started with, such as a ticket. It gets close-on-exec. */
export function inheritedFd(number: number): Fd {
  integer(number, 3, MAX_FD, 'an inherited file descriptor')
  const flags = checked(`look at the inherited fd ${number}`, 'fcntl', number, F_GETFD, 0)
  checked(`keep fd ${number} from children`, 'fcntl', number, F_SETFD, flags | FD_CLOEXEC)
  return Fd.adopt(number)
}

/** How many descriptors this process has open. */
export function countOpenFds(): number {
  // Since Linux 6.2 it is said at once. Before, they are listed, and the listing itself holds one.
  const { size } = statSync('/proc/self/fd')
  return size > 0 ? size : readdirSync('/proc/self/fd').length - 1
}

export function closeAll(fds: Iterable<Fd>): void {
  for (const fd of fds) fd.close()
}
