/**
 * The kernel's own device as a backend: the contract of `contract.ts`, answered by /dev/liveupdate.
 *
 * The device has one opener at a time: EBUSY names the process that has it, as far as this one may look. Sessions are
 * descriptors: they live on when the device is closed, can be passed on, and are released with their last copy.
 * Sessions that other processes made are left alone; `foreignSessions` lists the open ones.
 */
import type { SessionDirection } from '../abi/uapi.js'
import type { Fd } from '../sys/fd.js'
import {
  createSession,
  finishSession,
  type Holder,
  LIVEUPDATE_DEVICE,
  openLiveupdate,
  preserveFd,
  retrieveFd,
  retrieveSession,
  sessionDirection,
  sessionName,
} from '../sys/liveupdate.js'
import { whoHasOpen } from '../sys/open-files.js'
import type { LiveDevice, LiveSession } from './contract.js'

/** What /proc shows of a session's descriptor, before the session's name. */
const SESSION_LINK = 'anon_inode:[luo_session] '

export class KernelDevice implements LiveDevice {
  readonly #fd: Fd

  private constructor(fd: Fd) {
    this.#fd = fd
  }

  /**
   * ENOENT without live update, EACCES without the right, EBUSY while somebody else has it, EIO: see `openLiveupdate`.
   */
  static open(path: string = LIVEUPDATE_DEVICE): KernelDevice {
    return new KernelDevice(openLiveupdate(path))
  }

  /** Opened before, by this process or another one. It is this device's now. */
  static adopt(fd: Fd): KernelDevice {
    return new KernelDevice(fd)
  }

  /** For whoever keeps a copy; it stays the device's. */
  get descriptor(): Fd {
    return this.#fd
  }

  createSession(name: string): KernelSession {
    return new KernelSession(createSession(this.#fd, name), name, 'outgoing')
  }

  retrieveSession(name: string): KernelSession {
    return new KernelSession(retrieveSession(this.#fd, name), name, 'incoming')
  }

  close(): void {
    this.#fd.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

export class KernelSession implements LiveSession {
  readonly #fd: Fd
  readonly name: string
  readonly direction: SessionDirection

  constructor(fd: Fd, name: string, direction: SessionDirection) {
    this.#fd = fd
    this.name = name
    this.direction = direction
  }

  /** Of a descriptor that came from elsewhere; it is this session's now, unless it is none: then it throws. */
  static adopt(fd: Fd): KernelSession {
    return new KernelSession(fd, sessionName(fd), sessionDirection(fd))
  }

  /** A copy of the descriptor, owned by the caller: the session lives for as long as there is one. */
  descriptor(): Fd {
    return this.#fd.dup()
  }

  preserve(token: string, fd: Fd | undefined): void {
    preserveFd(this.#fd, token, fd)
  }

  retrieve(token: string): Fd {
    return retrieveFd(this.#fd, token)
  }

  finish(): void {
    finishSession(this.#fd)
  }

  close(): void {
    this.#fd.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

export interface ForeignSession extends Holder {
  name: string
  /** Undefined when the kernel does not let this process ask. */
  direction: SessionDirection | undefined
}

/**
 * Open sessions of other processes. What several processes share is listed for each; `complete`: all were looked at.
 */
export function foreignSessions(): { sessions: ForeignSession[]; complete: boolean } {
  const { found, complete } = whoHasOpen((link) => link.startsWith(SESSION_LINK))
  const sessions = new Map<string, ForeignSession>()
  for (const { pid, comm, link, take } of found) {
    if (pid === process.pid) continue
    using fd = take()
    const name = fd ? sessionName(fd) : link.slice(SESSION_LINK.length)
    const session = { pid, comm, name, direction: fd && sessionDirection(fd) }
    sessions.set(JSON.stringify([pid, name, session.direction]), session)
  }
  return { sessions: [...sessions.values()], complete }
}
