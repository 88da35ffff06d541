/**
 * The luod of a soak test, which is killed and upgraded, and so is its standby. One at a time: each begins when luod
 * has a standby, since without one a crash loses everything, as the documentation says.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { isLuoError } from '../../src/errors.js'
import type { Methods } from '../../src/protocol/types.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { WAIT_LIMIT_MS, WAIT_MS } from './limits.js'

type Status = Methods['Status']['output']

export type Strike = 'luod' | 'standby' | 'upgrade'

export class Luod {
  readonly socket: string
  readonly #onProblem: (problem: string) => void
  #last: Promise<unknown> = Promise.resolve()
  /** How often another process has become luod. */
  replaced = 0
  kills = 0
  upgrades = 0

  constructor(socket: string, onProblem: (problem: string) => void) {
    this.socket = socket
    this.#onProblem = onProblem
  }

  /** Alone, from a whole luod to a whole luod. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last
    const now = (async () => {
      await before.catch(() => {})
      await this.whole()
      return work()
    })()
    this.#last = now
    return now
  }

  /** Resolves when whoever is luod then answers: it may have no standby yet. For use in `alone`. */
  async strike(what: Strike): Promise<void> {
    const { pid, protection } = await this.whole()
    if (what === 'standby') {
      process.kill(protection.pid ?? 0, 'SIGKILL')
      this.kills += 1
      // luod counts as protected until it has seen that.
      await this.#until((now) => now.protection.pid !== protection.pid)
      return
    }
    this.replaced += 1
    if (what === 'upgrade') {
      await this.#upgrade()
      this.upgrades += 1
    } else {
      process.kill(pid, 'SIGKILL')
      this.kills += 1
    }
    const { takeover } = await this.#until((status) => status.pid !== pid)
    const findings = takeover?.findings ?? 0
    if (findings > 0) this.#onProblem(`after a ${what} ${findings} records or descriptors were missing`)
  }

  whole(): Promise<Status> {
    return this.#until(({ protection }) => protection.ready)
  }

  async #upgrade(): Promise<void> {
    const client = await VarlinkClient.connect(this.socket)
    let ready = false
    try {
      for await (const { parameters } of client.stream('Upgrade', { id: randomUUID() })) {
        ready ||= parameters.phase === 'ready'
      }
    } catch (error) {
      // The end of the connection is the end of the luod that was asked.
      if (!ready || !isLuoError(error, 'LUO_GONE')) throw error
    } finally {
      client.close()
    }
  }

  async #until(good: (status: Status) => boolean): Promise<Status> {
    const end = performance.now() + WAIT_LIMIT_MS
    for (;;) {
      const status = await this.#status()
      if (status && good(status)) return status
      if (performance.now() > end) throw new Error(`luod is not as it should be: ${JSON.stringify(status)}`)
      await sleep(WAIT_MS)
    }
  }

  /** undefined when nobody answers. */
  async #status(): Promise<Status | undefined> {
    try {
      const client = await VarlinkClient.connect(this.socket)
      try {
        return (await client.call('Status', {})).parameters
      } finally {
        client.close()
      }
    } catch {
      return undefined
    }
  }
}
