/**
 * The orchestrator as pure logic: sessions, their files, and what may be done to them in which custody. No I/O: files
 * are opaque (`F`), what a handler keeps of them too (`D`).
 *
 * Every call either does all of what it says or nothing: several files are preserved all or none, a freeze that fails
 * in the middle unfreezes what it had frozen, in reverse. Names, tokens and "already preserved" are found in constant
 * time.
 *
 * Not here yet: the transition to another generation (serialize, deserialize, incoming sessions, FLBs). A session has
 * its direction already, and only outgoing ones are made.
 */
import { LuoError } from '../errors.js'
import type { HandlerRegistry } from './handler.js'
import { checkName, checkToken, move, type PreservedFile, type Session } from './session.js'

export interface FileToPreserve<F> {
  token: string
  file: F
  kind: string
  format: string | undefined
}

export class Orchestrator<F, D> {
  readonly #handlers: HandlerRegistry<F, D>
  readonly #sessions = new Map<string, Session<F, D>>()
  /** scope, NUL, name: outgoing sessions. */
  readonly #names = new Map<string, Session<F, D>>()
  /** Identity of each preserved file, and where it is. */
  readonly #preserved = new Map<string, { session: Session<F, D>; token: string }>()
  #nextId = 1n

  constructor(handlers: HandlerRegistry<F, D>) {
    this.#handlers = handlers
  }

  get sessionCount(): number {
    return this.#sessions.size
  }

  get fileCount(): number {
    return this.#preserved.size
  }

  /** A new outgoing session. EINVAL for a bad name, EEXIST when it is taken in this scope. */
  createSession(scope: string, name: string): Session<F, D> {
    const key = `${scope}\0${checkName(name)}`
    if (this.#names.has(key)) throw new LuoError('EEXIST', `create session ${name}: there is one of this name`)
    const id = String(this.#nextId++)
    const session: Session<F, D> = { id, name, scope, direction: 'outgoing', files: new Map(), custody: 'held' }
    this.#sessions.set(id, session)
    this.#names.set(key, session)
    return session
  }

  session(id: string): Session<F, D> | undefined {
    return this.#sessions.get(id)
  }

  /**
   * Preserves all of `files`, or none: EEXIST for a token in use, EBUSY for a file that is preserved already, in any
   * session, ENOENT when no handler takes it, and what handlers throw.
   */
  preserve(session: Session<F, D>, files: readonly FileToPreserve<F>[]): PreservedFile<F, D>[] {
    this.#mustBeHeld(session, 'preserve')
    const done: PreservedFile<F, D>[] = []
    try {
      for (const { token, file, kind, format } of files) {
        if (session.files.has(checkToken(token))) {
          throw new LuoError('EEXIST', `preserve ${kind}: token ${token} is used in session ${session.name}`)
        }
        const handler = this.#handlers.find(file)
        if (!handler) {
          throw new LuoError('ENOENT', `preserve token ${token}: there is no handler for this kind of file (${kind})`)
        }
        const id = `${handler.compatible} ${handler.getId(file)}`
        const other = this.#preserved.get(id)
        if (other) {
          throw new LuoError(
            'EBUSY',
            `preserve ${kind} at token ${token}: it is preserved already, at token ${other.token} of session ` +
              other.session.name,
          )
        }
        const preserved = { token, handler, data: handler.preserve(file), id, kind, format }
        session.files.set(token, preserved)
        this.#preserved.set(id, { session, token })
        done.push(preserved)
      }
      return done
    } catch (error) {
      for (const file of done.reverse()) this.#forget(session, file)
      throw error
    }
  }

  /** All of them or none: ENOENT for a token that is not there. In reverse order. */
  unpreserve(session: Session<F, D>, tokens: readonly string[]): void {
    this.#mustBeHeld(session, 'unpreserve')
    const files = tokens.map((token) => this.#file(session, token, 'unpreserve'))
    for (const file of new Set(files.reverse())) this.#forget(session, file)
  }

  /** New references to the files, owned by the caller. While the session is frozen, or by its holder. */
  retrieve(session: Session<F, D>, tokens: readonly string[]): { file: F; preserved: PreservedFile<F, D> }[] {
    const wanted = tokens.map((token) => this.#file(session, token, 'retrieve'))
    const done: { file: F; preserved: PreservedFile<F, D> }[] = []
    try {
      for (const preserved of wanted) done.push({ file: preserved.handler.retrieve(preserved.data), preserved })
      return done
    } catch (error) {
      for (const { file, preserved } of done) preserved.handler.discard?.(file)
      throw error
    }
  }

  /** The sessions belong to luod from here on. A handler that refuses leaves everything as it was. */
  freeze(sessions: readonly Session<F, D>[]): void {
    const next = sessions.map((session) => move(session, 'freeze'))
    this.#freezeFiles(sessions)
    sessions.forEach((session, index) => {
      session.custody = next[index] ?? session.custody
    })
  }

  /** Undo of freeze: the holders are who they were. */
  unfreeze(sessions: readonly Session<F, D>[]): void {
    this.#thaw(sessions, 'unfreeze')
  }

  /** The sessions, unchanged, are the new holder's. */
  commit(sessions: readonly Session<F, D>[]): void {
    this.#thaw(sessions, 'commit')
  }

  /** No holder is left; luod keeps it. */
  orphan(session: Session<F, D>): void {
    const next = move(session, 'orphan')
    if (session.custody === 'frozen') this.#unfreezeFiles(session)
    session.custody = next
  }

  /** Somebody came for an orphan: it is frozen until they have committed. */
  claim(session: Session<F, D>): void {
    const next = move(session, 'claim')
    this.#freezeFiles([session])
    session.custody = next
  }

  /** The end of a session, in any custody: its files are let go of in reverse order. */
  release(session: Session<F, D>): void {
    if (!this.#sessions.delete(session.id)) return
    this.#names.delete(`${session.scope}\0${session.name}`)
    if (session.custody === 'frozen') this.#unfreezeFiles(session)
    for (const file of [...session.files.values()].reverse()) this.#forget(session, file)
  }

  #thaw(sessions: readonly Session<F, D>[], change: 'unfreeze' | 'commit'): void {
    const next = sessions.map((session) => move(session, change))
    for (const session of [...sessions].reverse()) this.#unfreezeFiles(session)
    sessions.forEach((session, index) => {
      session.custody = next[index] ?? session.custody
    })
  }

  #freezeFiles(sessions: readonly Session<F, D>[]): void {
    const frozen: PreservedFile<F, D>[] = []
    try {
      for (const session of sessions) {
        for (const file of session.files.values()) {
          file.handler.freeze?.(file.data)
          frozen.push(file)
        }
      }
    } catch (error) {
      for (const file of frozen.reverse()) file.handler.unfreeze?.(file.data)
      throw error
    }
  }

  #unfreezeFiles(session: Session<F, D>): void {
    for (const file of [...session.files.values()].reverse()) file.handler.unfreeze?.(file.data)
  }

  #forget(session: Session<F, D>, file: PreservedFile<F, D>): void {
    session.files.delete(file.token)
    this.#preserved.delete(file.id)
    file.handler.unpreserve(file.data)
  }

  #file(session: Session<F, D>, token: string, action: string): PreservedFile<F, D> {
    const file = session.files.get(checkToken(token))
    if (file) return file
    throw new LuoError('ENOENT', `${action} token ${token}: session ${session.name} has no such file`)
  }

  #mustBeHeld(session: Session<F, D>, action: string): void {
    if (session.custody === 'held') return
    throw new LuoError('EBUSY', `${action} in session ${session.name}: it is ${session.custody}`)
  }
}
