/** What a luod is restored from (`restore.ts`), as a replica has gathered it and built part of it (`replica.ts`). */
import type { Records } from '../abi/records.js'
import type { Fd } from '../sys/fd.js'
import type { FileInfo } from '../sys/file-info.js'
import type { LuodOrchestrator, LuodSession } from './holding.js'
import type { FilesCount } from './session-files.js'

/** strict: what is wrong is LUO_RECORDS. recover: it is listed, and left out. */
export type RestoreMode = 'strict' | 'recover'

/** A session with files. What it has is its name and these. */
export interface AheadSession {
  readonly session: LuodSession
  readonly files: FilesCount
}

/** What is built already, and was checked then. */
export interface Ahead {
  readonly orchestrator: LuodOrchestrator
  /** Whether a file, by the key of its record, is in its session: with what its record says, and its descriptor. */
  has(file: string): boolean
  /** How many there are, and a key that none of them is above. */
  readonly size: number
  readonly lastKey: string
  /** By its id, of those that have such files. */
  session(id: string): AheadSession | undefined
  /** The descriptors of these files, by the keys of the vault. */
  readonly held: Map<string, Fd>
}

export interface Gathered {
  records: Pick<Records, 'get' | 'entries'>
  /** By the keys of the vault, those of `ahead` left out. */
  descriptors: Map<string, Fd>
  /** Of descriptors that were looked at, by their keys. */
  infos: Map<string, FileInfo>
  ahead: Ahead
  /** What was wrong with the bytes of the records. */
  damage: readonly string[]
}

export interface RestoreSource extends Gathered {
  records: Records
  mode: RestoreMode
}

/** A file of a tmpfs is the other kind once its name is gone. */
const NAMED_OR_NOT: ReadonlySet<string> = new Set(['file', 'shmem'])

/** Whether a file is of the kind that is recorded of it. */
export function isOfKind({ kind }: FileInfo, recorded: string): boolean {
  return kind === recorded || (NAMED_OR_NOT.has(kind) && NAMED_OR_NOT.has(recorded))
}
