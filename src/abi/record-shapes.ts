/**
 * What each record of luod holds: enough to build everything that it knows anew. Keys are numbers that are counted up,
 * and a record names another one by its key. Times that have to survive a clock that is set are of the monotonic clock.
 */
import type { Json } from './records.js'

/** Key 0. */
export type MetaRecord = {
  version: string
  pid: number
  /** Of the wall clock, in ms. */
  started_at: number
  /** Ids of sessions from here on were never given to anybody. */
  next_session: number
}

/** The key is its id. */
export type WorkloadRecord = {
  uid: number
  name: string
  keep_ms: number
  generation: number
  /** For people. */
  state: string
  /** For people. */
  pid?: number
  /** For people: all that it says it needs. */
  after: string[]
  /** Key of the one that runs. */
  member?: string
  /** Id of the one that its members hold. */
  session?: string
  /** `away_since_ms`: it was there before luod was replaced, and has not come back; of the monotonic clock. */
  supervisor?: { id: string; pid: number; after: string[]; away_since_ms?: number }
  /** The update before. */
  last_update?: { id: string; committed: boolean }
}

export type MemberRecord = {
  /** As clients know it. */
  id: string
  workload: string
  uid: number
  pid: number
  accepts: string[]
  after: string[]
  origin: 'new' | 'update' | 'crash'
  ready: boolean
  /** Key; none: nobody holds the session through it any more. */
  lifetime?: string
  /** What its commit was answered. */
  released?: 'word' | 'death' | 'none'
}

/** A descriptor of a session that was given out. */
export type LifetimeRecord = {
  session: string
  pid: number
  /** Key of the member that it was given out for. */
  member?: string
  /** Of the holder's end. */
  inode: string
  /** Id of the request that it answered. */
  request?: string
  /** Of the wall clock, in ms: for people, and for a build that does not know the next one. */
  given_at: number
  /** Of the monotonic clock, in ms. */
  given_at_ms?: number
}

/** The key is its id. */
export type SessionRecord = {
  workload?: string
  uid: number
  name: string
  custody: 'held' | 'frozen' | 'orphaned'
  keep_ms: number
  /** Of the wall clock, in ms. */
  created_at: number
  /** Of the wall clock, in ms: for people, and for a build that does not know the next one. */
  expires_at?: number
  /** Of the monotonic clock, in ms. */
  expires_at_ms?: number
  /** Keys of members. */
  made_by?: string
  heir?: string
  keeper?: string
}

/** In the order of the keys. */
export type FileRecord = {
  session: string
  token: string
  kind: string
  compatible: string
  format?: string
  bytes: number
  /** It is for updates only: a kexec leaves it behind. */
  until?: 'update'
  /** What its handler knows it by: a u64 in decimal. */
  data: string
}

export type UpdateRecord = {
  /** As clients know it. */
  id: string
  workload: string
  /** Of the workload. */
  name: string
  group: string | undefined
  phase: string
  /** How it has ended: it is kept for whoever asks again. */
  outcome: string | undefined
  deadline_ms: number
  check: 'successor' | 'prepare' | undefined
  command: string[] | undefined
  /** Why the old version is asked to let go, when that is not for a new one. */
  purpose?: 'kexec' | undefined
  by: { uid: number; pid: number }
  /** Keys of members. */
  old?: string | undefined
  successor?: string | undefined
  old_pid: number | undefined
  new_pid: number | undefined
  /** Whether the ticket is still good. */
  ticket: boolean
  targets: { key: string; pid: number }[]
  asked: boolean
  released: 'word' | undefined
  checked: boolean
  failure: { who?: number; reason?: string; code?: string }
  /** Of the monotonic clock, in ms, as the next three are. */
  started_ms: number
  deadline_at_ms: number | undefined
  asked_at_ms: number
  blackout_from_ms: number | undefined
  blackout_ms: number | undefined
  timeline: Json[]
}

/** What a request was answered, for when it is repeated. */
export type AnswerRecord = {
  uid: number
  id: string
  digest: string
  method: string
  output?: unknown
  /** Keys of updates, of a request that follows them. */
  updates?: string[]
  group?: string
}

/** What files share. */
export type FlbRecord = {
  compatible: string
  state: Json
}

export type RecordShapes = {
  meta: MetaRecord
  workload: WorkloadRecord
  session: SessionRecord
  file: FileRecord
  update: UpdateRecord
  history: Json
  member: MemberRecord
  lifetime: LifetimeRecord
  answer: AnswerRecord
  flb: FlbRecord
}
