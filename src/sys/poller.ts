/**
 * Readiness of files, in Node's loop: one epoll that holds every socket, listener and pidfd, and one poll handle of
 * the loop on that epoll. Whoever uses it sees `add`, and neither of the two.
 *
 * Level-triggered: a callback that leaves something unread is called again. A callback must not throw; what it throws
 * is an uncaught exception, as with any event handler. Take a registration away before its file is closed.
 */
import { Fd } from './fd.js'
import { checked, errno, failure, koffi, libc } from './ffi.js'

const EPOLL_CLOEXEC = 0o2000000
const EPOLL_CTL_ADD = 1
const EPOLL_CTL_DEL = 2
const EPOLL_CTL_MOD = 3
const EPOLLIN = 1
const EPOLLOUT = 4
const EPOLLERR = 8
const EPOLLHUP = 0x10
const EPOLLRDHUP = 0x2000
/** struct epoll_event is packed on x86-64 only. */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16
const DATA_AT = process.arch === 'x64' ? 4 : 8
/** Events taken in one wake; the rest come in the next turn of the loop. */
const MAX_EVENTS = 64

export interface Interest {
  read: boolean
  write: boolean
}

export interface Readiness {
  readable: boolean
  writable: boolean
  /** The other side is gone, or the file has an error. There may still be something to read. */
  hangup: boolean
}

export interface Registration {
  update(interest: Interest): void
  close(): void
}

interface Entry {
  fd: Fd
  callback: (ready: Readiness) => void
}

interface PollHandle {
  close(): void
  ref(): void
  unref(): void
}

export class Poller {
  static #shared: Poller | undefined
  readonly #epoll: Fd
  readonly #events = new Uint8Array(EVENT_BYTES * MAX_EVENTS)
  readonly #view = new DataView(this.#events.buffer)
  readonly #event = new Uint8Array(EVENT_BYTES)
  readonly #entries = new Map<number, Entry>()
  // Strongly held: the handle is closed when it is collected.
  readonly #handle: PollHandle
  #nextId = 1
  #references = 0

  /** The one of this process. It keeps the process alive while somebody wants that (`ref`). */
  static shared(): Poller {
    Poller.#shared ??= new Poller()
    return Poller.#shared
  }

  /** One inside the shared one, for files whose readiness somebody wants to know before the loop's turn (`drain`). */
  static inner(): Poller {
    return new Poller(Poller.shared())
  }

