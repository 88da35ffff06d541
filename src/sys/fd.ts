/**
 * A file descriptor that is owned: closed once, on every path. Numbers of files live only inside `sys/`; everywhere
 * else a file is an `Fd`. `using fd = …` closes it at the end of the block; `release` gives the number away.
 *
 * Using a closed Fd throws EBADF, so that a number that the kernel has given to somebody else meanwhile is never used.
 */
import { readdirSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { checked, integer, libc } from './ffi.js'

const F_DUPFD_CLOEXEC = 1030
const F_SETFD = 2
const F_GETFD = 1
const FD_CLOEXEC = 1
const MAX_FD = 2 ** 31 - 1

export class Fd implements Disposable {
  #number: number

  private constructor(number: number) {
    this.#number = number
  }

  /** Takes over an open descriptor. Nobody else may close it from here on. */
  static adopt(number: number): Fd {
    return new Fd(integer(number, 0, MAX_FD, 'a file descriptor'))
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
    this.#number = -1
    // On Linux the descriptor is gone whatever close answers; EINTR and EIO are about the data, not about it.
    libc('close', number)
  }

  /** Another descriptor of the same open file, close-on-exec. */
  dup(): Fd {
    return Fd.adopt(checked(`duplicate fd ${this.number}`, 'fcntl', this.number, F_DUPFD_CLOEXEC, 0))
  }

  /** The same descriptor with a new owner; this object is closed then. */
  move(): Fd {
    return new Fd(this.release())
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
  // The listing itself holds one.
  return readdirSync('/proc/self/fd').length - 1
}

export function closeAll(fds: Iterable<Fd>): void {
  for (const fd of fds) fd.close()
}
