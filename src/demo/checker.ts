/**
 * The checker: writes keys that nobody else writes, over connections of its own, reads each one back at once, and
 * remembers every write that the service acknowledged. At the end it reads all of them again: what is missing or
 * different then is a lost write. A write that got no answer is not remembered: nothing was promised.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { HttpConnection } from './http-connection.js'
import { Losses, type LossStats } from './losses.js'

export interface CheckerStats extends LossStats {
  sent: number
  acknowledged: number
}

const CONNECTIONS = 4
/** Writes a second over all connections; each is followed by a read. */
const WRITES_PER_SECOND = 80

export class Checker {
  readonly #port: number
  readonly #acknowledged = new Map<string, string>()
  readonly #losses = new Losses()
  #sent = 0
  #running = false
  #back: { promise: Promise<void>; resolve: () => void } | undefined
  #workers: Promise<void>[] = []

  constructor(port: number) {
    this.#port = port
  }

  start(): void {
    this.#running = true
    this.#workers = Array.from({ length: CONNECTIONS }, (_, worker) =>
      this.#work(worker).catch((error) => this.#losses.failed('checker', error)),
    )
  }

  async stop(): Promise<void> {
    this.#running = false
    this.#back?.resolve()
    await Promise.all(this.#workers)
  }

  stats(): CheckerStats {
    return { ...this.#losses.stats(), sent: this.#sent, acknowledged: this.#acknowledged.size }
  }

  expectCrash(expected: boolean): void {
    this.#losses.expectCrash(expected)
    if (expected) {
      let resolve = () => {}
      const promise = new Promise<void>((settle) => {
        resolve = settle
      })
      this.#back = { promise, resolve }
    } else this.#back?.resolve()
  }

  /** For the proof that a lost write is seen: remembers a write that never happened. */
  remember(key: string, value: string): void {
    this.#acknowledged.set(key, value)
  }

  /** Reads every acknowledged write again; answers the keys of those that are gone. */
  async verify(): Promise<string[]> {
    const connection = await HttpConnection.open(this.#port, () => {})
    const lost: string[] = []
    try {
      for (const [key, value] of this.#acknowledged) {
        const answer = await connection.request('GET', `/kv/${key}`)
        if (answer.status !== 200 || answer.body.toString() !== value) lost.push(key)
      }
    } finally {
      connection.close()
    }
    return lost
  }

  async #work(worker: number): Promise<void> {
    let connection = await this.#connect()
    for (let n = 0; this.#running; n++) {
      const key = `check-${worker}-${n}`
      const value = `${key}:${Math.random().toString(36).slice(2)}`
      if (await this.#ask(connection, 'PUT', key, value)) {
        this.#acknowledged.set(key, value)
        await this.#ask(connection, 'GET', key, value)
      }
      if (!connection.open) {
        if (!this.#back) return
        await this.#back.promise
        connection = await this.#connect()
      }
      await sleep((1000 * CONNECTIONS) / WRITES_PER_SECOND)
    }
    connection.close()
  }

  #connect(): Promise<HttpConnection> {
    return HttpConnection.open(this.#port, (reason) => this.#losses.connectionLost("checker's connection", reason))
  }

  async #ask(connection: HttpConnection, method: 'GET' | 'PUT', key: string, value: string): Promise<boolean> {
    if (!connection.open) return false
    this.#sent += 1
    try {
      const answer = await connection.request(method, `/kv/${key}`, value)
      if (method === 'PUT' ? answer.status === 204 : answer.body.toString() === value) return true
      this.#losses.wrongAnswer(`${method} ${key}`, answer)
    } catch (error) {
      this.#losses.unanswered(`${method} ${key}`, error)
    }
    return false
  }
}
