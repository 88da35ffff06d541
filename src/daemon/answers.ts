/**
 * Makes requests safe to repeat: the same id again, from the same user and with the same content, gets the same answer
 * and does nothing twice, also while the first is still under way. A request that failed has done nothing, so it is
 * not remembered. The same id with another content is LUO_REPEATED.
 *
 * The answers of one user are limited in number and in bytes; the oldest are forgotten. A request that is under way is
 * not: when as many are, the next one is LUO_LIMIT. What is repeated when it is forgotten is a new request, and mostly
 * refused, since what it asks for is done.
 *
 * What a request has changed is committed with its answer, in one transaction: a luod after this one has done the
 * request and knows the answer, or neither.
 */
import { createHash } from 'node:crypto'
import type { AnswerRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { Journal, Recorded } from './journal.js'
import { checkText, LIMITS } from './limits.js'

interface Known {
  /** Not the request itself: one with 253 files has 12 KB. */
  request: string
  answer: Promise<unknown>
  /** What it takes; undefined while it is under way. */
  bytes: number | undefined
  /** Key of its record. */
  key: string | undefined
  onForgotten: (() => void) | undefined
  underWay: (() => boolean) | undefined
}

interface User {
  /** By id, oldest first. */
  readonly answers: Map<string, Known>
  bytes: number
  underWay: number
}

/** Of each answer: its id, its digest, and what a map takes. */
const ANSWER_BYTES = 512
/** Of an update that an answer follows: its timeline, with a reason or two. */
const UPDATE_BYTES = 4_096

/** What concerns an answer that a luod before this one gave. */
export type RestoredAnswer = Partial<Pick<Known, 'onForgotten' | 'underWay'>>

export interface AnswerOptions<T> {
  /**
   * What is recorded of it; the answer itself, unless it is said. Undefined: nothing, since a luod after this one
   * answers the request anew.
   */
  record?: (answer: T) => Pick<AnswerRecord, 'output' | 'updates' | 'group'> | undefined
  /** What is kept for it, when that is not the answer as JSON. `request`: bytes of that as JSON. */
  bytes?: (answer: T, request: number) => number
  /** Somebody acts on it already: it is answered although it cannot be recorded now, and is with the next commit. */
  stands?: (answer: T) => boolean
  /** What was begun cannot be recorded, so the request fails: nothing shall come of it. */
  undo?: (answer: T) => void
  /** It will not be asked for any more. */
  onForgotten?: (answer: T) => void
  /** Whether what was begun is not over yet: until it is, the answer is kept, however many came after it. */
  underWay?: (answer: T) => boolean
}

const NO_JOURNAL: Pick<Journal, 'commit' | 'touch'> = { commit: () => {}, touch: () => {} }

export class Answers {
  readonly #journal: Pick<Journal, 'commit' | 'touch'>
  readonly #users = new Map<number, User>()
  #nextKey = 1n
  /** Of the answer that could not be recorded last: the next one gets it. */
  #freeKey: string | undefined
  /** Whether that answer is in the transaction that comes next depends on where this one has failed. */
  readonly #unrecorded: Recorded = {
    changes: () => (this.#freeKey === undefined ? [] : [{ type: 'answer', key: this.#freeKey, value: undefined }]),
  }

  constructor(journal: Pick<Journal, 'commit' | 'touch'> = NO_JOURNAL) {
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
    const text = `${method} ${JSON.stringify(input)}`
    const request = digest(text)
    const user = this.#of(uid)
    const before = user.answers.get(id)
    if (before) {
      if (before.request === request) return before.answer as Promise<T>
      throw new LuoError('LUO_REPEATED', `${method}: the id ${id} was used for another request`)
    }
    if (user.underWay >= LIMITS.answers) {
      throw new LuoError('LUO_LIMIT', `${method}: ${user.underWay} requests of uid ${uid} are under way: wait for some`)
    }
    const known: Known = {
      request,
      answer: Promise.resolve(),
      bytes: undefined,
      key: undefined,
      onForgotten: undefined,
      underWay: undefined,
    }
    user.answers.set(id, known)
    const about = { uid, id, method, requestBytes: Buffer.byteLength(text) }
    const answer = this.#answer(user, known, about, run, options)
    known.answer = answer
    answer.catch(() => {
      user.answers.delete(id)
      user.bytes -= known.bytes ?? 0
    })
    return answer
  }

  /** What was answered before, by a luod before this one. In the order of the keys. */
  restore(key: string, record: AnswerRecord, answer: unknown, { onForgotten, underWay }: RestoredAnswer = {}): void {
    const { uid, id, digest: request, updates, output } = record
    this.startKeysAt(BigInt(key) + 1n)
    const bytes = ANSWER_BYTES + (updates ? updateBytes(updates.length) : jsonBytes(output))
    const user = this.#of(uid)
    user.answers.set(id, { request, answer: Promise.resolve(answer), bytes, key, onForgotten, underWay })
    user.bytes += bytes
  }

  /** Keys from this one on are free. */
  startKeysAt(key: bigint): void {
    if (key > this.#nextKey) this.#nextKey = key
  }

  async #answer<T>(
    user: User,
    known: Known,
    { uid, id, method, requestBytes }: { uid: number; id: string; method: string; requestBytes: number },
    run: () => T | Promise<T>,
    { record = (output) => ({ output }), bytes = jsonBytes, stands, undo, onForgotten, underWay }: AnswerOptions<T>,
  ): Promise<T> {
    user.underWay += 1
    try {
      const running = run()
      // What is answered at once is committed at once, before anything else happens.
      const answer = running instanceof Promise ? await running : running
      if (onForgotten) known.onForgotten = () => onForgotten(answer)
      if (underWay) known.underWay = () => underWay(answer)
      const value = record(answer)
      const change: Change[] = []
      if (value) {
        known.key = this.#freeKey ?? String(this.#nextKey++)
        this.#freeKey = undefined
        const answered: AnswerRecord = { uid, id, method, digest: known.request, ...value }
        change.push({ type: 'answer', key: known.key, value: answered })
      }
      known.bytes = ANSWER_BYTES + bytes(answer, requestBytes)
      user.bytes += known.bytes
      this.#forgetOldest(user, known)
      try {
        this.#journal.commit(change)
      } catch (error) {
        if (!stands?.(answer)) {
          this.#freeKey = known.key ?? this.#freeKey
          this.#journal.touch(this.#unrecorded)
          undo?.(answer)
          throw error
        }
        this.#journal.touch({ changes: () => change })
      }
      return answer
    } finally {
      user.underWay -= 1
    }
  }

  /** Until there is room for this one. */
  #forgetOldest(user: User, newest: Known): void {
    let looks = user.answers.size
    for (const [id, known] of user.answers) {
      if (user.answers.size <= LIMITS.answers && user.bytes <= LIMITS.answers_bytes) break
      if (looks-- === 0) break
      if (known.bytes === undefined || known === newest) continue
      user.answers.delete(id)
      // It counts as new, so that nobody has to look at it again soon.
      if (known.underWay?.()) {
        user.answers.set(id, known)
        continue
      }
      user.bytes -= known.bytes
      const last: Change[] = known.key === undefined ? [] : [{ type: 'answer', key: known.key, value: undefined }]
      this.#journal.touch({ changes: () => last })
      known.onForgotten?.()
    }
  }

  #of(uid: number): User {
    let user = this.#users.get(uid)
    if (!user) {
      user = { answers: new Map(), bytes: 0, underWay: 0 }
      this.#users.set(uid, user)
    }
    return user
  }
}

/** Of an answer that follows so many updates, until they are forgotten with it. */
export function updateBytes(updates: number): number {
  return updates * UPDATE_BYTES
}

function jsonBytes(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value) ?? '')
}

function digest(request: string): string {
  return createHash('sha256').update(request).digest('base64')
}
