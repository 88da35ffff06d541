/** Where each session is found: by id and by name, of a user or for root of everybody; and pages of all. */
import { LuoError } from '../errors.js'
import { MAX_SESSIONS_PAGE } from '../protocol/interface.js'
import type { Holding } from './holding.js'
import { Listing, type PageRequest } from './listing.js'

interface User {
  readonly sessions: Map<string, Holding>
  readonly names: Map<string, Holding>
  readonly listing: Listing<Holding>
}

function newUser(): User {
  const sessions = new Map<string, Holding>()
  return { sessions, names: new Map(), listing: new Listing(sessions, MAX_SESSIONS_PAGE) }
}

export class SessionIndex {
  readonly #users = new Map<number, User>()
  readonly #all = new Map<string, Holding>()
  readonly #listing = new Listing(this.#all, MAX_SESSIONS_PAGE)

  get size(): number {
    return this.#all.size
  }

  all(): Iterable<Holding> {
    return this.#all.values()
  }

  add(holding: Holding): void {
    const { session, uid } = holding
    const user = this.#of(uid)
    this.#users.set(uid, user)
    this.#all.set(session.id, holding)
    user.sessions.set(session.id, holding)
    user.names.set(session.name, holding)
    this.#changed(user)
  }

  remove({ session, uid }: Holding): void {
    const user = this.#users.get(uid)
    if (!user) return
    this.#all.delete(session.id)
    user.sessions.delete(session.id)
    user.names.delete(session.name)
    if (user.sessions.size === 0) this.#users.delete(uid)
    this.#changed(user)
  }

  #changed(user: User): void {
    this.#listing.changed()
    user.listing.changed()
  }

  /** By id, whoever's. */
  find(id: string): Holding | undefined {
    return this.#all.get(id)
  }

  /** By id, of this user; for root of anybody. LUO_NOT_FOUND otherwise. */
  get(uid: number, id: string): Holding {
    const holding = this.#all.get(id)
    if (holding && (uid === 0 || holding.uid === uid)) return holding
    throw new LuoError('LUO_NOT_FOUND', `find the session ${id}: there is none`)
  }

  /** By name: the user's own; root also finds the only one of that name. */
  named(uid: number, name: string): Holding {
    const own = this.#users.get(uid)?.names.get(name)
    if (own) return own
    const found = uid === 0 ? [...this.#users.values()].flatMap(({ names }) => names.get(name) ?? []) : []
    const [other] = found
    if (other && found.length === 1) return other
    const why = found.length > 1 ? `${found.length} users have one` : 'there is none'
    throw new LuoError('LUO_NOT_FOUND', `find the session ${name}: ${why}`)
  }

  page(uid: number, request: PageRequest): { holdings: Holding[]; total: number } {
    const { sessions, listing } = uid === 0 ? { sessions: this.#all, listing: this.#listing } : this.#of(uid)
    return { holdings: listing.page(request), total: sessions.size }
  }

  #of(uid: number): User {
    return this.#users.get(uid) ?? newUser()
  }
}
