/**
 * The sessions of one generation, found by id, and by scope and name, in constant time. What it throws leaves it as it
 * was.
 */
import { MAX_SESSIONS } from '../abi/luo.js'
import { LuoError } from '../errors.js'
import { checkName } from './names.js'
import type { IncomingSession, OutgoingSession, Session, SessionToAdopt } from './session.js'

export class SessionTable<F, A> {
  readonly #sessions = new Map<string, Session<F, A>>()
  /** scope, NUL, name. An outgoing session may have the name of an incoming one. */
  readonly #outgoing = new Map<string, OutgoingSession<F, A>>()
  readonly #incoming = new Map<string, IncomingSession<F>>()
  #nextId = 1n

  get size(): number {
    return this.#sessions.size
  }

  get(id: string): Session<F, A> | undefined {
    return this.#sessions.get(id)
  }

  /** In order of creation. */
  outgoing(): Iterable<OutgoingSession<F, A>> {
    return this.#outgoing.values()
  }

  incoming(): Iterable<IncomingSession<F>> {
    return this.#incoming.values()
  }

  has(session: Session<F, A>): boolean {
    return this.#sessions.get(session.id) === session
  }

  /** A session that was released is nobody's, whoever still knows it. */
  mustHave(session: Session<F, A>, action: string): void {
    if (this.has(session)) return
    throw new LuoError('LUO_WRONG_STATE', `${action} in session ${session.name}: it has ended`)
  }

  /** ENOENT when none of this name was handed over, which goes for what is no name too. */
  handedOver(scope: string, name: string, action: string): IncomingSession<F> {
    const session = this.#incoming.get(keyOf(scope, name))
    if (session) return session
    throw new LuoError('ENOENT', `${action} session ${name}: none of this name was handed over`)
  }

  // --- ids -----------------------------------------------------------------------------------------------------------

  /** The id that the next session gets. */
  get nextId(): bigint {
    return this.#nextId
  }

  /** Ids from this one on are free. */
  startIdsAt(id: bigint): void {
    if (id > this.#nextId) this.#nextId = id
  }

  takeId(): string {
    return String(this.#nextId++)
  }

  // --- coming and going ----------------------------------------------------------------------------------------------

  /** EINVAL for a bad name, EEXIST when it is taken in this scope, ENOSPC when there are too many. */
  create(scope: string, name: string): OutgoingSession<F, A> {
    const key = keyOf(scope, checkName(name))
    if (this.#outgoing.has(key)) throw new LuoError('EEXIST', `create session ${name}: there is one of this name`)
    if (this.#outgoing.size >= MAX_SESSIONS) {
      throw new LuoError(
        'ENOSPC',
        `create session ${name}: there are ${this.#outgoing.size}, and no more can be recorded`,
      )
    }
    return this.#addOutgoing(key, { id: this.takeId(), scope, name, custody: 'held' })
  }

  /** A session as it was. EINVAL for a bad name, EEXIST when its name is taken in this scope, or its id. */
  adopt(known: SessionToAdopt): OutgoingSession<F, A> {
    const { id, scope, name } = known
    const key = keyOf(scope, checkName(name))
    if (this.#outgoing.has(key) || this.#sessions.has(id)) {
      throw new LuoError('EEXIST', `adopt session ${name}: there is one of this name, or with the id ${id}`)
    }
    this.startIdsAt(BigInt(id) + 1n)
    return this.#addOutgoing(key, known)
  }

  #addOutgoing(key: string, { id, name, scope, custody }: SessionToAdopt): OutgoingSession<F, A> {
    const session: OutgoingSession<F, A> = { id, name, scope, direction: 'outgoing', files: new Map(), custody }
    this.#sessions.set(id, session)
    this.#outgoing.set(key, session)
    return session
  }

  addIncoming(session: IncomingSession<F>): void {
    this.#sessions.set(session.id, session)
    this.#incoming.set(keyOf(session.scope, session.name), session)
  }

  remove(session: Session<F, A>): void {
    const sessions = session.direction === 'incoming' ? this.#incoming : this.#outgoing
    sessions.delete(keyOf(session.scope, session.name))
    this.#sessions.delete(session.id)
  }

  clear(): void {
    this.#sessions.clear()
    this.#outgoing.clear()
    this.#incoming.clear()
  }
}

function keyOf(scope: string, name: string): string {
  return `${scope}\0${name}`
}
