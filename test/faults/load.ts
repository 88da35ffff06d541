/**
 * Requests at random, for tests in which luod is killed: sessions whose files come and go, and what of it was
 * acknowledged. A request that is repeated, and executed twice, fails here: its token is there already, or not any
 * more.
 */
import { openSession } from '../../src/client/index.js'
import type { LiveSession } from '../../src/client/types.js'
import { Fd } from '../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../src/sys/memfd.js'
import { inheritStdio } from '../../src/sys/node.js'

const MOST_FILES = 24
const KEEP_MS = 60_000
/** Between two requests: others want the processor too. */
const PAUSE_MS = 3

class Writer {
  readonly #session: LiveSession
  readonly #random: () => number
  /** What was acknowledged. */
  readonly files = new Map<number, string>()
  #next = 0
  #pausing = false
  #running: Promise<void> | undefined

  constructor(session: LiveSession, random: () => number) {
    this.#session = session
    this.#random = random
  }

  resume(): void {
    this.#pausing = false
    this.#running = this.#run()
    // It is told by `pause`.
    this.#running.catch(() => {})
  }

  pause(): Promise<void> | undefined {
    this.#pausing = true
    return this.#running
  }

  close(): void {
    this.#pausing = true
    this.#session.close()
  }

  /** What is there, as `token content` of each file. */
  async there(): Promise<string[]> {
    const tokens = await this.#session.tokens()
    return Promise.all(tokens.map(async (token) => `${token} ${await this.#contentOf(token)}`))
  }

  get acknowledged(): string[] {
    return [...this.files].map(([token, text]) => `${token} ${text}`)
  }

  async #run(): Promise<void> {
    while (!this.#pausing) {
      const tokens = [...this.files.keys()]
      const one = tokens[Math.floor(this.#random() * tokens.length)]
      if (one !== undefined && this.#random() * MOST_FILES < tokens.length) {
        await this.#session.unpreserve(one)
        this.files.delete(one)
      } else await this.#preserve()
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
  }

  async #preserve(): Promise<void> {
    const token = this.#next++
    const text = `${this.#session.name} ${token} ${this.#random()}`
    using fd = createMemfd('load')
    writeAt(fd, Buffer.from(text), 0)
    await this.#session.preserve(token, inheritStdio(fd))
    this.files.set(token, text)
  }

  async #contentOf(token: bigint): Promise<string> {
    using fd = Fd.adopt(await this.#session.retrieve(token))
    const bytes = new Uint8Array(256)
    return Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString()
  }
}

export class Load {
  readonly writers: readonly Writer[]

  static async start(socket: string, random: () => number, count = 3): Promise<Load> {
    const names = Array.from({ length: count }, (_, index) => `load-${index}`)
    const sessions = await Promise.all(names.map((name) => openSession(name, { socket, keepMs: KEEP_MS })))
    const load = new Load(sessions.map((session) => new Writer(session, random)))
    load.resume()
    return load
  }

  private constructor(writers: readonly Writer[]) {
    this.writers = writers
  }

  resume(): void {
    for (const writer of this.writers) writer.resume()
  }

  /** Resolves when nothing is under way; rejects when a request has failed. */
  async pause(): Promise<void> {
    await Promise.all(this.writers.map((writer) => writer.pause()))
  }

  close(): void {
    for (const writer of this.writers) writer.close()
  }
}
