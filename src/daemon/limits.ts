/**
 * A limit on everything that a client controls: here those that nobody sets, and in `user-limits.ts` what one user may
 * have. They are far above what a real workload needs; whoever reaches one gets LUO_LIMIT (how many) or
 * LUO_INVALID_PARAMETER (how long), and nothing else happens. `luoctl status` shows them.
 */
import { checkName } from '../core/names.js'
import { LuoError } from '../errors.js'

export const LIMITS = {
  /** Emulated machines of one user. */
  machines: 16,
  /** Further ones of one workload: an update hands them over, and tells of all in one message. */
  workload_sessions: 255,
  /** Formats that one version accepts. */
  accepts: 64,
  /** Workloads that one workload says it needs, and workloads updated as one. */
  after: 16,
  group: 32,
  format_bytes: 128,
  reason_bytes: 1_024,
  id_bytes: 128,
  command_words: 1_024,
  command_bytes: 64 * 1024,
  keep_ms: 7 * 24 * 3_600_000,
  deadline_ms: 3_600_000,
  /** Answers kept for repeated requests, of one user: how many, and what they take. The largest has some 150 KB. */
  answers: 1_024,
  answers_bytes: 4 * 1024 * 1024,
  /** Users that one answer of `Status` tells of. */
  status_users: 1_024,
  /** Events kept of one workload, and of all of one user's together. */
  history_events: 256,
  history_user_events: 4_096,
  /** More of an event's words are cut off. */
  detail_bytes: 512,
} as const

export const DEFAULT_DEADLINE_MS = 10_000
/** How long an old version may take, after it has let go, to give its word for it. */
export const FENCE_MS = 1_000
/** How long whoever was connected may take to come back, when the connection was lost and its process lives. */
export const RECONNECT_MS = 1_000
/**
 * Whoever watches an update may hear of a phase this much later: while clients wait, the processor is for the versions.
 */
export const NOTIFY_DELAY_MS = 25
/** Events may wait this long to be recorded, for an update that holds requests back. */
export const HISTORY_POSTPONE_MS = 1_000
/** A refusal within this time after one of its sort is counted, and is no event of its own. */
export const HISTORY_REPEAT_MS = 3_600_000
/** A killed process never runs again, even if the kernel takes longer than this to clear it away. */
export const KILL_WAIT_MS = 2_000
/**
 * After luod has come back, whoever was there before has this long to come back too; then it counts as gone. A client
 * tries again within milliseconds; this is for one that the processor is busy elsewhere for.
 */
export const RESTORE_WAIT_MS = 5_000
/**
 * How long an old version may take to come back and give its word, in a luod that found the update committing since
 * `sinceMs`: however often luod is replaced meanwhile, the successor does not wait for ever.
 */
export function fenceLeftMs(sinceMs: number): number {
  return Math.max(RECONNECT_MS, RESTORE_WAIT_MS - sinceMs)
}
/** A descriptor that was given out this shortly before luod ended may not have arrived: its request may be repeated. */
export const RECENT_HOLD_MS = 30_000
/** For state that nobody asked to keep, and that both versions of an update left behind. */
export const LEFT_BEHIND_KEEP_MS = 60_000

function invalid(parameter: string, message: string): LuoError {
  return new LuoError('LUO_INVALID_PARAMETER', `${parameter} ${message}`, { params: { parameter } })
}

export function checkText(parameter: string, value: string, limit: number): string {
  const bytes = Buffer.byteLength(value)
  if (bytes > 0 && bytes <= limit && !value.includes('\0')) return value
  throw invalid(parameter, `has ${bytes} bytes: 1 to ${limit} are allowed, and no NUL`)
}

export function checkNumber(parameter: string, value: number, low: number, high: number): number {
  if (value >= low && value <= high) return value
  throw invalid(parameter, `is ${value}: ${low} to ${high} are allowed`)
}

export function checkWorkloadName(name: string, parameter = 'workload'): string {
  try {
    return checkName(name)
  } catch (error) {
    throw invalid(parameter, (error as LuoError).message)
  }
}

/** Exactly one of several parameters that exclude each other. */
export function checkOneOf(given: Readonly<Record<string, unknown>>): void {
  const names = Object.keys(given)
  const count = names.filter((name) => given[name] !== undefined).length
  if (count !== 1) throw invalid(names[0] ?? '', `: give one of ${names.join(', ')}, and ${count} are given`)
}

export function checkAfter(after: readonly string[]): readonly string[] {
  if (after.length > LIMITS.after) throw invalid('after', `has ${after.length} names: ${LIMITS.after} go`)
  for (const name of after) checkWorkloadName(name, 'after')
  return after
}

export function checkGroup(workloads: readonly string[]): readonly string[] {
  const { length } = workloads
  if (length < 1 || length > LIMITS.group) throw invalid('workloads', `has ${length} names: 1 to ${LIMITS.group} go`)
  const twice = workloads.find((name, index) => workloads.indexOf(name) !== index)
  if (twice !== undefined) throw invalid('workloads', `has ${twice} twice`)
  return workloads
}

export function checkAccepts(accepts: readonly string[]): readonly string[] {
  if (accepts.length > LIMITS.accepts) throw invalid('accepts', `has ${accepts.length} formats: ${LIMITS.accepts} go`)
  for (const format of accepts) checkText('accepts', format, LIMITS.format_bytes)
  return accepts
}

export function checkCommand(command: readonly string[]): readonly string[] {
  const bytes = command.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0)
  const fits = command.length > 0 && command.length <= LIMITS.command_words && bytes <= LIMITS.command_bytes
  if (!fits || command.some((word) => word.includes('\0'))) {
    throw invalid('command', `has ${command.length} words and ${bytes} bytes, or a NUL in one`)
  }
  return command
}
