/**
 * What one user may have of luod, and the option that sets it: `luod --limit NAME=N`. What nobody set has a default
 * that is far above what a real workload needs.
 *
 * Files are descriptors of luod, so their limit follows from its own, RLIMIT_NOFILE. Some always stay back for luod and
 * for connections. A luod that serves every user keeps half for the others, unless it is told otherwise.
 *
 * An unknown name, a bad number, or more files than there can be is LUO_INVALID_PARAMETER.
 */
import { LuoError } from '../errors.js'

const DEFAULTS = {
  connections: 256,
  workloads: 64,
  sessions: 1_024,
  files: 16_384,
  /** Of memory files, as they were when they were preserved; else as much as the machine has. */
  bytes: Number.POSITIVE_INFINITY,
  /** Streams of events. */
  watchers: 32,
}

export type LimitName = keyof typeof DEFAULTS
export type UserLimits = Readonly<Record<LimitName, number>>
export const LIMIT_NAMES = Object.keys(DEFAULTS) as readonly LimitName[]

/**
 * Descriptors that no preserved file gets: two for each of 256 connections, one for each of 1,024 sessions, and some
 * for processes and records. Of a small limit it is half.
 */
const RESERVED_FILES = 2_048
/** Each session is a descriptor of luod too; of a small limit they get this part. */
const SESSIONS_SHARE = 1 / 8
/** Two descriptors each; of a small limit they get this part. */
const CONNECTIONS_SHARE = 1 / 32
/** Files on their way: as many as a few full messages have, and of a small limit this part, for each direction. */
const UNDER_WAY_FILES = 1_024
const UNDER_WAY_SHARE = 1 / 32
/**
 * Bytes on their way, for each direction: sixteen of the longest messages. Requests that wait are objects by then,
 * which take twenty times as much when they are made for that.
 */
const UNDER_WAY_BYTES = 16 * 2 ** 20
/** Of everything but bytes; more is a slip of the pen. */
const MAX_COUNT = 1_000_000_000
const UNITS: Readonly<Record<string, number>> = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }

export interface Machine {
  /** luod's own limit on open files. */
  nofile: number
  /** Whether luod serves every user. */
  shared: boolean
  /** Bytes of memory. */
  memory: number
}

/** Reads `NAME=N` of each `--limit`; the last of one name counts. */
export function parseLimits(texts: readonly string[]): Partial<UserLimits> {
  return Object.fromEntries(texts.map(parseLimit))
}

function parseLimit(text: string): [LimitName, number] {
  const [, given, digits, unit = ''] = /^(\w+)=(\d+)([KMGT]iB)?$/.exec(text) ?? []
  const name = LIMIT_NAMES.find((known) => known === given)
  const value = Number(digits) * (UNITS[unit] ?? 1)
  const highest = name === 'bytes' ? Number.MAX_SAFE_INTEGER : MAX_COUNT
  const fits = value >= 1 && value <= highest && (unit === '' || name === 'bytes')
  if (name && fits) return [name, value]
  const range = name ? `${name} can be 1 to ${highest}` : `the names are ${LIMIT_NAMES.join(', ')}`
  throw invalid(`--limit ${text}: write NAME=N, for bytes also with KiB, MiB, GiB or TiB; ${range}`)
}

/** What holds for each user. */
export function userLimits(given: Partial<UserLimits>, { nofile, shared, memory }: Machine): UserLimits {
  const half = Math.floor(nofile / 2)
  const most = Math.max(nofile - RESERVED_FILES, half)
  if (given.files !== undefined && given.files > most) {
    const why = `luod may have ${nofile} open files and keeps ${nofile - most} back`
    throw invalid(`--limit files=${given.files}: ${most} go, because ${why}; raise its LimitNOFILE, or ulimit -n`)
  }
  const sessions = Math.min(DEFAULTS.sessions, Math.floor(nofile * SESSIONS_SHARE))
  const connections = Math.min(DEFAULTS.connections, Math.floor(nofile * CONNECTIONS_SHARE))
  const files = Math.min(DEFAULTS.files, shared ? half : most)
  return { ...DEFAULTS, bytes: memory, sessions, connections, files, ...given }
}

/** What of one user may be on its way, to luod and from it each, before that user's connections wait. */
export function underWay(nofile: number): { files: number; bytes: number } {
  const files = Math.max(1, Math.min(UNDER_WAY_FILES, Math.floor(nofile * UNDER_WAY_SHARE)))
  return { files, bytes: UNDER_WAY_BYTES }
}

function invalid(message: string): LuoError {
  return new LuoError('LUO_INVALID_PARAMETER', message)
}
