/**
 * The answering side of the wire: accepts connections, knows from the kernel who connected, validates each request
 * against the interface, and calls a handler. Requests of one connection are answered one after the other, in order; a
 * few more may wait here, then the connection is not read any more until they are done. Files that have come and wait,
 * and files in answers that nobody reads, are descriptors of ours, and what they come with is memory of ours: what one
 * user may have of both is limited. Beyond it that user's connections wait, and if that does not pass those that have
 * most of it end with LUO_LIMIT.
 *
 * Handlers throw LuoError for what they refuse. Anything else that they throw is a defect: it is reported to
 * `onDefect`, answered with EIO, and ends nothing else.
 */
import { isLuoError, LuoError } from '../errors.js'
import { type Interface, parseInterface, validate } from '../protocol/idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT, MAX_FDS } from '../protocol/interface.js'
import { encodeError, parseRequest, type Request } from '../protocol/messages.js'
import type { Methods } from '../protocol/types.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { acceptUnix, type Credentials, peerCredentials, peerPidfd, socketPair } from '../sys/unix.js'
import { type Amount, Connection, type ConnectionOptions } from './connection.js'
import { notFound, serviceAnswer } from './service.js'
import { Users } from './users.js'

/** Accepted in one turn; the others wait for the next. */
const MAX_ACCEPTS = 64
/** Until a connection is accepted that could not even be refused. */
const ACCEPT_AGAIN_MS = 100
/** Requests of one connection that wait for the one before. */
const MAX_WAITING = 32
const INTERFACE: Interface = parseInterface(INTERFACE_TEXT)

/** One client's connection, as handlers see it. */
export interface Peer extends Credentials {
  /** A copy of the peer's pidfd; undefined when the kernel has none to give. Owned by the caller. */
  pidfd(): Fd | undefined
  /**
   * For the answer that is being made: answers a question that can be asked later. Has the connection ended before
   * anything came after the answer? Then nobody may have got it.
   */
  mayBeLost(): () => boolean
  /** Called once, when the connection has ended; at once when it has already. */
  onDisconnect(run: () => void): void
  disconnect(): void
}

export interface Call<M extends keyof Methods> {
  input: Methods[M]['input']
  peer: Peer
  /** Files that came with the request. Closed when the handler returns, at its first wait, but for those taken out. */
  fds: Fd[]
  /** The client takes more than one reply. */
  more: boolean
  /** Sends one reply, and more will follow. False when the client is gone. `fds` stay the caller's. */
  reply(output: Methods[M]['output'], fds?: readonly Fd[]): boolean
}

export interface Answer<M extends keyof Methods> {
  output: Methods[M]['output']
  /** Sent with the answer, and closed. */
  fds?: readonly Fd[]
}

export type Handlers = { [M in keyof Methods]: (call: Call<M>) => Answer<M> | Promise<Answer<M>> }

export interface Answered {
  method: keyof Methods
  peer: Credentials
  /** As it came: when it failed it may be anything. */
  input: Record<string, unknown>
  error: LuoError | undefined
}

export interface ServerOptions {
  listener: Fd
  handlers: Handlers
  version: string
  /** Connections of one user. */
  maxConnections: number
  /** What one user may have on its way, to us and from us each, before its connections wait. */
  maxUnderWay: Amount
  /** The end of a connection is acted upon in here; at once by default. */
  turn?(run: () => void): void
  /** Before each request is handled. */
  onRequest?(): void
  /** What was done is safe, when this resolves: answers wait for it. Undefined: it is. */
  settled?(): Promise<void> | undefined
  onDefect(error: unknown, method: string): void
  /** A request was answered, with `error` when it failed; one that streams, at its end. */
  onAnswered?(request: Answered): void
  /** A connection that broke the rules or was refused. */
  onRefused(error: LuoError, peer: Credentials): void
  /** The number of connections has changed: by one, of this user. */
  onConnections?(count: number, change: { uid: number; by: 1 | -1 }): void
}

export class Server {
  readonly #options: ServerOptions
  readonly #connections = new Set<Connection>()
  readonly #users: Users
  readonly #registration: Registration
  /** Given up for a moment when there is no other descriptor left to accept, and refuse, a connection with. */
  #spare: readonly Fd[] = socketPair()
  #acceptAgain: NodeJS.Timeout | undefined
  /** While it is paused; these methods are answered all the same. */
  #resumed: { promise: Promise<void>; but: ReadonlySet<string> } | undefined
  readonly #onResume: (() => void)[] = []
  readonly #followers = new Set<(fd: Fd) => void>()

