/**
 * What the load generator and the checker lose. Nothing is forgiven but what ends while the harness has announced a
 * crash of the service: that is counted apart.
 */
import type { Answer } from './http-connection.js'

export interface LossStats {
  /** Requests that got no answer, or a wrong one. */
  failed: number
  /** Connections that ended and had not been closed here. */
  lost: number
  crash: { connections: number; requests: number }
  /** What went wrong, the first few. */
  errors: string[]
}

const MAX_ERRORS = 5

export class Losses {
  readonly #stats: LossStats = { failed: 0, lost: 0, crash: { connections: 0, requests: 0 }, errors: [] }
  #crashing = false

  stats(): LossStats {
    return structuredClone(this.#stats)
  }

  expectCrash(expected: boolean): void {
    this.#crashing = expected
  }

  connectionLost(connection: string, reason: string): void {
    if (this.#crashing) this.#stats.crash.connections += 1
    else {
      this.#stats.lost += 1
      this.#complain(`${connection}: ${reason}`)
    }
  }

  unanswered(request: string, error: unknown): void {
    if (this.#crashing) this.#stats.crash.requests += 1
    else this.failed(request, error)
  }

  /** Whether a crash was announced or not. */
  failed(what: string, error: unknown): void {
    this.#stats.failed += 1
    this.#complain(`${what}: ${error instanceof Error ? error.message : String(error)}`)
  }

  wrongAnswer(request: string, { status, body }: Answer): void {
    this.failed(request, `answer ${status} with ${body.length} bytes`)
  }

  #complain(text: string): void {
    if (this.#stats.errors.length < MAX_ERRORS) this.#stats.errors.push(text)
  }
}
