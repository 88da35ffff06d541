/**
 * What each user has of what is limited. Counted as it comes and goes, so that a request costs the same however much
 * there is. Whoever adds something asks `check` first, which throws LUO_LIMIT and changes nothing.
 */
import { LuoError } from '../errors.js'
import { LIMIT_NAMES, type LimitName, type UserLimits } from './user-limits.js'

export type Counts = Record<LimitName, number>

const NOTHING: Readonly<Counts> = { connections: 0, workloads: 0, sessions: 0, files: 0, bytes: 0, watchers: 0 }

export class Usage {
  readonly limits: UserLimits
  /** Only those who have something. */
  readonly #users = new Map<number, Counts>()
  readonly #total: Counts = { ...NOTHING }

  constructor(limits: UserLimits) {
    this.limits = limits
  }

  /** What all users have together. */
  get total(): Readonly<Counts> {
    return this.#total
  }

  of(uid: number): Readonly<Counts> {
    return this.#users.get(uid) ?? NOTHING
  }

  /** Everybody who has something. */
  users(): IterableIterator<number> {
    return this.#users.keys()
  }

  /** LUO_LIMIT when `uid` may not have `more` of it. */
  check(uid: number, what: LimitName, more: number, action: string): void {
    const has = this.of(uid)[what]
    const limit = this.limits[what]
    if (has + more <= limit) return
    throw new LuoError(
      'LUO_LIMIT',
      `${action}: uid ${uid} has ${has} of ${limit} ${what}, and ${more} more would be over the limit; ` +
        `let go of some, or start luod with --limit ${what}=N`,
      { params: { limit: what } },
    )
  }

  /** `by` is negative for what goes. */
  change(uid: number, what: LimitName, by: number): void {
    const counts = this.#users.get(uid) ?? { ...NOTHING }
    counts[what] += by
    this.#total[what] += by
    if (LIMIT_NAMES.every((name) => counts[name] === 0)) this.#users.delete(uid)
    else this.#users.set(uid, counts)
  }
}
