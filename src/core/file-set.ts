/**
 * The files of one session: what is done with each of them, in which order, and how it is undone. Preserving goes
 * forward, undoing and finishing go backward. A step that fails undoes what came before it; a step that must not fail
 * and does is reported as a defect, and the others are done all the same.
 */
import { MAX_FILES_PER_SESSION } from '../abi/luo.js'
import { asLuoError, LuoError } from '../errors.js'
import type { Finishing, HandlerRegistry } from './handler.js'
import { type FileAccess, FileIdentities } from './identity.js'
import { checkToken } from './names.js'
import type { IncomingFile, IncomingSession, OutgoingSession, PreservedFile } from './session.js'

export interface FileToPreserve<F, A> {
  /** A u64 in decimal. */
  token: string
  /** The orchestrator's from the moment that it is preserved; on failure it stays the caller's. */
  file: F
  about: A
}

interface Place {
  session: string
  token: string
}

export class FileSets<F, A> {
  readonly #registry: HandlerRegistry<F>
  readonly #access: FileAccess<F>
  readonly #onDefect: (error: unknown, action: string) => void
  /** Where each open file is, of handlers that do not tell files apart themselves. */
  #openFiles: FileIdentities<F, Place>
  /** The same by handler and its own identity. */
  readonly #ids = new Map<string, Place>()
  #count = 0

  constructor(registry: HandlerRegistry<F>, access: FileAccess<F>, onDefect: (error: unknown, action: string) => void) {
    this.#registry = registry
    this.#access = access
    this.#onDefect = onDefect
    this.#openFiles = new FileIdentities(access)
  }

  /** Files in outgoing sessions. */
  get count(): number {
    return this.#count
  }

  // --- outgoing -------------------------------------------------------------------------------------------------------

  preserve(session: OutgoingSession<F, A>, { token, file, about }: FileToPreserve<F, A>): PreservedFile<F, A> {
    const action = `preserve token ${token} in session ${session.name}`
    if (session.files.has(checkToken(token))) throw new LuoError('EEXIST', `${action}: the token is used`)
    if (session.files.size >= MAX_FILES_PER_SESSION) {
      throw new LuoError('ENOSPC', `${action}: it has ${session.files.size} files, and no more can be recorded`)
    }
    const handler = this.#registry.find(file)
    if (!handler) throw new LuoError('ENOENT', `${action}: ${this.#registry.reasonFor(file)}`)
    const id = handler.getId && `${handler.compatible} ${handler.getId(file)}`
    const other = id === undefined ? this.#openFiles.get(file) : this.#ids.get(id)
    if (other) {
      throw new LuoError('EBUSY', `${action}: it is preserved already, at token ${other.token} of ${other.session}`)
    }
    const flbs = this.#registry.flbsOf(handler)
    let taken = 0
    try {
      for (const flb of flbs) {
        this.#registry.flbs.take(flb)
        taken += 1
      }
      const kept = handler.preserve(file)
      const preserved = { token, handler, file, about, kept: { data: kept.data, private: kept.private } }
      session.files.set(token, preserved)
      this.#identify(handler.getId ? id : undefined, file, { session: session.name, token })
      this.#count += 1
      return preserved
    } catch (error) {
      for (const flb of flbs.slice(0, taken).reverse()) {
        this.#quietly(`give back FLB ${flb.compatible}`, () => this.#registry.flbs.putOutgoing(flb))
      }
      throw asLuoError(error, 'EIO', action)
    }
  }

  unpreserve(session: OutgoingSession<F, A>, preserved: PreservedFile<F, A>): void {
    this.undo(session, preserved)
    this.#quietly(`close token ${preserved.token}`, () => this.#access.close(preserved.file))
  }

  /** Undo of `preserve`: the file is the caller's again. */
  undo(session: OutgoingSession<F, A>, preserved: PreservedFile<F, A>): void {
    const { token, handler, file, kept } = preserved
    session.files.delete(token)
    this.#count -= 1
    this.#forget(preserved)
    this.#quietly(`unpreserve token ${token}`, () => handler.unpreserve(kept, file))
    for (const flb of [...this.#registry.flbsOf(handler)].reverse()) {
      this.#quietly(`give back FLB ${flb.compatible}`, () => this.#registry.flbs.putOutgoing(flb))
    }
  }

  unpreserveAll(session: OutgoingSession<F, A>): void {
    for (const file of [...session.files.values()].reverse()) this.unpreserve(session, file)
  }

  /** All of `sessions`, or none: what is frozen when one fails is unfrozen in reverse. */
  freeze(sessions: Iterable<OutgoingSession<F, A>>): void {
    const frozen: PreservedFile<F, A>[] = []
    try {
      for (const { files } of sessions) {
        for (const preserved of files.values()) {
          const { handler, kept, file } = preserved
          if (handler.freeze) kept.data = handler.freeze(kept, file) ?? kept.data
          frozen.push(preserved)
        }
      }
    } catch (error) {
      for (const preserved of frozen.reverse()) this.#unfreezeOne(preserved)
      throw asLuoError(error, 'EIO', 'freeze the files')
    }
  }

  unfreeze(session: OutgoingSession<F, A>): void {
    for (const preserved of [...session.files.values()].reverse()) this.#unfreezeOne(preserved)
  }

  #unfreezeOne({ token, handler, kept, file }: PreservedFile<F, A>): void {
    if (handler.unfreeze) this.#quietly(`unfreeze token ${token}`, () => handler.unfreeze?.(kept, file))
  }

