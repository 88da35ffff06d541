/** A program with a session of its own, that comes and goes, and what luod has acknowledged of it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { openSession } from '../../src/client/index.js'
import type { LiveSession } from '../../src/client/types.js'
import { Fd } from '../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../src/sys/memfd.js'
import { inheritStdio } from '../../src/sys/node.js'
import { WAIT_LIMIT_MS } from './limits.js'
import type { Random } from './random.js'

const MAX_TOKENS = 12
const MAX_TOKEN = 1_000_000
const MAX_PAUSE_MS = 40
const TEXT_BYTES = 64

export class Program {
  readonly #socket: string
  readonly #name: string
  readonly #random: Random
  readonly #onLost: (why: string) => void
  readonly #model = new Map<number, string>()
  #life = 0
  checks = 0

  constructor(socket: string, name: string, random: Random, onLost: (why: string) => void) {
    this.#socket = socket
    this.#name = name
    this.#random = random
    this.#onLost = onLost
  }

  async run(ended: () => boolean): Promise<void> {
    let session = await this.#open()
    while (!ended()) {
      if (await this.#step(session)) {
        await this.#check(session)
        session.close()
        session = await this.#open()
      }
      await sleep(this.#random.between(0, MAX_PAUSE_MS))
    }
    await this.#check(session)
    session.close()
  }

  async #open(): Promise<LiveSession> {
    this.#model.clear()
    const name = `${this.#name}-${this.#life++}`
    return openSession(name, { socket: this.#socket, reconnectMs: WAIT_LIMIT_MS })
  }

  /** Answers whether it leaves. */
  async #step(session: LiveSession): Promise<boolean> {
    const tokens = [...this.#model.keys()]
    const known = tokens.length > 0 ? this.#random.pick(tokens) : undefined
    const what = this.#random.weighted([
      [tokens.length < MAX_TOKENS ? 40 : 0, 'preserve'],
      [30, 'retrieve'],
      [20, 'unpreserve'],
      [10, 'check'],
      [2, 'leave'],
    ] as const)
    if (what === 'preserve') await this.#preserve(session)
    else if (what === 'check') await this.#check(session)
    else if (known !== undefined && what === 'retrieve') await this.#compare(session, known)
    else if (known !== undefined && what === 'unpreserve') {
      await session.unpreserve(known)
      this.#model.delete(known)
    }
    return what === 'leave'
  }

  async #preserve(session: LiveSession): Promise<void> {
    const token = this.#random.between(1, MAX_TOKEN)
    if (this.#model.has(token)) return
    const text = `${this.#name} ${token} ${this.#random.next()}`
    using fd = createMemfd('soak')
    writeAt(fd, Buffer.from(text), 0)
    await session.preserve(token, inheritStdio(fd))
    this.#model.set(token, text)
  }

  async #compare(session: LiveSession, token: number): Promise<void> {
    this.checks += 1
    using fd = Fd.adopt(await session.retrieve(token))
    const bytes = new Uint8Array(TEXT_BYTES)
    const text = Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString()
    if (text !== this.#model.get(token)) this.#onLost(`${this.#name}: token ${token} has "${text}"`)
  }

  async #check(session: LiveSession): Promise<void> {
    this.checks += 1
    const has = (await session.tokens()).map(Number).sort((a, b) => a - b)
    const should = [...this.#model.keys()].sort((a, b) => a - b)
    if (has.join() === should.join()) return
    this.#onLost(`${this.#name}: it has the tokens ${has.join()}, and ${should.join()} were acknowledged`)
  }
}