  private constructor(outer?: Poller) {
    this.#epoll = Fd.adopt(checked('open an epoll', 'epoll_create1', EPOLL_CLOEXEC))
    const wake = () => void this.#wake()
    try {
      if (outer) {
        const registration = outer.add(this.#epoll, { read: true, write: false }, wake)
        this.#handle = { close: () => registration.close(), ref: () => outer.ref(), unref: () => outer.unref() }
      } else {
        this.#handle = koffi().node.poll(this.#epoll.number, { readable: true }, wake) as PollHandle
        this.#handle.unref()
      }
    } catch (error) {
      this.#epoll.close()
      throw error
    }
  }

  add(fd: Fd, interest: Interest, callback: (ready: Readiness) => void): Registration {
    const id = this.#nextId++
    this.#control(EPOLL_CTL_ADD, fd, interest, id)
    this.#entries.set(id, { fd, callback })
    let open = true
    return {
      update: (changed) => {
        if (open) this.#control(EPOLL_CTL_MOD, fd, changed, id)
      },
      close: () => {
        if (!open) return
        open = false
        this.#entries.delete(id)
        if (!fd.closed) this.#control(EPOLL_CTL_DEL, fd, { read: false, write: false }, id)
      },
    }
  }

  /** The process stays alive until `unref` was called as often. */
  ref(): void {
    if (this.#references++ === 0) this.#handle.ref()
  }

  unref(): void {
    if (--this.#references === 0) this.#handle.unref()
  }

  /**
   * Waits, and lets nothing else run meanwhile, until `fd` is readable: true. False as soon as something that is
   * watched here is ready, a signal comes, or the time is over. `fd` may be registered here with no interest, but not
   * otherwise.
   */
  waitFirst(fd: Fd, limitMs: number): boolean {
    pollView.setInt32(0, fd.number, true)
    pollView.setInt32(4, POLLIN, true)
    pollView.setInt32(8, this.#epoll.number, true)
    pollView.setInt32(12, POLLIN, true)
    const count = libc('poll', pollFd, 2, limitMs)
    return count === 1 && (pollView.getInt16(6, true) & POLLIN) !== 0
  }

  /** Calls back for everything that is ready now, without waiting for the loop's turn. */
  drain(): void {
    // Each file once: what a callback leaves unread would keep this busy for ever.
    for (let left = this.#entries.size; left > 0; left -= MAX_EVENTS) if (this.#wake() < MAX_EVENTS) return
  }

  /** For an inner one that nobody uses any more. */
  close(): void {
    this.#handle.close()
    this.#epoll.close()
  }

  #control(operation: number, fd: Fd, { read, write }: Interest, id: number): void {
    const view = new DataView(this.#event.buffer)
    view.setUint32(0, (read ? EPOLLIN | EPOLLRDHUP : 0) | (write ? EPOLLOUT : 0), true)
    view.setUint32(DATA_AT, id >>> 0, true)
    view.setUint32(DATA_AT + 4, Math.floor(id / 2 ** 32), true)
    checked(`watch fd ${fd.number}`, 'epoll_ctl', this.#epoll.number, operation, fd.number, this.#event)
  }

  /** Answers how many were ready. */
  #wake(): number {
    const count = libc('epoll_wait', this.#epoll.number, this.#events, MAX_EVENTS, 0)
    if (count === -1) {
      const code = errno()
      if (code === 'EINTR') return 0
      throw failure('wait for events', code)
    }
    // Read out first: a callback may wait for events itself, through code that we do not know.
    const ready: [number, number][] = []
    for (let index = 0; index < count; index++) {
      const at = index * EVENT_BYTES
      const id = this.#view.getUint32(at + DATA_AT, true) + this.#view.getUint32(at + DATA_AT + 4, true) * 2 ** 32
      ready.push([id, this.#view.getUint32(at, true)])
    }
    for (const [id, bits] of ready) {
      // A callback before may have taken this one away.
      this.#entries.get(id)?.callback({
        readable: (bits & EPOLLIN) !== 0,
        writable: (bits & EPOLLOUT) !== 0,
        hangup: (bits & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) !== 0,
      })
    }
    // Without this Node 26 runs the microtasks of the callbacks late.
    if (count > 0) setImmediate(() => {})
    return count
  }
}

const POLLIN = 1
const POLLOUT = 4
/** struct pollfd, twice. */
const pollFd = new Uint8Array(16)
const pollView = new DataView(pollFd.buffer)

/**
 * Waits, and lets nothing else run meanwhile, until the file is readable or has hung up; false when that takes longer.
 */
export function waitReadable(fd: Fd, limitMs: number): boolean {
  return waitFor(fd, POLLIN, limitMs)
}

/** The same until the file is writable. */
export function waitWritable(fd: Fd, limitMs: number): boolean {
  return waitFor(fd, POLLOUT, limitMs)
}

function waitFor(fd: Fd, events: number, limitMs: number): boolean {
  const end = performance.now() + limitMs
  for (;;) {
    pollView.setInt32(0, fd.number, true)
    pollView.setInt16(4, events, true)
    pollView.setInt16(6, 0, true)
    const count = libc('poll', pollFd, 1, Math.max(0, Math.ceil(end - performance.now())))
    if (count >= 0) return count === 1
    const code = errno()
    if (code !== 'EINTR') throw failure(`wait for fd ${fd.number}`, code)
  }
}
