/**
 * The answering side of the wire: accepts connections, knows from the kernel who connected, validates each request
 * against the interface, and calls a handler. Requests of one connection are answered one after the other, in order; a
 * few more may wait here, then the connection is not read any more until they are done. Files that have come and wait, and
 * files in answers that nobody reads, are descriptors of ours, and what they come with is memory of ours: what one user
 * may have of both is limited. Beyond it that user's connections wait, and if that does not pass those that have most of
 * it end with LUO_LIMIT.
 *
 * Handlers throw LuoError for what they refuse. Anything else that they throw is a defect: it is reported to
 * `onDefect`, answered with EIO, and ends nothing else.
 */
import { isLuoError, LuoError } from '../errors.js'
import { type Interface, parseInterface, validate } from '../protocol/idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT, MAX_FDS } from '../protocol/interface.js'
import { encodeError, parseRequest, type Request, SERVICE_INTERFACE } from '../protocol/messages.js'
import type { Methods } from '../protocol/types.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { acceptUnix, type Credentials, peerCredentials, peerPidfd, socketPair } from '../sys/unix.js'
import { type Amount, Connection, type ConnectionOptions } from './connection.js'

/** Accepted in one turn; the others wait for the next. */
const MAX_ACCEPTS = 64
/** How long the connections of one user may be held up by what some of them have under way. */
const HELD_UP_MS = 1_000
/** What one user gets of one turn of the loop; then others have theirs. The longest requests take some milliseconds. */
export const MAX_TURN_MS = 10
/** Requests of one connection that wait for the one before. */
const MAX_WAITING = 32
const INTERFACE: Interface = parseInterface(INTERFACE_TEXT)
const SERVICE_TEXT = `interface org.varlink.service
method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)
error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
`

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

/** What is under way of one user. */
interface User {
  connections: number
  /** Of requests that are not handled yet. */
  readonly received: Amount
  /** Of answers that nobody has read. */
  readonly queued: Amount
  /** Both, of those that have any. */
  readonly underWay: Map<Connection, Amount>
  /** Called when there is room again. */
  readonly waiting: Set<() => void>
  heldUp: NodeJS.Timeout | undefined
  /** When its first request in this turn of the loop came; undefined before that. */
  turnBegan: number | undefined
  /** Called in the next turn. */
  readonly onTurn: (() => void)[]
}

export class Server {
  readonly #options: ServerOptions
  readonly #connections = new Set<Connection>()
  readonly #users = new Map<number, User>()
  readonly #registration: Registration
  /** Given up for a moment when there is no other descriptor left to accept, and refuse, a connection with. */
  #spare: readonly Fd[] = socketPair()
  /** While it is paused; these methods are answered all the same. */
  #resumed: { promise: Promise<void>; but: ReadonlySet<string> } | undefined
  readonly #onResume: (() => void)[] = []
  readonly #followers = new Set<(fd: Fd) => void>()

