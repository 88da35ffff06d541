/**
 * A stream of messages with files over a Unix socket. Reading is bounded in each turn, writing has a queue with a
 * limit, and files that nobody took are closed whatever happens.
 *
 * A message declares its files (`fds`); they travel with its bytes and are matched in order. Everything that does not
 * fit ends the connection with LUO_PROTOCOL: fewer or more files than declared, truncated control data, a message that
 * is too long or not JSON. A peer that does not read until the queue is full gets LUO_SLOW_PEER.
 */
import { isLuoError, isShortage, LuoError } from '../errors.js'
import { MAX_FDS } from '../protocol/interface.js'
import { Decoder, declaredFds, encodeMessage } from '../protocol/messages.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { endConnection, peerHasClosed, receive, send } from '../sys/unix.js'

/** Bytes that wait for a peer to read; a list of ten thousand files has about one million. */
export const MAX_QUEUE_BYTES = 4 * 1024 * 1024
/** Reads in one turn: others have their turn too. */
const MAX_READS = 16
/** Too many files are under way to readers that do not read (ETOOMANYREFS): that does not show in readiness. */
const RETRY_MS = 20

export interface ConnectionOptions {
  /**
   * The files belong to whoever gets the message, which had so many bytes. Must not throw, but for LuoError, which ends
   * the connection.
   */
  onMessage(message: Record<string, unknown>, fds: Fd[], bytes: number): void
  /** Once. `error` is undefined when the peer closed it in order. */
  onClose(error: LuoError | undefined): void
  /** What the peer is told before the connection is ended because of `error`. */
  lastWords?(error: LuoError): object
  maxQueueBytes?: number
  /**
   * Asked before each part of a message is read. `wait`: this is paused until somebody resumes it. `later`: it is asked
   * again in the next turn of the loop.
   */
  mayReceive?(begun: boolean): 'now' | 'later' | 'wait'
  /** So much more, or less, was received and waits for the rest of its message, or waits for the peer to read. */
  onUnderWay?(direction: 'received' | 'queued', by: Amount): void
}

/** Of what is under way. */
export interface Amount {
  files: number
  bytes: number
}

interface Outgoing {
  bytes: Uint8Array
  fds: Fd[]
}

export class Connection {
  /** To give a copy of it to another process. */
  readonly fd: Fd
  readonly #options: ConnectionOptions
  readonly #registration: Registration
  readonly #decoder = new Decoder()
  /** Bytes of a message that is not whole yet, as they were told last. */
  #partial = 0
  readonly #received: Fd[] = []
  readonly #queue: Outgoing[] = []
  #queuedBytes = 0
  #queuedFiles = 0
  #drained: (() => void)[] = []
  #retry: NodeJS.Timeout | undefined
  #paused = false
  #closed = false
  #referenced = true

