/**
 * The files of one session: what is done with each of them, in which order, and how it is undone. Preserving goes
 * forward, undoing and finishing go backward. A step that fails undoes what came before it; a step that must not fail
 * and does is reported as a defect, and the others are done all the same.
 */
import { MAX_FILES_PER_SESSION } from '../abi/luo.js'
import { asLuoError, LuoError } from '../errors.js'
import { attempt } from './attempt.js'
import type { Flb } from './flb.js'
import type { FileHandler, Finishing, HandlerRegistry } from './handler.js'
import { HeldFiles, type Holder, holderOf } from './held-files.js'
import type { FileAccess } from './identity.js'
import { checkToken } from './names.js'
import type { IncomingFile, IncomingSession, OutgoingSession, PreservedFile, Retrieved } from './session.js'

export interface FileToPreserve<F, A> {
  /** A u64 in decimal. */
  token: string
  /** The orchestrator's from the moment that it is preserved; on failure it stays the caller's. */
  file: F
  about: A
}

export interface FileToAdopt<F, A> extends FileToPreserve<F, A> {
  /** Its handler, and what that one knows it by. */
  compatible: string
  data: bigint
}

export class FileSets<F, A> {
  readonly #registry: HandlerRegistry<F>
  readonly #access: FileAccess<F>
  readonly #onDefect: (error: unknown, action: string) => void
  #held: HeldFiles<F>
  #count = 0

  constructor(registry: HandlerRegistry<F>, access: FileAccess<F>, onDefect: (error: unknown, action: string) => void) {
    this.#registry = registry
    this.#access = access
    this.#onDefect = onDefect
    this.#held = new HeldFiles(access)
  }

  /** Files in outgoing sessions. */
  get count(): number {
    return this.#count
  }

  // --- outgoing ------------------------------------------------------------------------------------------------------