  constructor(options: ServerOptions) {
    this.#options = options
    this.#users = new Users(options.maxUnderWay)
    try {
      this.#registration = Poller.shared().add(options.listener, { read: true, write: false }, () => this.#accept())
    } catch (error) {
      closeAll(this.#spare)
      throw error
    }
    Poller.shared().ref()
  }

  get connections(): number {
    return this.#connections.size
  }

  /** Takes no request, but for these methods, and without them no connection: they wait. What is under way goes on. */
  pause(but: readonly (keyof Methods)[] = []): void {
    if (this.#resumed) return
    if (but.length === 0) this.#registration.update({ read: false, write: false })
    const promise = new Promise<void>((resolve) => this.#onResume.push(resolve))
    this.#resumed = { promise, but: new Set(but.map((method) => `${INTERFACE_NAME}.${method}`)) }
  }

  resume(): void {
    if (!this.#resumed) return
    this.#resumed = undefined
    this.#registration.update({ read: true, write: false })
    for (const run of this.#onResume.splice(0)) run()
  }

  /** Tells of every connection, of those first that are there. They stay the server's. Answers how to end that. */
  follow(told: (fd: Fd) => void): () => void {
    for (const { fd } of this.#connections) told(fd)
    this.#followers.add(told)
    return () => this.#followers.delete(told)
  }

  close(): void {
    clearTimeout(this.#acceptAgain)
    this.#registration.close()
    Poller.shared().unref()
    this.#options.listener.close()
    for (const connection of this.#connections) connection.close()
    closeAll(this.#spare)
  }

  #accept(): void {
    for (let count = 0; count < MAX_ACCEPTS; count++) {
      let fd: Fd | undefined
      try {
        fd = acceptUnix(this.#options.listener)
      } catch (error) {
        if (isLuoError(error, 'EMFILE') || isLuoError(error, 'ENFILE')) this.#refuseOne(error)
        else this.#acceptLater(error)
        return
      }
      if (!fd) return
      try {
        this.#open(fd)
      } catch (error) {
        fd.close()
        this.#options.onDefect(error, 'accept')
      }
    }
  }

  /** Without this the waiting connection would wake us for ever, and its client would wait for ever. */
  #refuseOne(cause: LuoError): void {
    closeAll(this.#spare)
    this.#spare = []
    try {
      {
        using fd = acceptUnix(this.#options.listener)
        if (fd) this.#options.onRefused(cause, peerCredentials(fd))
      }
      this.#spare = socketPair()
    } catch (error) {
      // Others took what there was.
      this.#acceptLater(error)
    }
  }

  /** It waits until there is memory, or a descriptor, again; meanwhile it does not wake us. */
  #acceptLater(error: unknown): void {
    this.#options.onDefect(error, 'accept')
    this.#registration.update({ read: false, write: false })
    clearTimeout(this.#acceptAgain)
    this.#acceptAgain = setTimeout(() => {
      if (this.#resumed?.but.size !== 0) this.#registration.update({ read: true, write: false })
    }, ACCEPT_AGAIN_MS)
  }

  #open(fd: Fd): void {
    const credentials = peerCredentials(fd)
    const { uid } = credentials
    const user = this.#users.of(uid)
    const disconnects: (() => void)[] = []
    const waiting: { request: Request; fds: Fd[]; bytes: number }[] = []
    let waitingFiles = 0
    let waitingBytes = 0
    let busy = false
    let requests = 0
    const change = (direction: 'received' | 'queued', by: Amount) => user.change(connection, direction, by)
    const changeWaiting = (files: number, bytes: number) => {
      waitingFiles += files
      waitingBytes += bytes
      if (files !== 0 || bytes !== 0) change('received', { files, bytes })
    }
    const mayReceive = (begun = false) => {
      const room = user.hasRoom()
      const may = room && (begun || (waiting.length < MAX_WAITING && waitingFiles < MAX_FDS))
      if (may) return user.hasHadTurn() ? 'later' : 'now'
      user.wait(resume)
      return 'wait'
    }
    const resume = () => {
      user.stopWaiting(resume)
      if (mayReceive() !== 'wait') connection.resume()
    }
    const work = async () => {
      busy = true
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        changeWaiting(-next.fds.length, -next.bytes)
        resume()
        while (user.hasHadTurn()) await user.nextTurn()
        while (this.#resumed && !this.#resumed.but.has(next.request.method)) await this.#resumed.promise
        await this.#serve(connection, peer, next.request, next.fds)
        await connection.drained()
        await user.mayAnswer(connection)
      }
      busy = false
    }
    // A second descriptor only to ask for the peer's pidfd later would cost one a connection: it is asked for now.
    const pidfd = peerPidfd(fd)
    const peer: Peer = {
      ...credentials,
      pidfd: () => (pidfd && !pidfd.closed ? pidfd.dup() : undefined),
      mayBeLost: () => {
        const before = requests
        return () => requests === before && connection.ended
      },
      onDisconnect: (run) => {
        if (connection.closed) run()
        else disconnects.push(run)
      },
      disconnect: () => connection.close(),
    }
    const options: ConnectionOptions = {
      onMessage: (message, fds, bytes) => {
        requests += 1
        waiting.push({ request: readRequest(message, fds), fds, bytes })
        changeWaiting(fds.length, bytes)
        if (!busy) void work()
        if (mayReceive() === 'wait') connection.pause()
      },
      mayReceive,
      onUnderWay: change,
      onClose: (error) => {
        this.#connections.delete(connection)
        user.connections -= 1
        this.#users.dropUnused(uid)
        pidfd?.close()
        for (const { fds } of waiting.splice(0)) closeAll(fds)
        changeWaiting(-waitingFiles, -waitingBytes)
        user.stopWaiting(resume)
        if (error) this.#options.onRefused(error, credentials)
        const turn = this.#options.turn ?? ((run) => run())
        for (const run of disconnects.splice(0)) turn(run)
        this.#options.onConnections?.(this.#connections.size, { uid, by: -1 })
      },
      lastWords: encodeError,
    }
    let connection: Connection
    try {
      connection = new Connection(fd, options)
    } catch (error) {
      pidfd?.close()
      this.#users.dropUnused(uid)
      throw error
    }
    this.#connections.add(connection)
    user.connections += 1
    const count = user.connections
    this.#options.onConnections?.(this.#connections.size, { uid, by: 1 })
    if (count > this.#options.maxConnections) {
      const limit = this.#options.maxConnections
      const error = new LuoError(
        'LUO_LIMIT',
        `connect: uid ${uid} has ${count - 1} of ${limit} connections; close some, or start luod with ` +
          '--limit connections=N',
      )
      connection.send(encodeError(error))
      connection.close()
      this.#options.onRefused(error, credentials)
      return
    }
    for (const told of this.#followers) told(fd)
  }

  async #serve(connection: Connection, peer: Peer, request: Request, fds: Fd[]): Promise<void> {
    const answer = (message: object, files: readonly Fd[] = []) => {
      if (!connection.closed && !request.oneway) connection.send(message, files)
    }
    let known: keyof Methods | undefined
    const answered = (error?: LuoError) => {
      if (known) this.#options.onAnswered?.({ method: known, peer, input: request.parameters, error })
    }
    try {
      const own = serviceAnswer(request, this.#options.version)
      if (own) return answer(own)
      const method = request.method.slice(INTERFACE_NAME.length + 1) as keyof Methods
      const input = INTERFACE.methods.get(method)?.input
      if (!input) return answer(notFound('Method', request.method))
      known = method
      validate(INTERFACE, input, request.parameters, '')
      this.#options.onRequest?.()
      const called = this.#call(connection, peer, request, method, fds)
      // It has taken what it needs. A stream goes on for long, and what it was sent too much is not kept for it.
      closeAll(fds)
      const { output, fds: files = [] } = await called
      const settled = this.#options.settled?.()
      if (settled) await settled
      try {
        answer({ parameters: output }, files)
      } finally {
        closeAll(files)
      }
      answered()
    } catch (error) {
      if (!(error instanceof LuoError)) this.#options.onDefect(error, request.method)
      const failure =
        error instanceof LuoError
          ? error
          : new LuoError('EIO', `${request.method}: luod failed, see its log`, { cause: error })
      answered(failure)
      try {
        answer(encodeError(failure))
      } catch {
        // It has ended, and said why; or this cannot be sent at all, and the client must not wait for it for ever.
        connection.close()
      }
    } finally {
      closeAll(fds)
    }
  }

  #call<M extends keyof Methods>(
    connection: Connection,
    peer: Peer,
    request: Request,
    method: M,
    fds: Fd[],
  ): Answer<M> | Promise<Answer<M>> {
    return this.#options.handlers[method]({
      input: request.parameters as Methods[M]['input'],
      peer,
      fds,
      more: request.more,
      reply: (parameters, files = []) => {
        if (connection.closed) return false
        try {
          connection.send({ parameters, continues: true }, files)
          return true
        } catch {
          // It would be missed. Whoever listens comes back, and is told what is due.
          connection.close()
          return false
        }
      },
    })
  }
}

function readRequest(message: Record<string, unknown>, fds: Fd[]): Request {
  try {
    return parseRequest(message)
  } catch (error) {
    closeAll(fds)
    throw error
  }
}
