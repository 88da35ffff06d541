/**
 * What a process that can take luod's place has of it: the descriptors, the records, and ahead of time what takes
 * longest to build of them, the files. Each record is decoded and checked once, each descriptor is looked at once, and
 * each file is put into its session, while luod serves. When this process goes on in luod's place only what has changed
 * since is left.
 *
 * Nothing that happens here has an effect on anybody: nothing is written or told, no process and no holder is watched,
 * and only files of kinds whose handlers say that it is harmless are adopted (`adoptsAhead`). What does not fit
 * together is left as it is: while luod goes on it may just be under way. Whether it counts, and as what, is decided at
 * the end, by `restore.ts`, which has to do all of it that was not done here.
 */
import type { FileRecord, SessionRecord } from '../abi/record-shapes.js'
import { compareKeys, type Json, type RecordType } from '../abi/records.js'
import { wrongFields } from '../abi/records-check.js'
import { type RecordKey, RecordsFollower } from '../abi/records-follow.js'
import type { HandlerRegistry } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import { LuoError } from '../errors.js'
import { type HeldFile, heldFiles } from '../handlers/held-file.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { type FileInfo, fileInfo } from '../sys/file-info.js'
import type { LuodFile, LuodOrchestrator, LuodSession } from './holding.js'
import { recordsStorage } from './records-file.js'
import {
  type Ahead,
  type AheadSession,
  type Gathered,
  isOfKind,
  type RestoreMode,
  type RestoreSource,
} from './restore-source.js'
import { addTo, adoptFile, nothingCounted, sortFiles } from './session-files.js'

/** Of the records, read in one go. */
const SLICE_BYTES = 64 * 1024
const RECORDS = 'records'
const FILE = 'file/'

interface Built {
  record: Json
  of: BuiltSession
  file: LuodFile
}

interface BuiltSession extends AheadSession {
  uid: number
  /** The highest of its files. */
  lastKey: string
}

type ReadRecord = (type: RecordType, key: string) => Json | undefined

export class Replica {
  readonly #registry: HandlerRegistry<HeldFile>
  readonly #orchestrator: LuodOrchestrator
  #follower: RecordsFollower | undefined
  /** Descriptors, by the keys of the vault: those of built files, and the others. */
  readonly #held = new Map<string, Fd>()
  readonly #loose = new Map<string, Fd>()
  readonly #infos = new Map<string, FileInfo>()
  /** By the keys of their records. */
  readonly #files = new Map<string, Built>()
  readonly #sessions = new Map<string, BuiltSession>()
  readonly #unordered = new Set<LuodSession>()
  #lastKey = '0'
  /** Keys of records that have changed, or whose descriptors have. */
  readonly #changedFiles = new Set<string>()
  readonly #changedSessions = new Set<string>()
  /** Keys of files that are to be built, the next one last. */
  #queue: string[] = []

  constructor(registry: HandlerRegistry<HeldFile>, onDefect: (error: unknown, action: string) => void) {
    this.#registry = registry
    this.#orchestrator = new Orchestrator({ registry, files: heldFiles, onDefect })
  }

  /** How many descriptors it has. */
  get size(): number {
    return this.#held.size + this.#loose.size
  }

  /** Owned by this replica from here on, in place of the one that was there. */
  put(key: string, fd: Fd): void {
    this.remove(key)
    this.#loose.set(key, fd)
    const file = fileOf(key)
    if (file !== undefined) this.#changedFiles.add(file)
    else if (key === RECORDS) this.#follower = new RecordsFollower(recordsStorage(fd))
  }

  remove(key: string): void {
    const file = fileOf(key)
    if (file !== undefined) this.#giveBack(file)
    else if (key === RECORDS) this.#forgetRecords()
    this.#loose.get(key)?.close()
    this.#loose.delete(key)
    this.#infos.delete(key)
  }

  /** One that is of no file and not the records: it is the caller's from here on. */
  take(key: 'lock' | 'device'): Fd | undefined {
    const fd = this.#loose.get(key)
    this.#loose.delete(key)
    return fd
  }