  constructor(options: ServerOptions) {
    this.#options = options
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
        // It waits, and is accepted when there is memory again.
        else this.#options.onDefect(error, 'accept')
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
    try {
      using fd = acceptUnix(this.#options.listener)
      if (fd) this.#options.onRefused(cause, peerCredentials(fd))
    } finally {
      this.#spare = socketPair()
    }
  }

  #open(fd: Fd): void {
    const credentials = peerCredentials(fd)
    const { uid } = credentials
    const user = this.#userOf(uid)
    const disconnects: (() => void)[] = []
    const waiting: { request: Request; fds: Fd[]; bytes: number }[] = []
    let waitingFiles = 0
    let waitingBytes = 0
    let busy = false
    let requests = 0
    const change = (direction: 'received' | 'queued', by: Amount) => {
      add(user[direction], by)
      const all = add(user.underWay.get(connection) ?? { files: 0, bytes: 0 }, by)
      if (all.files > 0 || all.bytes > 0) user.underWay.set(connection, all)
      else user.underWay.delete(connection)
      if (by.files < 0 || by.bytes < 0) for (const run of [...user.waiting]) run()
      else if (direction === 'queued' && this.#isFull(user.queued)) this.#watchHeldUp(user)
    }
    const changeWaiting = (files: number, bytes: number) => {
      waitingFiles += files
      waitingBytes += bytes
      if (files !== 0 || bytes !== 0) change('received', { files, bytes })
    }
    const mayReceive = (begun = false) => {
      const room = !this.#isFull(user.received)
      const may = room && (begun || (waiting.length < MAX_WAITING && waitingFiles < MAX_FDS))
      if (!room) this.#watchHeldUp(user)
      if (may) return this.#hasHadTurn(user) ? 'later' : 'now'
      user.waiting.add(resume)
      return 'wait'
    }
    const resume = () => {
      user.waiting.delete(resume)
      if (mayReceive() !== 'wait') connection.resume()
    }
    const work = async () => {
      busy = true
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        changeWaiting(-next.fds.length, -next.bytes)
        resume()
        while (this.#hasHadTurn(user)) await new Promise<void>((resolve) => user.onTurn.push(resolve))
        while (this.#resumed && !this.#resumed.but.has(next.request.method)) await this.#resumed.promise
        await this.#serve(connection, peer, next.request, next.fds)
        await this.#mayAnswer(connection, user)
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
        if (user.connections === 0) {
          clearTimeout(user.heldUp)
          this.#users.delete(uid)
        }
        pidfd?.close()
        for (const { fds } of waiting.splice(0)) closeAll(fds)
        changeWaiting(-waitingFiles, -waitingBytes)
        user.waiting.delete(resume)
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
      if (user.connections === 0) this.#users.delete(uid)
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

  #userOf(uid: number): User {
    const known = this.#users.get(uid)
    if (known) return known
    const amounts = { received: { files: 0, bytes: 0 }, queued: { files: 0, bytes: 0 }, underWay: new Map() }
    const user: User = {
      connections: 0,
      ...amounts,
      waiting: new Set(),
      heldUp: undefined,
      ...{ turnBegan: undefined, onTurn: [] },
    }
    this.#users.set(uid, user)
    return user
  }

  /** Others may have requests that wait just as long. */
  #hasHadTurn(user: User): boolean {
    const now = performance.now()
    if (user.turnBegan === undefined) {
      user.turnBegan = now
      setImmediate(() => {
        user.turnBegan = undefined
        for (const run of user.onTurn.splice(0)) run()
      })
    }
    return now - user.turnBegan > MAX_TURN_MS
  }

  #isFull({ files, bytes }: Amount): boolean {
    const { maxUnderWay } = this.#options
    return files >= maxUnderWay.files || bytes >= maxUnderWay.bytes
  }

  /** A connection with much behind a request that lasts, or that reads no answer, holds up others no longer. */
  #watchHeldUp(user: User): void {
    user.heldUp ??= setTimeout(() => {
      user.heldUp = undefined
      const { maxUnderWay } = this.#options
      const share = ({ files, bytes }: Amount) => Math.max(files / maxUnderWay.files, bytes / maxUnderWay.bytes)
      const most = [...user.underWay].sort(([, a], [, b]) => share(b) - share(a))
      for (const [connection, { files, bytes }] of most) {
        if (!this.#isFull(user.received) && !this.#isFull(user.queued)) return
        connection.fail(
          new LuoError(
            'LUO_LIMIT',
            `${files} files and ${bytes} bytes wait here, and of all of one user ${maxUnderWay.files} and ` +
              `${maxUnderWay.bytes} may`,
          ),
        )
      }
    }, HELD_UP_MS)
  }

  /** What a peer does not take is ours: its next request waits until it has, and others of its user too. */
  async #mayAnswer(connection: Connection, user: User): Promise<void> {
    await connection.drained()
    while (!connection.closed && this.#isFull(user.queued)) {
      this.#watchHeldUp(user)
      await new Promise<void>((resolve) => {
        const run = () => {
          user.waiting.delete(run)
          resolve()
        }
        user.waiting.add(run)
      })
    }
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
      const own = this.#service(request)
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

  /** The standard's own interface. */
  #service({ method, parameters }: Request): object | undefined {
    const name = method.slice(method.lastIndexOf('.') + 1)
    const prefix = method.slice(0, Math.max(method.lastIndexOf('.'), 0))
    if (prefix === INTERFACE_NAME) return undefined
    if (prefix !== SERVICE_INTERFACE) return notFound('Interface', prefix)
    if (name === 'GetInfo') {
      return {
        parameters: {
          vendor: 'liveupdate',
          product: 'luod',
          version: this.#options.version,
          url: 'https://www.npmjs.com/package/liveupdate',
          interfaces: [SERVICE_INTERFACE, INTERFACE_NAME],
        },
      }
    }
    if (name !== 'GetInterfaceDescription') return notFound('Method', method)
    const wanted = parameters.interface
    if (wanted === INTERFACE_NAME) return { parameters: { description: INTERFACE_TEXT } }
    if (wanted === SERVICE_INTERFACE) return { parameters: { description: SERVICE_TEXT } }
    return notFound('Interface', String(wanted))
  }
}

/** Changes and answers the first. */
function add(to: Amount, by: Amount): Amount {
  to.files += by.files
  to.bytes += by.bytes
  return to
}

function readRequest(message: Record<string, unknown>, fds: Fd[]): Request {
  try {
    return parseRequest(message)
  } catch (error) {
    closeAll(fds)
    throw error
  }
}

function notFound(what: 'Method' | 'Interface', name: string): object {
  return { error: `${SERVICE_INTERFACE}.${what}NotFound`, parameters: { [what.toLowerCase()]: name } }
}
