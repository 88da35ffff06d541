/**
 * Makes requests safe to repeat: the same id again, from the same user and with the same content, gets the same answer
 * and does nothing twice, also while the first is still under way. A request that failed has done nothing, so it is
 * not remembered. The same id with another content is LUO_REPEATED.
 *
 * What a request has changed is committed with its answer, in one transaction: a luod after this one has done the
 * request and knows the answer, or neither.
 */
import { createHash } from 'node:crypto'
import type { AnswerRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { Journal } from './journal.js'
import { checkText, LIMITS } from './limits.js'

interface Known {
  /** Not the request itself: one with 253 files has 12 KB. */
  request: string
  answer: Promise<unknown>
  /** Key of its record. */
  key: string | undefined
  onForgotten: (() => void) | undefined
  underWay: (() => boolean) | undefined
}

/** What concerns an answer that a luod before this one gave. */
export type RestoredAnswer = Partial<Pick<Known, 'onForgotten' | 'underWay'>>

export interface AnswerOptions<T> {
  /**
   * What is recorded of it; the answer itself, unless it is said. Undefined: nothing, since a luod after this one answers
   * the request anew.
   */
  record?: (answer: T) => Pick<AnswerRecord, 'output' | 'updates' | 'group'> | undefined
  /** It will not be asked for any more. */
  onForgotten?: (answer: T) => void
  /** Whether what was begun is not over yet: until it is, the answer is kept, however many came after it. */
  underWay?: (answer: T) => boolean
}

export class Answers {
  readonly #journal: Pick<Journal, 'commit' | 'add'>
  /** By user, then by id, oldest first. */
  readonly #users = new Map<number, Map<string, Known>>()
  #nextKey = 1n

  constructor(journal: Pick<Journal, 'commit' | 'add'> = { commit: () => {}, add: () => {} }) {
    this.#journal = journal
  }

  once<T>(
    uid: number,
    method: string,
    input: { id: string },
    run: () => T | Promise<T>,
    options: AnswerOptions<T> = {},
  ): Promise<T> {
    const id = checkText('id', input.id, LIMITS.id_bytes)
    const request = digest(`${method} ${JSON.stringify(input)}`)
    const answers = this.#of(uid)
    const before = answers.get(id)
    if (before) {
      if (before.request === request) return before.answer as Promise<T>
      throw new LuoError('LUO_REPEATED', `${method}: the id ${id} was used for another request`)
    }
    const known: Known = {
      request,
      answer: Promise.resolve(),
      key: undefined,
      onForgotten: undefined,
      underWay: undefined,
    }
    answers.set(id, known)
    const answer = this.#answer(known, { uid, id, method }, run, options)
    known.answer = answer
    answer.catch(() => answers.delete(id))
    this.#forgetOldest(answers)
    return answer
  }

  /** What was answered before, by a luod before this one. In the order of the keys. */
  restore(key: string, { uid, id, digest: request }: AnswerRecord, answer: unknown, more: RestoredAnswer = {}): void {
    this.startKeysAt(BigInt(key) + 1n)
    const { onForgotten, underWay } = more
    this.#of(uid).set(id, { request, answer: Promise.resolve(answer), key, onForgotten, underWay })
  }

  /** Keys from this one on are free. */
  startKeysAt(key: bigint): void {
    if (key > this.#nextKey) this.#nextKey = key
  }

  async #answer<T>(
    known: Known,
    about: { uid: number; id: string; method: string },
    run: () => T | Promise<T>,
    { record = (output) => ({ output }), onForgotten, underWay }: AnswerOptions<T>,
  ): Promise<T> {
    const running = run()
    // What is answered at once is committed at once, before anything else happens.
    const answer = running instanceof Promise ? await running : running
    if (onForgotten) known.onForgotten = () => onForgotten(answer)
    if (underWay) known.underWay = () => underWay(answer)
    const value = record(answer)
    const change: Change[] = []
    if (value && this.#users.get(about.uid)?.get(about.id) === known) {
      known.key = String(this.#nextKey++)
      const { uid, id, method } = about
      const answered: AnswerRecord = { uid, id, method, digest: known.request, ...value }
      change.push({ type: 'answer', key: known.key, value: answered })
    }
    this.#journal.commit(change)
    return answer
  }

  #forgetOldest(answers: Map<string, Known>): void {
    let looks = answers.size
    for (const [id, known] of answers) {
      if (answers.size <= LIMITS.answers || looks-- === 0) break
      const { key, onForgotten, underWay } = known
      answers.delete(id)
      // It counts as new, so that nobody has to look at it again soon.
      if (underWay?.()) {
        answers.set(id, known)
        continue
      }
      if (key !== undefined) this.#journal.add([{ type: 'answer', key, value: undefined }])
      onForgotten?.()
    }
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
