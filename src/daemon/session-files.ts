/**
 * The files of sessions: what a user may have of them, what is recorded of them, and pages of them. What is not recorded
 * is not held.
 */
import type { FileRecord } from '../abi/record-shapes.js'
import type { Change } from '../abi/records.js'
import type { FileToPreserve } from '../core/file-set.js'
import type { FileAbout, HeldFile } from '../handlers/held-file.js'
import type { Fd } from '../sys/fd.js'
import type { Holding, LuodFile, LuodOrchestrator, LuodSession } from './holding.js'
import type { Journal } from './journal.js'
import type { Usage } from './usage.js'

const MEMORY_KINDS: ReadonlySet<string> = new Set(['memfd', 'shmem', 'hugetlb'])

export interface SessionFilesOptions {
  orchestrator: LuodOrchestrator
  usage: Usage
  journal: Journal
}

export class SessionFiles {
  readonly #options: SessionFilesOptions
  /** Keys of the records, by session and token. */
  readonly #keys = new Map<string, string>()
  #nextKey = 1n
  /** Keys of files that were restored; of no interest once that is over. */
  readonly #restored = new Set<string>()

  constructor(options: SessionFilesOptions) {
    this.#options = options
  }

  /** All or none; LUO_LIMIT when the user would have too many, or too much. Answers what is luod's from here on. */
  preserve(holding: Holding, files: readonly FileToPreserve<HeldFile, FileAbout>[]): LuodFile[] {
    const { session, uid } = holding
    const { usage } = this.#options
    const memory = memoryOf(files)
    usage.check(uid, 'files', files.length, `preserve ${files.length} files`)
    usage.check(uid, 'bytes', memory, `preserve ${files.length} files of ${memory} bytes`)
    const preserved = this.#options.orchestrator.preserve(session, files)
    try {
      this.#options.journal.add(preserved.map((file) => this.#change(session, file.token, file)))
    } catch (error) {
      // What is not recorded is not held.
      const tokens = preserved.map(({ token }) => token)
      this.#options.orchestrator.unpreserve(session, tokens)
      throw error
    }
    for (const { token, file } of preserved) this.#options.journal.keep(`file/${this.keyOf(session, token)}`, file.fd)
    this.#count(holding, preserved, 1)
    return preserved
  }

  /** One that a luod before this one held. It stays the caller's when this fails. */
  restore(holding: Holding, key: string, record: FileRecord, file: HeldFile): void {
    const { token, kind, compatible, format, bytes, until, data } = record
    const about = { kind, format, bytes, until }
    const known = { token, file, about, compatible, data: BigInt(data) }
    const restored = this.#options.orchestrator.adoptFile(holding.session, known)
    this.#keys.set(`${holding.session.id} ${token}`, key)
    this.startKeysAt(BigInt(key) + 1n)
    this.#restored.add(key)
    this.#options.journal.keep(`file/${key}`, file.fd)
    this.#count(holding, [restored], 1)
  }

  /** Whether a file has this key. */
  knows(key: string): boolean {
    return this.#restored.has(key)
  }

  /** Keys from this one on are free. */
  startKeysAt(key: bigint): void {
    if (key > this.#nextKey) this.#nextKey = key
  }

  /** All or none. */
  unpreserve(holding: Holding, tokens: readonly string[]): void {
    const { session } = holding
    const files = [...new Set(tokens)].flatMap((token) => session.files.get(token) ?? [])
    this.#options.orchestrator.unpreserve(session, tokens)
    this.#count(holding, files, -1)
    this.#options.journal.add(this.#removals(session, files))
  }

  #count(holding: Holding, files: readonly LuodFile[], sign: 1 | -1): void {
    const { usage } = this.#options
    holding.files.changed()
    holding.bytes += sign * bytesOf(files)
    usage.change(holding.uid, 'files', sign * files.length)
    usage.change(holding.uid, 'bytes', sign * memoryOf(files))
  }

  /** New references to files, in the order of the tokens, owned by the caller. ENOENT for a token that is not there. */
  reference({ session }: Holding, tokens: readonly string[]): { fd: Fd; file: LuodFile }[] {
    return this.#options.orchestrator
      .reference(session, tokens)
      .map(({ file: { fd }, preserved: file }) => ({ fd, file }))
  }

  /** Lets go of a whole session, and of its files in reverse order. Answers what there is to record, and how many. */
  releaseAll(holding: Holding): { changes: Change[]; count: number } {
    const { session } = holding
    const files = [...session.files.values()]
    this.#options.orchestrator.release(session)
    this.#count(holding, files, -1)
    return { changes: this.#removals(session, files), count: files.length }
  }

  #removals(session: LuodSession, files: readonly LuodFile[]): Change[] {
    return files.map(({ token }) => {
      this.#options.journal.drop(`file/${this.keyOf(session, token)}`)
      return this.#change(session, token, undefined)
    })
  }

  keyOf(session: LuodSession, token: string): string {
    const name = `${session.id} ${token}`
    let key = this.#keys.get(name)
    if (key === undefined) {
      key = String(this.#nextKey++)
      this.#keys.set(name, key)
    }
    return key
  }

  #change(session: LuodSession, token: string, file: LuodFile | undefined): Change {
    const key = this.keyOf(session, token)
    if (!file) this.#keys.delete(`${session.id} ${token}`)
    return { type: 'file', key, value: file && recordOf(session, file) }
  }
}

function recordOf({ id: session }: LuodSession, { token, handler, about, kept }: LuodFile): FileRecord {
  const { kind, format, bytes, until } = about
  const { compatible } = handler
  const record: FileRecord = { session, token, kind, compatible, bytes, data: String(kept.data) }
  if (format !== undefined) record.format = format
  if (until) record.until = until
  return record
}

/** Bytes of memory that cannot be freed while these files are held. */
function memoryOf(files: readonly { about: FileAbout }[]): number {
  return bytesOf(files.filter(({ about }) => MEMORY_KINDS.has(about.kind)))
}

function bytesOf(files: readonly { about: FileAbout }[]): number {
  return files.reduce((sum, { about }) => sum + about.bytes, 0)
}
