/**
 * The orchestrator as pure logic: the sessions of one generation, their files, and what may be done to them when. No
 * I/O: files are opaque (`F`), what their owner says about them too (`A`).
 *
 *     createSession → preserve … → freezeAll → serialize → end        this generation
 *                                                  │ LuoState
 *                       receive → retrieveSession → retrieve … → finish → release        the next one
 *
 * Every call either does all of what it says or nothing: several files are preserved all or none, a freeze that fails
 * in the middle unfreezes what it had frozen. Names, ids and tokens are found in constant time, a file that is
 * preserved already in logarithmic time.
 *
 * Beside the kernel's calls there is custody, for changes of code on a running kernel: an outgoing session is frozen,
 * given to another holder, or kept without one, and never leaves this generation (`session.ts`).
 *
 * While a transition is decided (`freezeAll`) nothing may be changed: EBUSY. Callers that have to sleep until then do
 * so before they call.
 */

import type { LuoState } from '../abi/luo.js'
import { LuoError } from '../errors.js'
import { FileSets, type FileToAdopt, type FileToPreserve } from './file-set.js'
import type { HandlerRegistry } from './handler.js'
import type { FileAccess } from './identity.js'
import { checkToken } from './names.js'
import {
  type Custody,
  type CustodyMove,
  fileOf,
  type IncomingSession,
  type IncomingToAdopt,
  move,
  type OutgoingSession,
  outgoingOnly,
  type PreservedFile,
  type Session,
  type SessionToAdopt,
} from './session.js'
import { SessionTable } from './session-table.js'
import { readState, writeState } from './transition.js'

export interface OrchestratorOptions<F> {
  registry: HandlerRegistry<F>
  files: FileAccess<F>
  /** An operation that must not fail has failed. Everything else was done all the same. */
  onDefect?: (error: unknown, action: string) => void
}

type Phase = 'open' | 'frozen' | 'ended'

export class Orchestrator<F, A> {
  readonly #registry: HandlerRegistry<F>
  readonly #fileSets: FileSets<F, A>
  readonly #sessions = new SessionTable<F, A>()
  #phase: Phase = 'open'
  #received = false
  #liveupdateNumber = 0n

  constructor({ registry, files, onDefect }: OrchestratorOptions<F>) {
    this.#registry = registry
    this.#fileSets = new FileSets(registry, files, onDefect ?? (() => {}))
  }

  get sessionCount(): number {
    return this.#sessions.size
  }

  /** In outgoing sessions. */
  get fileCount(): number {
    return this.#fileSets.count
  }

  /** How many transitions there were before this generation. */
  get liveupdateNumber(): bigint {
    return this.#liveupdateNumber
  }

  /** In order of creation. */
  outgoing(): Iterable<OutgoingSession<F, A>> {
    return this.#sessions.outgoing()
  }

  incoming(): Iterable<IncomingSession<F>> {
    return this.#sessions.incoming()
  }

  session(id: string): Session<F, A> | undefined {
    return this.#sessions.get(id)
  }

  // --- the device's calls --------------------------------------------------------------------------------------------

  /** An outgoing session. EINVAL for a bad name, EEXIST when it is taken in this scope, ENOSPC for too many. */
  createSession(scope: string, name: string): OutgoingSession<F, A> {
    this.#mustBeOpen(`create session ${name}`)
    return this.#sessions.create(scope, name)
  }

  /**
   * An incoming session, for its one holder. ENOENT when none of this name came in, which goes for what is no name too,
   * EINVAL when it has its holder.
   */
  retrieveSession(scope: string, name: string): IncomingSession<F> {
    this.#mustBeOpen(`retrieve session ${name}`)
    const session = this.#sessions.handedOver(scope, name, 'retrieve')
    if (session.retrieved) throw new LuoError('EINVAL', `retrieve session ${name}: it was retrieved before`)
    session.retrieved = true
    return session
  }

