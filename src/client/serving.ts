/**
 * One server and its connections through an update. In the old version: stop accepting, let requests finish, hold idle
 * connections still, hand them over; or go on as before. In the new version: listen and take connections up.
 *
 * What moves: the listener always; HTTP/1 connections between two requests; other connections when the application
 * says so (`movable`). What drains in the old version: TLS, HTTP/2 and upgraded connections, and responses that have
 * begun and go on for long. What refuses the update: a request that may change state and has not been answered when
 * the settle limit is over, because its change would be lost. A request that changes nothing, and one of which only a part
 * is here, is not waited for as long (`longMs`): everybody else stands still meanwhile.
 *
 * A request that arrives in part before the freeze and whole after it is held, and then forwarded to the new version,
 * or served here if the update is rolled back.
 */
import { Server as HttpServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Server, Socket } from 'node:net'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { adoptSocket, dupHandle, hasHandle, listenOn, startReading, stopListening, stopReading } from '../sys/node.js'
import { Refusal, type ServeOptions } from './types.js'

export const DEFAULT_SETTLE_MS = 5_000
const DEFAULT_LONG_MS = 1_000
/** How often it looks again, besides whenever a response ends: for data that still goes out, and closed sockets. */
const LOOK_MS = 5
/** Named in a refusal. */
const MAX_NAMED = 3
/** Requests that by their definition change nothing. */
const SAFE_METHODS: ReadonlySet<string | undefined> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])
const REQUEST_EVENTS: ReadonlySet<string | symbol> = new Set(['request', 'checkContinue', 'checkExpectation'])
const UPGRADE_EVENTS: ReadonlySet<string | symbol> = new Set(['upgrade', 'connect'])

interface Held {
  event: string | symbol
  args: unknown[]
  request: IncomingMessage
  response: ServerResponse
}

type Emit = (event: string | symbol, ...args: unknown[]) => boolean

export class Serving {
  readonly name: string
  readonly server: Server
  readonly settleMs: number
  readonly #longMs: number
  readonly #movable: ((socket: Socket) => boolean) | undefined
  readonly #http: HttpServer | undefined
  readonly #emit: Emit
  /** Our own descriptor of the listening socket. */
  #listener: Fd | undefined
  readonly #path: string | undefined
  #address: AddressInfo | undefined
  /** Open connections, and the responses under way on each, with when their requests came. */
  readonly #connections = new Map<Socket, Map<ServerResponse, number>>()
  /** Not HTTP any more, or never was. */
  readonly #upgraded = new WeakSet<Socket>()
  /** Not read: idle, and to be handed over. */
  readonly #still = new Set<Socket>()
  readonly #adopted: Socket[] = []
  #held: Held[] | undefined
  /** Responses. */
  #underWay = 0
  #quiet = false
  #released = false
  #wake: () => void = () => {}

  constructor(name: string, server: Server, options: ServeOptions) {
    this.name = name
    this.server = server
    this.settleMs = options.settleMs ?? DEFAULT_SETTLE_MS
    this.#longMs = options.longMs ?? DEFAULT_LONG_MS
    this.#movable = options.movable
    this.#path = options.path
    this.#http = server instanceof HttpServer ? server : undefined
    // The prototype's, or what the application has put there.
    this.#emit = server.emit.bind(server) as Emit
    ;(server as { emit: Emit }).emit = (event, ...args) => this.#onEvent(event, args)
  }

  /** Our copy of the listening socket. */
  get listener(): Fd {
    if (this.#listener) return this.#listener
    throw new LuoError('LUO_WRONG_STATE', `${this.name} does not listen`)
  }

  /** Listens on a socket of our own, or on the one that was handed over. Owns `listener`. */
  async listen(listener: Fd): Promise<void> {
    this.#listener = listener
    await listenOn(this.server, listener.dup())
    this.#listening()
  }

  /** The server has begun to listen by itself. */
  began(): void {
    this.#listener = dupHandle(this.server)
    this.#listening()
  }

  #listening(): void {
    const address = this.server.address()
    if (typeof address === 'object' && address) this.#address = address
  }

  /** Makes sockets of connections that were handed over; nothing is read from them yet. Owns `fds`. */
  adopt(fds: readonly Fd[]): void {
    const { allowHalfOpen = false } = this.server as unknown as { allowHalfOpen?: boolean }
    for (const fd of fds) this.#adopted.push(adoptSocket(fd, { allowHalfOpen }))
  }

