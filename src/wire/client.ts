/**
 * The calling side of the wire: one connection, requests answered in order, streams of replies. What luod answers as an
 * error is thrown as the LuoError that it was there; a connection that ends fails everything under way with LUO_GONE,
 * and one whose answers are not as the interface says is ended with LUO_PROTOCOL.
 */
import { isLuoError, isShortage, LuoError } from '../errors.js'
import { checkAnswer } from '../protocol/answers.js'
import { INTERFACE_NAME } from '../protocol/interface.js'
import { decodeError, type Reply as ParsedReply, parseReply } from '../protocol/messages.js'
import type { Methods } from '../protocol/types.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { connectUnix, peerCredentials } from '../sys/unix.js'
import { Connection } from './connection.js'

/** The listener's queue is full for a moment when many connect at once. */
export const QUEUE_MS = 1_000
const CONNECT_RETRY_MS = 20
/** Replies of a stream that nobody takes; more end the connection. */
const MAX_UNREAD_REPLIES = 10_000
const MAX_UNREAD_BYTES = 64 * 1024 * 1024

export interface Reply<M extends keyof Methods> {
  parameters: Methods[M]['output']
  /** Owned by the caller. */
  fds: Fd[]
}

interface Pending {
  method: string
  reply(parameters: Record<string, unknown>, fds: Fd[], continues: boolean, bytes: number): void
  fail(error: LuoError): void
}

export class VarlinkClient {
  readonly #connection: Connection
  readonly #pending: Pending[] = []
  /** The process that listens. */
  readonly pid: number
  #error: LuoError | undefined
  #onClosed: (error: LuoError) => void = () => {}
  /** Resolves, with why, when the connection has ended. */
  readonly closed = new Promise<LuoError>((resolve) => {
    this.#onClosed = resolve
  })

  /**
   * ENOENT and ECONNREFUSED when nobody listens at `path`, EPERM when another user does, EAGAIN when whoever listens
   * takes nobody for `queueMs`.
   */
  static async connect(path: string, queueMs = QUEUE_MS): Promise<VarlinkClient> {
    const end = performance.now() + queueMs
    for (;;) {
      try {
        const fd = connectUnix(path)
        return new VarlinkClient(fd, trusted(fd, path))
      } catch (error) {
        if (!isLuoError(error, 'EAGAIN')) throw error
        if (performance.now() >= end) throw queueFull(path, queueMs, error)
      }
      await new Promise((resolve) => setTimeout(resolve, CONNECT_RETRY_MS))
    }
  }