  /** Undo of `retrieveSession`, for a session that its holder never got. */
  giveBackSession(session: IncomingSession<F>): void {
    const used = [...session.files.values()].some(({ retrieved }) => retrieved !== undefined)
    if (used || session.finished)
      throw new LuoError('LUO_WRONG_STATE', `give back session ${session.name}: it was used`)
    session.retrieved = false
  }

  // --- going on with what an orchestrator before this one had, on the same kernel ------------------------------------

  /** Ids from this one on are free. */
  startIdsAt(id: bigint): void {
    this.#sessions.startIdsAt(id)
  }

  /** The id that the next session gets. */
  get nextId(): bigint {
    return this.#sessions.nextId
  }

  /** A session as it was. EINVAL for a bad name, EEXIST when its name is taken in this scope, or its id. */
  adoptSession(known: SessionToAdopt): OutgoingSession<F, A> {
    this.#mustBeOpen(`adopt session ${known.name}`)
    return this.#sessions.adopt(known)
  }

  /** A file of it, in any custody: `preserve`, and nothing is done to the file, which is the caller's on failure. */
  adoptFile(session: OutgoingSession<F, A>, file: FileToAdopt<F, A>): PreservedFile<F, A> {
    this.#sessions.mustHave(session, 'adopt a file')
    return this.#fileSets.adopt(session, file)
  }

  /**
   * What became of a session that was received (`receive`), and of the files that were asked for: they are this
   * orchestrator's from here on. ENOENT when none of this name came in, or no such file.
   */
  adoptIncoming(scope: string, { name, retrieved, finished, files }: IncomingToAdopt<F>): IncomingSession<F> {
    this.#mustBeOpen(`adopt session ${name}`)
    const session = this.#sessions.handedOver(scope, name, 'adopt')
    for (const [token, made] of files) {
      const file = session.files.get(token)
      if (!file) throw new LuoError('ENOENT', `adopt token ${token}: session ${name} has no such file`)
      this.#fileSets.adoptRetrieved(session, file, made)
    }
    session.retrieved = retrieved
    session.finished = finished
    return session
  }

  /** Undo of `adoptFile`: the file is the caller's again. */
  giveBackFile(session: OutgoingSession<F, A>, preserved: PreservedFile<F, A>): void {
    this.#sessions.mustHave(session, 'give back a file')
    this.#fileSets.undo(session, preserved)
  }

  /** Undo of `adoptSession`, when its files are given back. */
  giveBackAdopted(session: OutgoingSession<F, A>): void {
    this.#sessions.mustHave(session, 'give it back')
    if (session.files.size > 0) throw new LuoError('LUO_WRONG_STATE', `give back session ${session.name}: it has files`)
    this.#sessions.remove(session)
  }