  #forgetRecords(): void {
    this.#follower = undefined
    for (const id of [...this.#sessions.keys()]) this.#giveBackSession(id)
  }

  /**
   * Does what there is to do, for about so long; answers whether more is left. LUO_RECORDS when the records cannot be
   * read, which may pass.
   */
  work(maxMs: number): boolean {
    const follower = this.#follower
    if (!follower) return false
    const end = performance.now() + maxMs
    const read: ReadRecord = (type, key) => follower.get(type, key)
    do {
      const { changed, more } = follower.refresh(SLICE_BYTES)
      this.#note(changed)
      if (more) continue
      this.#giveBackChanged(read)
      if (this.#build(read, end)) return true
      this.#sort()
      return false
    } while (performance.now() < end)
    return true
  }

  /** As it is now, to be checked. LUO_RECORDS when there are no records. */
  now(): Gathered {
    const records = this.#records()
    return { records, descriptors: this.#loose, infos: this.#infos, ahead: this.#ahead(), damage: [] }
  }

  /**
   * luod has ended, or does nothing any more: all of it, owned by the caller. LUO_RECORDS without records, and in
   * `strict` when they are damaged; LUO_RECORDS_VERSION. Then it is still this replica's.
   */
  finish(mode: RestoreMode): RestoreSource {
    const damage: string[] = []
    const { records, changed } = this.#records().finish(mode === 'strict' ? undefined : (why) => damage.push(why))
    this.#note(changed)
    const read: ReadRecord = (type, key) => records.get(type, key)
    this.#giveBackChanged(read)
    this.#build(read, Number.POSITIVE_INFINITY)
    this.#sort()
    return { records, descriptors: this.#loose, infos: this.#infos, ahead: this.#ahead(), damage, mode }
  }

  /** Closes everything, unless it is somebody else's by now. */
  close(): void {
    this.#orchestrator.letGo()
    closeAll(this.#loose.values())
    closeAll(this.#held.values())
  }

  #records(): RecordsFollower {
    if (this.#follower) return this.#follower
    throw new LuoError('LUO_RECORDS', 'go on with what luod holds: there is no descriptor of its records')
  }

  #ahead(): Ahead {
    return {
      orchestrator: this.#orchestrator,
      has: (key) => this.#files.has(key),
      size: this.#files.size,
      lastKey: this.#lastKey,
      session: (id) => this.#sessions.get(id),
      held: this.#held,
    }
  }

  // --- what has changed ---------------------------------------------------------------------------------------------

  #note(changed: readonly RecordKey[]): void {
    for (const { type, key } of changed) {
      if (type === 'file') this.#changedFiles.add(key)
      else if (type === 'session') this.#changedSessions.add(key)
    }
  }

  /** Before anything is built: a name, or a file, may be somebody else's by now. */
  #giveBackChanged(read: ReadRecord): void {
    for (const id of this.#changedSessions) {
      const built = this.#sessions.get(id)
      if (built && !isStill(built, read('session', id))) this.#giveBackSession(id)
    }
    this.#changedSessions.clear()
    for (const key of this.#changedFiles) if (this.#files.get(key)?.record !== read('file', key)) this.#giveBack(key)
  }

  #giveBackSession(id: string): void {
    const { session } = this.#sessions.get(id) ?? {}
    if (!session) return
    for (const { about } of [...session.files.values()]) this.#giveBack(about.key)
    this.#orchestrator.giveBackAdopted(session)
    this.#sessions.delete(id)
    this.#unordered.delete(session)
  }

  #giveBack(key: string): void {
    const built = this.#files.get(key)
    if (!built) return
    const name = FILE + key
    const { of, file } = built
    this.#orchestrator.giveBackFile(of.session, file)
    addTo(of.files, file.about, -1)
    this.#files.delete(key)
    this.#held.delete(name)
    this.#loose.set(name, file.file.fd)
    // If it is still recorded, in whatever way, it is built again.
    this.#changedFiles.add(key)
  }

  // --- building -----------------------------------------------------------------------------------------------------

  /** Answers whether more is left. */
  #build(read: ReadRecord, end: number): boolean {
    for (;;) {
      const key = this.#next()
      if (key === undefined) return false
      if (!this.#files.has(key)) this.#buildFile(key, read)
      if (performance.now() >= end) return true
    }
  }

  /** What comes later mostly has a higher key: so files come in their order. */
  #next(): string | undefined {
    if (this.#queue.length === 0) {
      this.#queue = [...this.#changedFiles].sort((a, b) => compareKeys(b, a))
      this.#changedFiles.clear()
    }
    return this.#queue.pop()
  }

  /** A descriptor came later than that of a file after it. */
  #sort(): void {
    for (const session of this.#unordered) sortFiles(session)
    this.#unordered.clear()
  }

  /** If everything is as it should be. If not, what is wrong is found out when it counts. */
  #buildFile(key: string, read: ReadRecord): void {
    const name = FILE + key
    const record = read('file', key)
    const fd = this.#loose.get(name)
    if (!record || !fd || wrongFields('file', record).length > 0) return
    const known = record as unknown as FileRecord
    const handler = this.#registry.get(known.compatible)
    if (!handler?.adoptsAhead || this.#registry.flbsOf(handler).length > 0) return
    try {
      const info = fileInfo(fd)
      this.#infos.set(name, info)
      const of = isOfKind(info, known.kind) ? this.#sessionOf(known.session, read) : undefined
      if (!of) return
      const { session, lastKey } = of
      const file = adoptFile(this.#orchestrator, session, { key, record: known, file: { fd, info } })
      this.#files.set(key, { record, of, file })
      addTo(of.files, file.about, 1)
      this.#loose.delete(name)
      this.#held.set(name, fd)
      if (compareKeys(key, this.#lastKey) > 0) this.#lastKey = key
      if (compareKeys(key, lastKey) > 0) of.lastKey = key
      else this.#unordered.add(session)
    } catch {
      // So it is, too.
    }
  }

  #sessionOf(id: string, read: ReadRecord): BuiltSession | undefined {
    const known = this.#sessions.get(id)
    if (known) return known
    const record = read('session', id)
    if (!record || wrongFields('session', record).length > 0) return undefined
    const { uid, name, custody } = record as unknown as SessionRecord
    const session = this.#orchestrator.adoptSession({ id, scope: String(uid), name, custody })
    const built = { uid, session, files: nothingCounted(), lastKey: '' }
    this.#sessions.set(id, built)
    return built
  }
}

function isStill({ uid, session }: BuiltSession, record: Json | undefined): boolean {
  return record?.name === session.name && record.uid === uid && wrongFields('session', record).length === 0
}

function fileOf(key: string): string | undefined {
  return key.startsWith(FILE) ? key.slice(FILE.length) : undefined
}