  private constructor(fd: Fd, pid: number) {
    this.pid = pid
    this.#connection = new Connection(fd, {
      onMessage: (message, fds, bytes) => this.#received(message, fds, bytes),
      onClose: (error) => this.#ended(error),
    })
  }

  /** One request, one answer. `fds` stay the caller's. */
  call<M extends keyof Methods>(method: M, input: Methods[M]['input'], fds: readonly Fd[] = []): Promise<Reply<M>> {
    return new Promise((resolve, reject) => {
      this.#request(method, input, fds, false, {
        method,
        reply: (parameters, received, continues) => {
          if (!continues) return resolve({ parameters: parameters as Reply<M>['parameters'], fds: received })
          closeAll(received)
          throw new LuoError('LUO_PROTOCOL', `${method}: luod says that more answers follow, and one was asked for`)
        },
        fail: reject,
      })
    })
  }

  /** A request with many answers. Leaving the loop early does not end it on the other side: close the connection. */
  async *stream<M extends keyof Methods>(
    method: M,
    input: Methods[M]['input'],
    fds: readonly Fd[] = [],
  ): AsyncGenerator<Reply<M>, void, undefined> {
    const replies: (Reply<M> & { bytes: number })[] = []
    let unread = 0
    let error: LuoError | undefined
    let ended = false
    let left = false
    let wake = () => {}
    this.#request(method, input, fds, true, {
      method,
      reply: (parameters, received, continues, bytes) => {
        if (left) return closeAll(received)
        replies.push({ parameters: parameters as Reply<M>['parameters'], fds: received, bytes })
        unread += bytes
        if (!continues) ended = true
        if (replies.length > MAX_UNREAD_REPLIES || unread > MAX_UNREAD_BYTES) this.close()
        wake()
      },
      fail: (reason) => {
        error = reason
        wake()
      },
    })
    try {
      for (;;) {
        for (let next = replies.shift(); next; next = replies.shift()) {
          const { bytes, ...reply } = next
          unread -= bytes
          yield reply
        }
        if (error) throw error
        if (ended) return
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    } finally {
      left = true
      for (const reply of replies) closeAll(reply.fds)
    }
  }

  close(): void {
    this.#connection.close()
  }

  get ended(): boolean {
    return this.#error !== undefined
  }

  /** Whether a request failed with `error` because the connection ended, and not because luod refused it. */
  endedBy(error: unknown): boolean {
    return this.#error !== undefined && error instanceof LuoError && [error, error.cause].includes(this.#error)
  }

  /** Whether this connection keeps the process alive; it does unless told otherwise. */
  ref(): void {
    this.#connection.setReferenced(true)
  }

  unref(): void {
    this.#connection.setReferenced(false)
  }

  #request(method: string, input: object, fds: readonly Fd[], more: boolean, pending: Pending): void {
    if (this.#error) return pending.fail(this.#error)
    this.#pending.push(pending)
    const message = { method: `${INTERFACE_NAME}.${method}`, parameters: input, ...(more ? { more } : {}) }
    try {
      this.#connection.send(message, fds)
    } catch (error) {
      // A connection that has ended has failed it already; what could not be sent at all fails with its own reason.
      if (this.#pending.pop() === pending) pending.fail(error as LuoError)
      this.close()
    }
  }

  #received(message: Record<string, unknown>, fds: Fd[], bytes: number): void {
    const pending = this.#pending[0]
    const { parameters, continues, error } = readReply(message, fds, pending?.method)
    if (!pending) {
      closeAll(fds)
      // luod's last words: why it ends the connection.
      throw error === undefined
        ? new LuoError('LUO_PROTOCOL', 'luod answered, and nothing was asked')
        : decodeError(error, parameters)
    }
    if (!continues) this.#pending.shift()
    if (error === undefined) return pending.reply(parameters, fds, continues, bytes)
    closeAll(fds)
    pending.fail(decodeError(error, parameters))
  }

  #ended(error: LuoError | undefined): void {
    const gone = error === undefined || isShortage(error)
    this.#error = gone ? new LuoError('LUO_GONE', 'the connection to luod has ended', { cause: error }) : error
    for (const { method, fail } of this.#pending.splice(0)) {
      fail(new LuoError(this.#error.code, `${method}: ${this.#error.message}`, { cause: this.#error }))
    }
    this.#onClosed(this.#error)
  }
}

function queueFull(path: string, queueMs: number, cause: LuoError): LuoError {
  const why = `whoever listens there takes no connection for ${queueMs / 1000} s, and its queue is full: it is stopped or hangs`
  return new LuoError('EAGAIN', `connect to ${path}: ${why}`, { cause })
}

/**
 * Files and commands go to root's luod or to one's own, and never to what another user has put in its place, such as in
 * /tmp. Root may name any socket. Answers the pid; one that is not trusted is closed.
 */
function trusted(fd: Fd, path: string, own: number = process.getuid?.() ?? 0): number {
  const { uid, pid } = peerCredentials(fd)
  if (own === 0 || uid === 0 || uid === own) return pid
  fd.close()
  throw new LuoError('EPERM', `connect to ${path}: uid ${uid} listens there, and this is uid ${own}: do not trust it`)
}

function readReply(message: Record<string, unknown>, fds: Fd[], method: string | undefined): ParsedReply {
  try {
    const reply = parseReply(message)
    if (method === undefined || reply.error !== undefined) return reply
    // Nobody would close them.
    if (!checkAnswer(method, reply.parameters)) closeAll(fds.splice(0))
    return reply
  } catch (error) {
    closeAll(fds)
    throw error
  }
}
