/**
 * Makes requests safe to repeat: the same id again, from the same user and with the same content, gets the same answer
 * and does nothing twice, also while the first is still under way. A request that failed has done nothing, so it is
 * not remembered. The same id with another content is LUO_REPEATED.
 */
import { createHash } from 'node:crypto'
import { LuoError } from '../errors.js'
import { checkText, LIMITS } from './limits.js'

interface Known {
  /** Not the request itself: one with 253 files has 12 KB. */
  request: string
  answer: Promise<unknown>
}

export class Answers {
  /** By user, then by id, oldest first. */
  readonly #users = new Map<number, Map<string, Known>>()

  once<T>(uid: number, method: string, input: { id: string }, run: () => T | Promise<T>): Promise<T> {
    const id = checkText('id', input.id, LIMITS.id_bytes)
    const request = digest(`${method} ${JSON.stringify(input)}`)
    const answers = this.#of(uid)
    const known = answers.get(id)
    if (known) {
      if (known.request === request) return known.answer as Promise<T>
      throw new LuoError('LUO_REPEATED', `${method}: the id ${id} was used for another request`)
    }
    const answer = (async () => run())()
    answers.set(id, { request, answer })
    answer.catch(() => answers.delete(id))
    for (const oldest of answers.keys()) {
      if (answers.size <= LIMITS.answers) break
      answers.delete(oldest)
    }
    return answer
  }

  #of(uid: number): Map<string, Known> {
    let answers = this.#users.get(uid)
    if (!answers) {
      answers = new Map()
      this.#users.set(uid, answers)
    }
    return answers
  }
}

function digest(request: string): string {
  return createHash('sha256').update(request).digest('base64')
}