  /** Somebody else on this kernel goes on with everything: references are closed, and no handler is called. */
  letGo(): void {
    this.#fileSets.forgetIdentities()
    for (const session of this.#sessions.outgoing()) this.#fileSets.abandon(session)
    this.#sessions.clear()
    this.#phase = 'ended'
  }

  // --- an outgoing session's calls -----------------------------------------------------------------------------------

  /**
   * Preserves all of `files`, or none: EEXIST for a token in use, ENOENT when no handler takes it, EBUSY for a file
   * that is preserved already, in any session, ENOSPC for too many, and what handlers and FLBs throw.
   */
  preserve(session: Session<F, A>, files: readonly FileToPreserve<F, A>[]): PreservedFile<F, A>[] {
    const outgoing = this.#held(session, 'preserve')
    const done: PreservedFile<F, A>[] = []
    try {
      for (const file of files) done.push(this.#fileSets.preserve(outgoing, file))
      return done
    } catch (error) {
      for (const preserved of done.reverse()) this.#fileSets.undo(outgoing, preserved)
      throw error
    }
  }

  /** All of them or none: ENOENT for a token that is not there. In reverse order of what was asked. */
  unpreserve(session: Session<F, A>, tokens: readonly string[]): void {
    const outgoing = this.#held(session, 'unpreserve')
    const files = tokens.map((token) => fileOf(outgoing, token, 'unpreserve'))
    for (const preserved of new Set(files.reverse())) this.#fileSets.unpreserve(outgoing, preserved)
  }

  /** New references to files of an outgoing session, in any custody, owned by the caller; all of them or none. */
  reference(session: Session<F, A>, tokens: readonly string[]): { file: F; preserved: PreservedFile<F, A> }[] {
    this.#sessions.mustHave(session, 'get files')
    const outgoing = outgoingOnly(session, 'get files')
    return this.#fileSets.reference(tokens.map((token) => fileOf(outgoing, token, 'get')))
  }

  // --- an incoming session's calls -----------------------------------------------------------------------------------

  /**
   * The file of this token, built by its handler at the first call; a new reference to the same open file at each one.
   * ENOENT for a token that is not there; what the handler threw, once and for all.
   */
  retrieve(session: Session<F, A>, token: string): F {
    const incoming = this.#retrieved(session, 'retrieve')
    const file = incoming.files.get(checkToken(token))
    if (file) return this.#fileSets.retrieve(incoming, file)
    throw new LuoError('ENOENT', `retrieve token ${token}: session ${session.name} has no such file`)
  }

  /** Lets go of all files, those that nobody retrieved included. EBUSY, and nothing changes, when a handler refuses. */
  finish(session: Session<F, A>): void {
    const incoming = this.#retrieved(session, 'finish')
    this.#fileSets.finish(incoming)
    incoming.finished = true
  }

  /**
   * The last holder is gone. An outgoing session lets go of its files in reverse order and disappears, in any custody.
   * A retrieved one is finished; when that is refused it stays, with its files, and nobody can retrieve it again.
   */
  release(session: Session<F, A>): void {
    if (!this.#sessions.has(session)) return
    this.#mustBeOpen(`release session ${session.name}`)
    if (session.direction === 'incoming') {
      this.#retrieved(session, 'release')
      try {
        this.finish(session)
      } catch {
        return
      }
    } else {
      if (session.custody === 'frozen') this.#fileSets.unfreeze(session)
      this.#fileSets.unpreserveAll(session)
    }
    this.#sessions.remove(session)
  }

  // --- custody, on a running kernel ----------------------------------------------------------------------------------

  /** The sessions belong to luod from here on. A handler that refuses leaves everything as it was. */
  freeze(sessions: readonly OutgoingSession<F, A>[]): void {
    const next = sessions.map((session) => this.#move(session, 'freeze'))
    this.#fileSets.freeze(sessions)
    setCustody(sessions, next)
  }

  /** Undo of freeze: the holders are who they were. */
  unfreeze(sessions: readonly OutgoingSession<F, A>[]): void {
    this.#thaw(sessions, 'unfreeze')
  }

  /** The sessions, unchanged, are the new holder's. */
  commit(sessions: readonly OutgoingSession<F, A>[]): void {
    this.#thaw(sessions, 'commit')
  }

  /** No holder is left; luod keeps it. */
  orphan(session: OutgoingSession<F, A>): void {
    const next = this.#move(session, 'orphan')
    if (session.custody === 'frozen') this.#fileSets.unfreeze(session)
    session.custody = next
  }

  /** Somebody came for an orphan: it is frozen until they have committed. */
  claim(session: OutgoingSession<F, A>): void {
    const next = this.#move(session, 'claim')
    this.#fileSets.freeze([session])
    session.custody = next
  }

  #thaw(sessions: readonly OutgoingSession<F, A>[], change: 'unfreeze' | 'commit'): void {
    const next = sessions.map((session) => this.#move(session, change))
    for (const session of [...sessions].reverse()) this.#fileSets.unfreeze(session)
    setCustody(sessions, next)
  }

  // --- the transition to the next generation -------------------------------------------------------------------------

  /**
   * Freezes every outgoing session, in order of creation; nothing can be changed from here on. What a handler throws
   * leaves everything as it was. EBUSY while an update has a session frozen.
   */
  freezeAll(): void {
    this.#mustBeOpen('freeze')
    for (const { custody, name } of this.#sessions.outgoing()) {
      if (custody === 'frozen') throw new LuoError('EBUSY', `freeze: session ${name} is in an update`)
    }
    this.#fileSets.freeze(this.#sessions.outgoing())
    this.#phase = 'frozen'
  }

  /** The transition does not happen: everything is as it was before `freezeAll`. */
  unfreezeAll(): void {
    this.#mustBe('frozen', 'unfreeze')
    for (const session of [...this.#sessions.outgoing()].reverse()) this.#fileSets.unfreeze(session)
    this.#phase = 'open'
  }

  /** What the next generation is to know: names, and no scopes. Only while frozen. */
  serialize(): LuoState {
    this.#mustBe('frozen', 'serialize')
    return writeState(this.#liveupdateNumber + 1n, this.#sessions.outgoing(), this.#registry.flbs)
  }

  /**
   * This generation is over, and nothing more can be done with it. What came in and was not finished is: nobody will
   * come for it. Outgoing sessions are released, unless they were handed over: then their references are closed and no
   * handler is called.
   */
  end(options: { handedOver: boolean }): void {
    if (options.handedOver) {
      this.#mustBe('frozen', 'end')
      this.#fileSets.forgetIdentities()
    } else if (this.#phase === 'frozen') this.unfreezeAll()
    for (const session of [...this.#sessions.outgoing()].reverse()) {
      if (options.handedOver) this.#fileSets.abandon(session)
      else this.release(session)
    }
    for (const session of [...this.#sessions.incoming()].reverse()) this.#fileSets.drop(session)
    this.#sessions.clear()
    this.#phase = 'ended'
  }

  /**
   * Takes what the generation before handed over, before anything else is done. ENOENT when there is no handler for a
   * file, EINVAL for a bad name or token, EEXIST when one is there twice, or an FLB; then nothing has come in.
   */
  receive(state: LuoState, scope = ''): void {
    this.#mustBeOpen('receive')
    if (this.#received || this.#sessions.size > 0) {
      throw new LuoError('LUO_WRONG_STATE', 'receive: only once, before this generation has sessions')
    }
    const sessions = readState(state, scope, this.#registry, () => this.#sessions.takeId())
    this.#registry.flbs.receive(state.flbs)
    this.#received = true
    for (const session of sessions) this.#sessions.addIncoming(session)
    this.#liveupdateNumber = state.liveupdateNumber
  }

  // --- what may be done ----------------------------------------------------------------------------------------------

  #mustBe(phase: Phase, action: string): void {
    if (this.#phase === phase) return
    throw new LuoError('LUO_WRONG_STATE', `${action}: this generation is ${this.#phase}, and must be ${phase}`)
  }

  #mustBeOpen(action: string): void {
    if (this.#phase === 'frozen') throw new LuoError('EBUSY', `${action}: a transition is under way`)
    this.#mustBe('open', action)
  }

  #move(session: OutgoingSession<F, A>, change: CustodyMove): Custody {
    this.#mustBeOpen(`${change} session ${session.name}`)
    this.#sessions.mustHave(session, change)
    return move(session, change)
  }

  #held(session: Session<F, A>, action: string): OutgoingSession<F, A> {
    this.#mustBeOpen(`${action} in session ${session.name}`)
    this.#sessions.mustHave(session, action)
    const outgoing = outgoingOnly(session, action)
    if (outgoing.custody === 'held') return outgoing
    throw new LuoError('EBUSY', `${action} in session ${session.name}: it is ${outgoing.custody}`)
  }

  #retrieved(session: Session<F, A>, action: string): IncomingSession<F> {
    this.#mustBeOpen(`${action} in session ${session.name}`)
    this.#sessions.mustHave(session, action)
    if (session.direction === 'incoming' && session.retrieved) return session
    const why = session.direction === 'outgoing' ? 'it is outgoing' : 'nobody has retrieved it'
    throw new LuoError('EINVAL', `${action} in session ${session.name}: ${why}`)
  }
}

function setCustody(sessions: readonly OutgoingSession<unknown, unknown>[], custody: readonly Custody[]): void {
  sessions.forEach((session, index) => {
    session.custody = custody[index] ?? session.custody
  })
}