  /** The adopted connections are ours: they are served from here on. */
  serveAdopted(): void {
    for (const socket of this.#adopted.splice(0)) {
      this.server.emit('connection', socket)
      startReading(socket)
    }
  }

  /** They are not ours after all; whoever else has them goes on. */
  dropAdopted(): void {
    for (const socket of this.#adopted.splice(0)) socket.destroy()
  }

  /** luod is not there for it any more: a server that the program closes is closed. */
  leave(): void {
    this.dropAdopted()
    this.#listener?.close()
    this.#listener = undefined
  }

  // --- letting go ---------------------------------------------------------------------------------------------------

  /**
   * Resolves when nothing is served any more, but for what drains. Throws a Refusal when requests that may change state
   * do not end in `limitMs`. Stops waiting when `signal` is aborted.
   */
  async quiesce(limitMs: number, signal: AbortSignal, longMs = this.#longMs): Promise<void> {
    if (hasHandle(this.server)) stopListening(this.server)
    this.#quiet = true
    const begunAt = performance.now()
    const isWaitedFor = (socket: Socket) => performance.now() < this.#waitsUntil(socket, begunAt, limitMs, longMs)
    this.#holdStill()
    while (!signal.aborted && this.#waiting().some(isWaitedFor)) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, LOOK_MS)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#holdStill()
    }
    signal.throwIfAborted()
    this.#refuseUnfinished(limitMs)
    this.#held = []
  }

  /** The idle connections, as files of the caller's own. */
  still(): Fd[] {
    const fds: Fd[] = []
    for (const socket of this.#still) if (!socket.destroyed && hasHandle(socket)) fds.push(dupHandle(socket))
    return fds
  }

  /** The update did not happen: goes on where it was. */
  async resume(): Promise<void> {
    this.#quiet = false
    if (this.#listener && !hasHandle(this.server)) await listenOn(this.server, this.#listener.dup())
    this.#readOn()
    this.#still.clear()
    const held = this.#held ?? []
    this.#held = undefined
    for (const { event, args } of held) this.#onEvent(event, args)
  }

  /** The new version has everything. Resolves when what could not move has ended, or `limitMs` is over. */
  async release(limitMs: number): Promise<void> {
    this.#released = true
    // Never end(): that would say goodbye in the name of the new version.
    for (const socket of this.#still) socket.destroy()
    this.#still.clear()
    this.#readOn()
    for (const held of this.#held ?? []) this.#forward(held)
    const end = performance.now() + limitMs
    // The server's own timeout ends connections that are idle now.
    while (this.#connections.size > 0 && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
    }
    for (const socket of this.#connections.keys()) socket.destroy()
    this.#listener?.close()
  }

  /** Reads what it stopped reading: the connections held still, and those whose last answer came too late for that. */
  #readOn(): void {
    for (const socket of this.#http ? this.#connections.keys() : this.#still) {
      if (!this.#upgraded.has(socket) && !socket.destroyed && hasHandle(socket)) startReading(socket)
    }
  }

  // --- watching the server ------------------------------------------------------------------------------------------

  #onEvent(event: string | symbol, args: unknown[]): boolean {
    if (event === 'connection') this.#track(args[0] as Socket)
    else if (UPGRADE_EVENTS.has(event)) this.#upgraded.add((args[0] as IncomingMessage).socket)
    else if (this.#http && REQUEST_EVENTS.has(event)) {
      const [request, response] = args as [IncomingMessage, ServerResponse]
      if (this.#held) {
        if (this.#released) this.#forward({ event, args, request, response })
        else this.#held.push({ event, args, request, response })
        return true
      }
      this.#started(request.socket, response)
    }
    return this.#emit(event, ...args)
  }

  #track(socket: Socket): void {
    this.#connections.set(socket, new Map())
    socket.once('close', () => {
      this.#connections.delete(socket)
      this.#still.delete(socket)
      this.#wake()
    })
  }

  #started(socket: Socket, response: ServerResponse): void {
    const responses = this.#connections.get(socket)
    responses?.set(response, performance.now())
    this.#underWay += 1
    const ended = () => {
      if (!responses?.delete(response)) return
      this.#underWay -= 1
      // Once it is frozen nobody looks any more, and what comes next is held, or forwarded.
      if (!this.#quiet || this.#held) return
      // At once, before anything of a next request is read; whether that was right is seen when we look.
      if (responses.size === 0 && !socket.destroyed) stopReading(socket)
      if (this.#underWay === 0) this.#wake()
    }
    response.once('finish', ended)
    response.once('close', ended)
  }

  /** Connections that have to become idle before all is quiet. */
  #waiting(): Socket[] {
    return [...this.#connections.keys()].filter((socket) => !this.#still.has(socket) && !this.#drains(socket))
  }

  /** Until when this connection may keep all others waiting. */
  #waitsUntil(socket: Socket, begunAt: number, limitMs: number, longMs: number): number {
    const latest = begunAt + limitMs
    // Whether the program is in the middle of something, only the program knows.
    if (!this.#http) return latest
    const responses = [...(this.#connections.get(socket) ?? [])]
    if (responses.some(([{ req }]) => !SAFE_METHODS.has(req.method))) return latest
    // Without a response it has a part of a request, or still sends an answer.
    return Math.min(latest, longMs + Math.max(...(responses.length > 0 ? responses.map(([, at]) => at) : [begunAt])))
  }

  /** Will not move, whatever we wait for. */
  #drains(socket: Socket): boolean {
    return this.#upgraded.has(socket) || (!this.#http && !this.#movable)
  }

  #holdStill(): void {
    const waiting = this.#waiting().filter((socket) => !socket.destroyed && hasHandle(socket))
    const between = this.#between()
    for (const socket of waiting) {
      if (this.#connections.get(socket)?.size !== 0) continue
      if (!between(socket)) startReading(socket)
      // What it still has to send is in this process.
      else if (socket.writableLength === 0) {
        stopReading(socket)
        this.#still.add(socket)
      }
    }
  }

  /** Tells whether all that was received on a connection is answered, and nothing of a next request is here. */
  #between(): (socket: Socket) => boolean {
    if (!this.#http) return (socket) => socket.readableLength === 0 && this.#movable?.(socket) === true
    const idle = betweenRequests(this.#http, [...this.#connections.keys()])
    return (socket) => idle.has(socket) || socket.bytesRead === 0
  }

  #refuseUnfinished(limitMs: number): void {
    const unfinished: string[] = []
    for (const [socket, responses] of this.#connections) {
      if (this.#still.has(socket) || this.#drains(socket)) continue
      for (const { req, headersSent } of responses.keys()) {
        if (!headersSent && !SAFE_METHODS.has(req.method)) unfinished.push(`${req.method} ${req.url}`)
      }
    }
    if (unfinished.length === 0) return
    const named = unfinished.slice(0, MAX_NAMED).join(', ')
    throw new Refusal(`${unfinished.length} requests are still not answered after ${limitMs} ms: ${named}`)
  }

  /** A request that came whole too late for this version. */
  #forward({ request, response }: Held): void {
    const target = this.#path === undefined ? tcpTarget(this.#address) : { socketPath: this.#path }
    const { method, url, headers } = request
    const { expect, ...others } = headers
    if (expect !== undefined) response.writeContinue()
    const options = { ...target, method, path: url, headers: { ...others, connection: 'close' }, agent: false }
    const forwarded = httpRequest(options, (answer) => {
      // This connection ends with the answer: the next one reaches the new version by itself.
      response.writeHead(answer.statusCode ?? 502, { ...answer.headers, connection: 'close' })
      answer.pipe(response)
    })
    forwarded.once('error', () => {
      if (response.headersSent) response.destroy()
      else response.writeHead(502, { connection: 'close' }).end()
    })
    request.pipe(forwarded)
  }
}

function tcpTarget(address: AddressInfo | undefined): { host?: string; port?: number } {
  if (!address) return {}
  const anywhere: Record<string, string> = { '::': '::1', '0.0.0.0': '127.0.0.1' }
  return { host: anywhere[address.address] ?? address.address, port: address.port }
}

/**
 * Node's own list of connections with no request in progress, which knows of requests received in part. The only way
 * to it is `closeIdleConnections`, so for one call closing means noting down. `all`: every connection of the server.
 */
function betweenRequests(server: HttpServer, all: readonly Socket[]): Set<Socket> {
  const found = new Set<Socket>()
  for (const socket of all) {
    socket.destroy = () => {
      found.add(socket)
      return socket
    }
  }
  try {
    server.closeIdleConnections()
  } finally {
    for (const socket of all) Reflect.deleteProperty(socket, 'destroy')
  }
  return found
}