  /** Owns `fd`. */
  constructor(fd: Fd, options: ConnectionOptions) {
    this.fd = fd
    this.#options = options
    this.#registration = Poller.shared().add(fd, { read: true, write: false }, (ready) => {
      if (ready.writable) this.#write()
      if (this.#closed) return
      if (!this.#paused && (ready.readable || ready.hangup)) this.#read()
      // Nobody is there to take an answer to what is still unread.
      else if (this.#paused && ready.hangup) this.#end(undefined)
    })
    Poller.shared().ref()
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Whether it is closed, or would be as soon as it is looked at. */
  get ended(): boolean {
    return this.#closed || peerHasClosed(this.fd)
  }

  /** Files that wait for the peer to read. */
  get queuedFiles(): number {
    return this.#queuedFiles
  }

  /** Resolves when no file waits for the peer to read, or this is closed. */
  drained(): Promise<void> {
    if (this.#queuedFiles === 0 || this.#closed) return Promise.resolve()
    return new Promise((resolve) => this.#drained.push(resolve))
  }

  /**
   * Sends a message; `fds` stay the caller's. Throws when it is closed or the queue is full, which closes it. So does
   * what the kernel has no memory for: the peer would wait for it, and comes back when the connection has ended.
   */
  send(message: object, fds: readonly Fd[] = []): void {
    if (this.#closed) throw new LuoError('LUO_GONE', 'send on a connection that is closed')
    const bytes = encodeMessage(message)
    let sent = 0
    try {
      if (this.#queue.length === 0) sent = this.#trySend(bytes, fds)
    } catch (error) {
      if (isShortage(error)) this.#end(error)
      throw error
    }
    if (sent === bytes.length || this.#closed) return
    const limit = this.#options.maxQueueBytes ?? MAX_QUEUE_BYTES
    if (this.#queuedBytes + bytes.length > limit) {
      const error = new LuoError('LUO_SLOW_PEER', `the peer does not read: ${this.#queuedBytes} bytes are waiting`)
      this.#end(error)
      throw error
    }
    const copies = sent > 0 ? [] : dupAll(fds)
    this.#queue.push({ bytes: bytes.subarray(sent), fds: copies })
    this.#changeQueued(copies.length, bytes.length - sent)
    if (this.#queue.length === 1) this.#watch()
  }

  /** Stops reading: what the peer sends waits in the kernel, and then in the peer. */
  pause(): void {
    if (this.#paused || this.#closed) return
    this.#paused = true
    this.#watch()
  }

  resume(): void {
    if (!this.#paused || this.#closed) return
    this.#paused = false
    this.#watch()
  }

  close(): void {
    this.#end(undefined)
  }

  /** Whether this connection keeps the process alive. */
  setReferenced(referenced: boolean): void {
    if (this.#closed || this.#referenced === referenced) return
    this.#referenced = referenced
    if (referenced) Poller.shared().ref()
    else Poller.shared().unref()
  }

  #changeQueued(files: number, bytes: number): void {
    if (files === 0 && bytes === 0) return
    this.#queuedFiles += files
    this.#queuedBytes += bytes
    this.#options.onUnderWay?.('queued', { files, bytes })
    if (this.#queuedFiles === 0) for (const resolve of this.#drained.splice(0)) resolve()
  }

  #changeReceived(files: number, partial = this.#partial): void {
    const bytes = partial - this.#partial
    this.#partial = partial
    if (files !== 0 || bytes !== 0) this.#options.onUnderWay?.('received', { files, bytes })
  }

  #watch(): void {
    this.#registration.update({ read: !this.#paused, write: this.#queue.length > 0 && this.#retry === undefined })
  }

  #read(): void {
    try {
      for (let reads = 0; reads < MAX_READS && !this.#closed && !this.#paused; reads++) {
        const begun = this.#decoder.pending > 0 || this.#received.length > 0
        const may = this.#options.mayReceive?.(begun)
        if (may === 'wait') return this.pause()
        if (may === 'later') return
        const got = receive(this.fd)
        if (!got) return
        this.#received.push(...got.fds)
        this.#changeReceived(got.fds.length)
        if (got.truncated) {
          throw new LuoError('LUO_PROTOCOL', 'receive a message: its files were cut off, on the way or by our limit')
        }
        if (got.bytes.length === 0) return this.#end(undefined)
        const sizes: number[] = []
        const messages = this.#decoder.push(got.bytes, sizes)
        this.#changeReceived(0, this.#decoder.pending)
        messages.forEach((message, index) => {
          this.#deliver(message, sizes[index] ?? 0)
        })
        const allowed = this.#decoder.pending > 0 ? MAX_FDS : 0
        if (!this.#closed && this.#received.length > allowed) {
          throw new LuoError('LUO_PROTOCOL', `receive a message: ${this.#received.length} files more than it declares`)
        }
      }
    } catch (error) {
      // The peer has closed it without reading all of what it was sent: its end, as any other.
      if (isLuoError(error, 'ECONNRESET')) this.#end(undefined)
      // Nothing is wrong with the peer, which may come back.
      else if (isShortage(error)) this.#end(error)
      else this.fail(error)
    }
  }

  #deliver(message: Record<string, unknown>, bytes: number): void {
    if (this.#closed) return
    const { parameters } = message
    const count = declaredFds((parameters ?? {}) as Record<string, unknown>, MAX_FDS)
    if (count > this.#received.length) {
      throw new LuoError('LUO_PROTOCOL', `receive a message: it declares ${count} files, ${this.#received.length} came`)
    }
    const fds = this.#received.splice(0, count)
    this.#changeReceived(-count)
    this.#options.onMessage(message, fds, bytes)
  }

  #write(): void {
    try {
      for (let first = this.#queue[0]; first && !this.#closed; first = this.#queue[0]) {
        const sent = this.#trySend(first.bytes, first.fds)
        if (sent === 0) return this.#retryLater()
        first.bytes = first.bytes.subarray(sent)
        if (first.bytes.length === 0) this.#queue.shift()
        this.#closeQueued(first, sent)
      }
      if (!this.#closed) this.#watch()
    } catch (error) {
      this.fail(error)
    }
  }

  /** It was writable and took nothing: it would be writable for ever. */
  #retryLater(): void {
    this.#retry = setTimeout(() => {
      this.#retry = undefined
      if (!this.#closed) this.#watch()
    }, RETRY_MS)
    this.#watch()
  }

  /** So many of its bytes are not in the queue any more, nor are its files. */
  #closeQueued({ fds }: Outgoing, bytes: number): void {
    const copies = fds.splice(0)
    closeAll(copies)
    this.#changeQueued(-copies.length, -bytes)
  }

  /** As much as goes; 0 for nothing. The peer's end is no error here: reading tells it. */
  #trySend(bytes: Uint8Array, fds: readonly Fd[]): number {
    let done = 0
    try {
      while (done < bytes.length) {
        const sent = send(this.fd, done === 0 ? bytes : bytes.subarray(done), done === 0 ? fds : [])
        if (sent === 0) break
        done += sent
      }
    } catch (error) {
      if (!isLuoError(error, 'EPIPE') && !isLuoError(error, 'ECONNRESET')) throw error
      // Gone for good. Why it closed is perhaps still to be read, before its end is.
      return bytes.length
    }
    return done
  }

  /** Ends it, and says why if the peer listens. */
  fail(error: unknown): void {
    const known =
      error instanceof LuoError ? error : new LuoError('EIO', `a connection failed: ${String(error)}`, { cause: error })
    if (!this.#closed && this.#queue.length === 0 && this.#options.lastWords) {
      try {
        send(this.fd, encodeMessage(this.#options.lastWords(known)))
      } catch {
        // It was a courtesy.
      }
    }
    this.#end(known)
  }

  #end(error: LuoError | undefined): void {
    if (this.#closed) return
    this.setReferenced(false)
    this.#closed = true
    clearTimeout(this.#retry)
    this.#registration.close()
    // Closing is not enough, should somebody have a copy.
    endConnection(this.fd)
    this.fd.close()
    const received = this.#received.splice(0)
    closeAll(received)
    this.#changeReceived(-received.length, 0)
    for (const outgoing of this.#queue.splice(0)) this.#closeQueued(outgoing, outgoing.bytes.length)
    this.#options.onClose(error)
  }
}

/** Copies of all of them, or none. */
function dupAll(fds: readonly Fd[]): Fd[] {
  const copies: Fd[] = []
  try {
    for (const fd of fds) copies.push(fd.dup())
    return copies
  } catch (error) {
    closeAll(copies)
    throw error
  }
}
