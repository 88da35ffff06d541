/**
 * The files of sessions: what a user may have of them, what is recorded of them, and pages of them. What is not
 * recorded is not held.
 */
import type { FileRecord } from '../abi/record-shapes.js'
import { type Change, compareKeys } from '../abi/records.js'
import type { FileToPreserve } from '../core/file-set.js'
import type { FileAbout, HeldFile } from '../handlers/held-file.js'
import type { Fd } from '../sys/fd.js'
import type { Holding, LuodAbout, LuodFile, LuodOrchestrator, LuodSession } from './holding.js'
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
  #nextKey = 1n

  constructor(options: SessionFilesOptions) {
    this.#options = options
  }

  /** All or none; LUO_LIMIT when the user would have too many, or too much. Answers what is luod's from here on. */
  preserve(holding: Holding, files: readonly FileToPreserve<HeldFile, LuodAbout>[]): LuodFile[] {
    const { session, uid } = holding
    const { usage } = this.#options
    const memory = memoryOf(files)
    usage.check(uid, 'files', files.length, `preserve ${files.length} files`)
    usage.check(uid, 'bytes', memory, `preserve ${files.length} files of ${memory} bytes`)
    const preserved = this.#options.orchestrator.preserve(session, files)
    try {
      this.#options.journal.add(preserved.map((file) => changeOf(session, file)))
    } catch (error) {
      // What is not recorded is not held.
      const tokens = preserved.map(({ token }) => token)
      this.#options.orchestrator.unpreserve(session, tokens)
      throw error
    }
    for (const { file, about } of preserved) this.#options.journal.keep(`file/${about.key}`, file.fd)
    this.#count(holding, preserved, 1)
    return preserved
  }

  /** One that a luod before this one held. It stays the caller's when this fails. */
  restore(holding: Holding, key: string, record: FileRecord, file: HeldFile): void {
    const restored = adoptFile(this.#options.orchestrator, holding.session, { key, record, file })
    this.#options.journal.keep(`file/${key}`, file.fd)
    this.#count(holding, [restored], 1)
  }

  /** Those that the session has already, and that the vault has (`replica.ts`). */
  restoredAhead(holding: Holding, count: FilesCount): void {
    this.#counted(holding, count, 1)
  }

  /** For one that is to be preserved. */
  newKey(): string {
    return String(this.#nextKey++)
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
    this.#options.journal.add(this.#removals(files))
  }

  #count(holding: Holding, files: readonly LuodFile[], sign: 1 | -1): void {
    const count = nothingCounted()
    for (const { about } of files) addTo(count, about, 1)
    this.#counted(holding, count, sign)
  }

  #counted(holding: Holding, { files, bytes, memory }: FilesCount, sign: 1 | -1): void {
    const { usage } = this.#options
    holding.files.changed()
    holding.bytes += sign * bytes
    usage.change(holding.uid, 'files', sign * files)
    usage.change(holding.uid, 'bytes', sign * memory)
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
    return { changes: this.#removals(files), count: files.length }
  }

  #removals(files: readonly LuodFile[]): Change[] {
    return files.map(({ about: { key } }) => {
      this.#options.journal.drop(`file/${key}`)
      return { type: 'file', key, value: undefined }
    })
  }
}

/** As it was recorded. It stays the caller's when this fails. */
export function adoptFile(
  orchestrator: LuodOrchestrator,
  session: LuodSession,
  { key, record, file }: { key: string; record: FileRecord; file: HeldFile },
): LuodFile {
  const { token, kind, compatible, format, bytes, until, data } = record
  return orchestrator.adoptFile(session, {
    token,
    file,
    about: { kind, format, bytes, until, key },
    compatible,
    data: BigInt(data),
  })
}

/** In the order of their keys, as they were preserved. */
export function sortFiles({ files }: LuodSession): void {
  const sorted = [...files].sort(([, a], [, b]) => compareKeys(a.about.key, b.about.key))
  files.clear()
  for (const [token, file] of sorted) files.set(token, file)
}

function changeOf(session: LuodSession, file: LuodFile): Change {
  return { type: 'file', key: file.about.key, value: recordOf(session, file) }
}

function recordOf({ id: session }: LuodSession, { token, handler, about, kept }: LuodFile): FileRecord {
  const { kind, format, bytes, until } = about
  const { compatible } = handler
  const record: FileRecord = { session, token, kind, compatible, bytes, data: String(kept.data) }
  if (format !== undefined) record.format = format
  if (until) record.until = until
  return record
}

export interface FilesCount {
  files: number
  bytes: number
  /** Bytes of memory that cannot be freed while they are held. */
  memory: number
}

export function nothingCounted(): FilesCount {
  return { files: 0, bytes: 0, memory: 0 }
}

/** One more, or one less. */
export function addTo(count: FilesCount, { kind, bytes }: Pick<FileAbout, 'kind' | 'bytes'>, sign: 1 | -1): void {
  count.files += sign
  count.bytes += sign * bytes
  if (MEMORY_KINDS.has(kind)) count.memory += sign * bytes
}

/** Bytes of memory that cannot be freed while these files are held. */
function memoryOf(files: readonly { about: FileAbout }[]): number {
  const count = nothingCounted()
  for (const { about } of files) addTo(count, about, 1)
  return count.memory
}