  preserve(session: OutgoingSession<F, A>, file: FileToPreserve<F, A>): PreservedFile<F, A> {
    return this.#add(session, file, (action) => {
      const handler = this.#registry.find(file.file)
      if (handler) return handler
      throw new LuoError('ENOENT', `${action}: ${this.#registry.reasonFor(file.file)}`)
    })
  }

  /** One that an orchestrator before this one has preserved, with this handler, as `data`. */
  adopt(session: OutgoingSession<F, A>, file: FileToAdopt<F, A>): PreservedFile<F, A> {
    const { compatible, data } = file
    const find = (action: string) => {
      const handler = this.#registry.get(compatible)
      if (handler) return handler
      throw new LuoError('ENOENT', `${action}: there is no handler ${compatible}`)
    }
    return this.#add(session, file, find, (handler) => handler.adopt?.(file.file, data) ?? handler.preserve(file.file))
  }

  #add(
    session: OutgoingSession<F, A>,
    { token, file, about }: FileToPreserve<F, A>,
    find: (action: string) => FileHandler<F>,
    keep = (handler: FileHandler<F>) => handler.preserve(file),
  ): PreservedFile<F, A> {
    const action = `preserve token ${token} in session ${session.name}`
    if (session.files.has(checkToken(token))) throw new LuoError('EEXIST', `${action}: the token is used`)
    if (session.files.size >= MAX_FILES_PER_SESSION) {
      throw new LuoError('ENOSPC', `${action}: it has ${session.files.size} files, and no more can be recorded`)
    }
    const { handler, holder } = attempt(action, () => this.#take(session, token, file, find))
    const flbs = this.#registry.flbsOf(handler)
    let taken = 0
    try {
      for (const flb of flbs) {
        this.#registry.flbs.take(flb)
        taken += 1
      }
      const { data, private: own } = keep(handler)
      const preserved = { token, handler, file, about, kept: { data, private: own }, flbs, holder }
      session.files.set(token, preserved)
      this.#count += 1
      return preserved
    } catch (error) {
      this.#giveBack(flbs.slice(0, taken))
      this.#quietly(`forget token ${token}`, () => this.#held.remove(holder))
      throw asLuoError(error, 'EIO', action)
    }
  }

  /** ENOENT when no handler takes the file, EBUSY when somebody has it. */
  #take(
    { name }: OutgoingSession<F, A>,
    token: string,
    file: F,
    find: (action: string) => FileHandler<F>,
  ): { handler: FileHandler<F>; holder: Holder<F> } {
    const handler = find(`preserve token ${token}`)
    const holder = holderOf(name, token, handler, file)
    const [other] = this.#held.get(holder)
    if (other) {
      const place = `token ${other.token} of session ${other.session}`
      throw new LuoError('EBUSY', `preserve token ${token} in session ${name}: the file is at ${place} already`)
    }
    this.#held.add(holder)
    return { handler, holder }
  }

  unpreserve(session: OutgoingSession<F, A>, preserved: PreservedFile<F, A>): void {
    this.undo(session, preserved)
    this.#quietly(`close token ${preserved.token}`, () => this.#access.close(preserved.file))
  }

  /** Undo of `preserve`: the file is the caller's again. */
  undo(session: OutgoingSession<F, A>, preserved: PreservedFile<F, A>): void {
    const { token, handler, file, kept, flbs, holder } = preserved
    session.files.delete(token)
    this.#count -= 1
    this.#quietly(`forget token ${token}`, () => this.#held.remove(holder))
    this.#quietly(`unpreserve token ${token}`, () => handler.unpreserve(kept, file))
    this.#giveBack(flbs)
  }

  #giveBack(flbs: readonly Flb[]): void {
    for (const flb of [...flbs].reverse()) {
      this.#quietly(`give back FLB ${flb.compatible}`, () => this.#registry.flbs.putOutgoing(flb))
    }
  }

  /** New references, owned by the caller: to all of them, or none. */
  reference(files: readonly PreservedFile<F, A>[]): { file: F; preserved: PreservedFile<F, A> }[] {
    const done: { file: F; preserved: PreservedFile<F, A> }[] = []
    try {
      for (const preserved of files) done.push({ file: this.#duplicate(preserved.token, preserved.file), preserved })
      return done
    } catch (error) {
      for (const { file, preserved } of done) {
        this.#quietly(`close token ${preserved.token}`, () => this.#access.close(file))
      }
      throw error
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

  // --- incoming ------------------------------------------------------------------------------------------------------

  /** A reference to the file, owned by the caller: built at the first call, the same open file at each further one. */
  retrieve(session: IncomingSession<F>, incoming: IncomingFile<F>): F {
    incoming.retrieved ??= this.#build(session, incoming)
    if ('error' in incoming.retrieved) throw incoming.retrieved.error
    return this.#duplicate(incoming.token, incoming.retrieved.file)
  }

  #build({ name }: IncomingSession<F>, { token, handler, data }: IncomingFile<F>): Retrieved<F> {
    try {
      const file = handler.retrieve(data)
      try {
        return this.#hold(name, token, handler, file)
      } catch (error) {
        this.#quietly(`close token ${token}`, () => this.#access.close(file))
        throw error
      }
    } catch (error) {
      return { error: asLuoError(error, 'EIO', `retrieve token ${token} of session ${name}`) }
    }
  }

  /** What an orchestrator before this one has retrieved, or why it could not. The file is this one's from here on. */
  adoptRetrieved(
    { name }: IncomingSession<F>,
    incoming: IncomingFile<F>,
    made: { file: F } | { error: LuoError },
  ): void {
    incoming.retrieved = 'error' in made ? made : this.#hold(name, incoming.token, incoming.handler, made.file)
  }

  #hold(session: string, token: string, handler: FileHandler<F>, file: F): { file: F; holder: Holder<F> } {
    const holder = holderOf(session, token, handler, file)
    this.#held.add(holder)
    return { file, holder }
  }

  /** All files of the session, or none: EBUSY when one refuses. In reverse order of preservation. */
  finish(session: IncomingSession<F>): void {
    for (const incoming of session.files.values()) {
      const { token, handler } = incoming
      const action = `finish token ${token} of session ${session.name}`
      if (attempt(action, () => handler.canFinish?.(finishing(incoming)) ?? true)) continue
      throw new LuoError('EBUSY', `finish session ${session.name}: the file at token ${token} cannot be finished yet`)
    }
    for (const incoming of [...session.files.values()].reverse()) this.#finishOne(incoming)
    session.files.clear()
  }

  #finishOne(incoming: IncomingFile<F>): void {
    const { token, handler, retrieved } = incoming
    const done = finishing(incoming)
    if (retrieved && 'file' in retrieved) {
      this.#quietly(`forget token ${token}`, () => this.#held.remove(retrieved.holder))
    }
    this.#quietly(`finish token ${token}`, () => handler.finish(done))
    for (const flb of [...this.#registry.flbsOf(handler)].reverse()) {
      this.#quietly(`finish FLB ${flb.compatible}`, () => this.#registry.flbs.putIncoming(flb))
    }
    if (retrieved && 'file' in retrieved) {
      this.#quietly(`close token ${token}`, () => this.#access.close(retrieved.file))
    }
  }

  // --- the end of a generation ---------------------------------------------------------------------------------------

  /** Which files are preserved is of no interest any more; the files themselves may have been moved elsewhere. */
  forgetIdentities(): void {
    this.#held = new HeldFiles(this.#access)
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

  #duplicate(token: string, file: F): F {
    return attempt(`get another reference to token ${token}`, () => this.#access.duplicate(file))
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