  // --- incoming -------------------------------------------------------------------------------------------------------

  /** A reference to the file, owned by the caller: built at the first call, the same open file at each further one. */
  retrieve(session: IncomingSession<F>, incoming: IncomingFile<F>): F {
    const { token, handler, data } = incoming
    if (!incoming.retrieved) {
      try {
        incoming.retrieved = { file: handler.retrieve(data) }
        this.#identifyIncoming(session, incoming)
      } catch (error) {
        incoming.retrieved = { error: asLuoError(error, 'EIO', `retrieve token ${token} of session ${session.name}`) }
      }
    }
    if ('error' in incoming.retrieved) throw incoming.retrieved.error
    return this.#access.duplicate(incoming.retrieved.file)
  }

  /** All files of the session, or none: EBUSY when one refuses. In reverse order of preservation. */
  finish(session: IncomingSession<F>): void {
    for (const incoming of session.files.values()) {
      const { token, handler } = incoming
      if (!handler.canFinish || handler.canFinish(finishing(incoming))) continue
      throw new LuoError('EBUSY', `finish session ${session.name}: the file at token ${token} cannot be finished yet`)
    }
    for (const incoming of [...session.files.values()].reverse()) this.#finishOne(incoming)
    session.files.clear()
  }

  #finishOne(incoming: IncomingFile<F>): void {
    const { token, handler } = incoming
    const done = finishing(incoming)
    if (done.file !== undefined) this.#forgetIncoming(incoming)
    this.#quietly(`finish token ${token}`, () => handler.finish(done))
    for (const flb of [...this.#registry.flbsOf(handler)].reverse()) {
      this.#quietly(`finish FLB ${flb.compatible}`, () => this.#registry.flbs.putIncoming(flb))
    }
    const { file } = done
    if (file !== undefined) this.#quietly(`close token ${token}`, () => this.#access.close(file))
  }

  // --- the end of a generation ----------------------------------------------------------------------------------------

  /** Which files are preserved is of no interest any more; the files themselves may have been moved elsewhere. */
  forgetIdentities(): void {
    this.#openFiles = new FileIdentities(this.#access)
    this.#ids.clear()
    this.#identified.clear()
  }

  /** Closes the references, and calls no handler: the files live on in what was handed over. */
  abandon(session: OutgoingSession<F, A>): void {
    for (const { token, file } of session.files.values()) {
      this.#quietly(`close token ${token}`, () => this.#access.close(file))
    }
    this.#count -= session.files.size
    session.files.clear()
  }

  /** Finishes all files whatever their handlers say: nobody will ever come for them. */
  drop(session: IncomingSession<F>): void {
    for (const incoming of [...session.files.values()].reverse()) this.#finishOne(incoming)
    session.files.clear()
  }

  // --- identity -------------------------------------------------------------------------------------------------------

  #identify(id: string | undefined, file: F, place: Place): void {
    if (id === undefined) this.#openFiles.add(file, place)
    else this.#ids.set(id, place)
  }

  #forget({ handler, file }: Pick<PreservedFile<F, A>, 'handler' | 'file'>): void {
    if (handler.getId) this.#ids.delete(`${handler.compatible} ${handler.getId(file)}`)
    else this.#openFiles.delete(file)
  }

  /** A file that came back is preserved until it is finished. It may be one that was preserved again before it came. */
  #identifyIncoming(session: IncomingSession<F>, incoming: IncomingFile<F>): void {
    const { handler, token, retrieved } = incoming
    if (!retrieved || !('file' in retrieved)) return
    const { file } = retrieved
    const id = handler.getId && `${handler.compatible} ${handler.getId(file)}`
    if (id === undefined ? this.#openFiles.get(file) : this.#ids.has(id)) return
    this.#identify(id, file, { session: session.name, token })
    this.#identified.add(incoming)
  }

  readonly #identified = new Set<IncomingFile<F>>()

  #forgetIncoming(incoming: IncomingFile<F>): void {
    const { handler, retrieved } = incoming
    if (this.#identified.delete(incoming) && retrieved && 'file' in retrieved) {
      this.#forget({ handler, file: retrieved.file })
    }
  }

  #quietly(action: string, run: () => void): void {
    try {
      run()
    } catch (error) {
      this.#onDefect(error, action)
    }
  }
}

function finishing<F>({ data, retrieved }: IncomingFile<F>): Finishing<F> {
  if (!retrieved) return { data, retrieved: 'no', file: undefined }
  if ('file' in retrieved) return { data, retrieved: 'yes', file: retrieved.file }
  return { data, retrieved: retrieved.error.code as `E${string}`, file: undefined }
}
