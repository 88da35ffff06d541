/**
 * The calling side of the wire for whoever outlives luod: a connection that is lost is made again, and what was under
 * way is asked again, in the same order, with the same id and the same files. luod answers a request that it knows as
 * it did before, so nothing happens twice. A stream begins anew: its first replies may say what was said before.
 *
 * Whoever listens after a loss is checked as at first, and nobody there means: not yet. After `reconnectMs` without
 * luod, everything under way and everything after it fails with LUO_GONE. A connection that ends for another reason,
 * such as LUO_PROTOCOL, is not made again.
 */
import { LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { type Reply, VarlinkClient } from './client.js'

/** How long luod may be away. An upgrade takes less than one second, a restart by a service manager a few. */
export const DEFAULT_RECONNECT_MS = 10_000
/** The first attempts are quick: usually luod is there already. */
const FIRST_DELAYS_MS = [1, 2, 5, 10, 20, 50]
const DELAY_MS = 100
/**
 * A connection that ends sooner, without any answer, does not begin the time anew: luod may fall at what it is asked.
 */
const STABLE_MS = 1_000

export interface ReconnectOptions {
  /** 0: not at all. */
  reconnectMs?: number | undefined
  /** The connection is lost; attempts begin. */
  onLost?: (client: ReconnectingClient) => void
  /** How long a listener's full queue is waited for at first, in milliseconds. Default: 1,000. */
  queueMs?: number
}

interface Request {
  method: string
  send(client: VarlinkClient): void
  fail(error: LuoError): void
}

interface Waiter {
  resolve(client: VarlinkClient): void
  fail(error: LuoError): void
}

export class ReconnectingClient {
  readonly #path: string
  readonly #defaultMs: number
  #reconnectMs: number
  readonly #onLost: (client: ReconnectingClient) => void
  /** Undefined while luod is away. */
  #client: VarlinkClient | undefined
  #connectedAt = 0
  /** Since when nothing was heard of luod; undefined when it has answered since. */
  #lostAt: number | undefined
  #attempts = 0
  #timer: NodeJS.Timeout | undefined
  /** Why it has ended for good. */
  #error: LuoError | undefined
  #referenced = true
  /** In the order in which they were made. */
  readonly #underWay = new Set<Request>()
  /** Streams that wait for the next connection. */
  #waiters: Waiter[] = []
  #onClosed: (error: LuoError) => void = () => {}
  /** Resolves, with why, when it has ended for good. */
  readonly closed = new Promise<LuoError>((resolve) => {
    this.#onClosed = resolve
  })

  /** As `VarlinkClient.connect`: the first time luod has to be there. */
  static async connect(path: string, options: ReconnectOptions = {}): Promise<ReconnectingClient> {
    const connected = await VarlinkClient.connect(path, options.queueMs)
    const client = new ReconnectingClient(path, options)
    client.#use(connected)
    return client
  }

  /** For whoever knows that luod is, or was, there: it may be away just now. */
  static open(path: string, options: ReconnectOptions = {}): ReconnectingClient {
    const client = new ReconnectingClient(path, options)
    client.#lostAt = performance.now()
    void client.#tryNow(client.#lostAt)
    return client
  }

  private constructor(path: string, options: ReconnectOptions) {
    this.#path = path
    this.#defaultMs = options.reconnectMs ?? DEFAULT_RECONNECT_MS
    this.#reconnectMs = this.#defaultMs
    this.#onLost = options.onLost ?? (() => {})
  }

  /**
   * One request, one answer. `fds` stay the caller's, and stay open until there is an answer. An abort of `signal`
   * withdraws the request: it is not sent again, and fails with the signal's reason.
   */
  call<M extends keyof Methods>(
    method: M,
    input: Methods[M]['input'],
    fds: readonly Fd[] = [],
    signal?: AbortSignal,
  ): Promise<Reply<M>> {
    return new Promise((resolve, reject) => {
      if (this.#error) return reject(failed(method, this.#error))
      if (signal?.aborted) return reject(signal.reason)
      const end = () => {
        signal?.removeEventListener('abort', withdraw)
        return this.#underWay.delete(request)
      }
      const fail = (error: unknown) => {
        if (end()) reject(error)
      }
      const withdraw = () => fail(signal?.reason)
      const request: Request = {
        method,
        send: (client) => {
          client.call(method, input, fds).then(
            (reply) => {
              this.#heard()
              if (end()) resolve(reply)
              else closeAll(reply.fds)
            },
            (error) => {
              // What was lost with its connection is sent again on the next one.
              if (client.endedBy(error)) return
              this.#heard()
              fail(error)
            },
          )
        },
        fail,
      }
      signal?.addEventListener('abort', withdraw, { once: true })
      this.#underWay.add(request)
      if (this.#client && !this.#client.ended) request.send(this.#client)
    })
  }

  /** A request with many answers, asked again on each new connection. `onAgain` is called before it is. */
  async *stream<M extends keyof Methods>(
    method: M,
    input: Methods[M]['input'],
    onAgain: () => void = () => {},
  ): AsyncGenerator<Reply<M>, void, undefined> {
    for (;;) {
      const client = await this.#connected(method)
      try {
        for await (const reply of client.stream(method, input)) {
          this.#heard()
          yield reply
        }
        return
      } catch (error) {
        if (!client.endedBy(error)) throw error
      }
      onAgain()
    }
  }

  close(): void {
    this.#end(new LuoError('LUO_GONE', 'the connection to luod was closed'))
  }

  /** Whether a request failed with `error` because this has ended for good, and not because luod refused it. */
  endedBy(error: unknown): boolean {
    return this.#error !== undefined && error instanceof LuoError && [error, error.cause].includes(this.#error)
  }

  /** Of luod; undefined while it is away. */
  get pid(): number | undefined {
    return this.#client?.pid
  }

  /** How long luod may be away from here on, in milliseconds; without it as long as at first. */
  waitFor(ms?: number): void {
    this.#reconnectMs = ms ?? this.#defaultMs
  }

  /** Whether this connection keeps the process alive; it does unless told otherwise. */
  ref(): void {
    this.#referenced = true
    this.#client?.ref()
    this.#timer?.ref()
  }

  unref(): void {
    this.#referenced = false
    this.#client?.unref()
    this.#timer?.unref()
  }

  #use(client: VarlinkClient): void {
    this.#client = client
    this.#connectedAt = performance.now()
    if (!this.#referenced) client.unref()
    void client.closed.then((error) => this.#lost(client, error))
    for (const request of [...this.#underWay]) request.send(client)
    for (const { resolve } of this.#waiters.splice(0)) resolve(client)
  }

  #connected(method: string): Promise<VarlinkClient> {
    if (this.#error) return Promise.reject(failed(method, this.#error))
    if (this.#client && !this.#client.ended) return Promise.resolve(this.#client)
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, fail: (error) => reject(failed(method, error)) })
    })
  }

  #heard(): void {
    this.#lostAt = undefined
  }

  #lost(client: VarlinkClient, error: LuoError): void {
    if (this.#error || this.#client !== client) return
    this.#client = undefined
    if (error.code !== 'LUO_GONE') return this.#end(error)
    const now = performance.now()
    if (this.#lostAt === undefined || now - this.#connectedAt > STABLE_MS) {
      this.#lostAt = now
      this.#attempts = 0
    }
    this.#onLost(this)
    this.#tryLater(this.#lostAt, error)
  }

  #tryLater(lostAt: number, why: unknown): void {
    if (this.#error) return
    if (performance.now() - lostAt >= this.#reconnectMs) {
      const time =
        this.#reconnectMs > 0 ? `, and nobody answers at ${this.#path} for ${this.#reconnectMs / 1000} s` : ''
      return this.#end(new LuoError('LUO_GONE', `the connection to luod has ended${time}`, { cause: why }))
    }
    const delay = FIRST_DELAYS_MS[this.#attempts++] ?? DELAY_MS
    this.#timer = setTimeout(() => void this.#tryNow(lostAt), delay)
    if (!this.#referenced) this.#timer.unref()
  }

  async #tryNow(lostAt: number): Promise<void> {
    let client: VarlinkClient
    try {
      client = await VarlinkClient.connect(this.#path, 0)
    } catch (error) {
      // Nobody yet, or somebody whom we do not trust: luod may still come.
      return this.#tryLater(lostAt, error)
    }
    if (this.#error) client.close()
    else this.#use(client)
  }

  #end(error: LuoError): void {
    if (this.#error) return
    this.#error = error
    clearTimeout(this.#timer)
    this.#client?.close()
    for (const request of [...this.#underWay]) request.fail(failed(request.method, error))
    for (const { fail } of this.#waiters.splice(0)) fail(error)
    this.#onClosed(error)
  }
}

function failed(method: string, error: LuoError): LuoError {
  return new LuoError(error.code, `${method}: ${error.message}`, { cause: error })
}
