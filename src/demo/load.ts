/**
 * The load generator: many keep-alive connections at one fixed overall rate, most requests reads, some writes, each
 * answer compared with what it must be. It runs in a process of its own (`load-main.ts`), so that nothing the harness
 * does slows it down.
 *
 * It accounts for everything: `sent` = `answered` + `failed` + `crash.requests` + those under way; a connection that
 * ends without having been closed here is lost, and it stays lost: nothing reconnects. Only while the harness has
 * announced a crash of the service are losses counted apart, and only then `replace` opens connections again.
 */
import { HttpConnection } from './http-connection.js'
import { Losses, type LossStats } from './losses.js'

export interface LoadOptions {
  port: number
  connections: number
  /** Requests a second over all connections. */
  rate: number
}

export interface LoadStats extends LossStats {
  sent: number
  answered: number
  /** Requests that were due and not sent, because every connection was waiting for an answer. */
  held: number
  opened: number
}

const TICK_MS = 2
/** Due requests that wait for a free connection; more are let go, or the end of a pause would measure a flood. */
const MAX_BACKLOG = 64
const WRITE_EVERY = 5
const STOP_LIMIT_MS = 10_000

interface Client {
  id: number
  connection: HttpConnection
  requests: number
  key: string | undefined
  value: string
}

export class LoadGenerator {
  readonly #options: LoadOptions
  readonly #clients: Client[] = []
  readonly #losses = new Losses()
  readonly #stats: Omit<LoadStats, keyof LossStats> = { sent: 0, answered: 0, held: 0, opened: 0 }
  #timer: NodeJS.Timeout | undefined
  #startedAt = 0
  #due = 0
  #backlog = 0
  #turn = 0
  #underWay = 0
  #lastAnswerAt = 0
  #longestGapMs = 0

  constructor(options: LoadOptions) {
    this.#options = options
  }

  async start(): Promise<void> {
    while (this.#clients.length < this.#options.connections) await this.#addClient()
    this.#startedAt = performance.now()
    this.#lastAnswerAt = this.#startedAt
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  /** Sends nothing more, waits for what is under way, closes. What is not answered in time has failed. */
  async stop(): Promise<LoadStats> {
    clearInterval(this.#timer)
    const limit = performance.now() + STOP_LIMIT_MS
    while (this.#underWay > 0 && performance.now() < limit) await new Promise((resolve) => setTimeout(resolve, 5))
    for (const { connection } of this.#clients) connection.close()
    await new Promise((resolve) => setTimeout(resolve, 20))
    return this.stats()
  }

  stats(): LoadStats {
    return { ...this.#stats, ...this.#losses.stats() }
  }

  /** From here on the longest time without any answer is measured. */
  markGap(): void {
    this.#longestGapMs = 0
    this.#lastAnswerAt = performance.now()
  }

  /** The longest time between two answers that followed each other, since `markGap`. */
  gap(): number {
    return Math.max(this.#longestGapMs, performance.now() - this.#lastAnswerAt)
  }

  /** The service is about to be killed on purpose (true), or is back and its connections are replaced (false). */
  expectCrash(expected: boolean): void {
    this.#losses.expectCrash(expected)
  }

  async replace(): Promise<number> {
    const lost = this.#clients.filter(({ connection }) => !connection.open)
    for (const client of lost) {
      this.#clients.splice(this.#clients.indexOf(client), 1)
      await this.#addClient()
    }
    return lost.length
  }

  async #addClient(): Promise<void> {
    const id = this.#stats.opened++
    const connection = await HttpConnection.open(this.#options.port, (reason) =>
      this.#losses.connectionLost(`connection ${id}`, reason),
    )
    this.#clients.push({ id, connection, requests: 0, key: undefined, value: '' })
  }

  #tick(): void {
    const due = Math.floor(((performance.now() - this.#startedAt) * this.#options.rate) / 1000)
    this.#backlog += due - this.#due
    this.#due = due
    if (this.#backlog > MAX_BACKLOG) {
      this.#stats.held += this.#backlog - MAX_BACKLOG
      this.#backlog = MAX_BACKLOG
    }
    for (let looked = 0; looked < this.#clients.length && this.#backlog > 0; looked++) {
      this.#turn = (this.#turn + 1) % this.#clients.length
      const client = this.#clients[this.#turn]
      if (!client?.connection.idle) continue
      this.#backlog -= 1
      void this.#send(client)
    }
  }

  async #send(client: Client): Promise<void> {
    const write = client.key === undefined || client.requests % WRITE_EVERY === 0
    client.requests += 1
    const key = `load-${client.id}`
    const value = write ? `${client.id}:${client.requests}:${'x'.repeat(client.requests % 200)}` : client.value
    const method = write ? 'PUT' : 'GET'
    this.#stats.sent += 1
    this.#underWay += 1
    try {
      const answer = await client.connection.request(method, `/kv/${key}`, value)
      this.#answered()
      if (write ? answer.status === 204 : answer.status === 200 && answer.body.toString() === value) {
        this.#stats.answered += 1
        client.key = key
        client.value = value
      } else this.#losses.wrongAnswer(`${method} ${key}`, answer)
    } catch (error) {
      this.#losses.unanswered(`${method} ${key}`, error)
    } finally {
      this.#underWay -= 1
    }
  }

  #answered(): void {
    const now = performance.now()
    this.#longestGapMs = Math.max(this.#longestGapMs, now - this.#lastAnswerAt)
    this.#lastAnswerAt = now
  }
}
