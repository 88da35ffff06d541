/** What an update is asked for, what comes of it, and whom it waits for. */
import type { Phase } from '../protocol/types.js'
import type { Actor } from './events.js'
import type { UpdateEnd, UpdateEvent, UpdatePhase } from './update-machine.js'

export interface UpdateRequest {
  deadlineMs: number
  check: 'successor' | 'prepare' | undefined
  command: readonly string[] | undefined
  /** Who asked for it. */
  by: Actor
  /** A kexec has no new version: whoever let go stays where it is until the kernel ends. Undefined: an update. */
  purpose?: 'kexec'
}

export interface UpdateResult {
  outcome: UpdateEnd
  blackoutMs: number | undefined
  timeline: readonly Phase[]
}

/** An update as whoever asked for it sees it, also when it is over. */
export interface Followed {
  readonly id: string
  /** Of its record. */
  readonly key: string
  /** Name of the workload. */
  readonly workload: string
  readonly ended: boolean
  readonly finished: Promise<UpdateResult>
  /** Calls `listener` with every phase so far and to come. Answers how to stop that. */
  listen(listener: (phase: Phase) => void): () => void
  /** Nobody will ask how it has ended any more: it need not be recorded. */
  forget(): void
}

/** What an event says about itself, for the timeline. */
export interface Cause {
  who?: number
  reason?: string
  code?: string
}

/** Each begins something that concerns others: asking the old version, restoring, committing, and the end of a check. */
export const GATED: ReadonlySet<UpdateEvent> = new Set(['claimed', 'frozen', 'commitAsked', 'checkDone'])

/** Phases between what a client may notice first and last. */
export const HOLDING: ReadonlySet<UpdatePhase> = new Set(['preparing', 'restoring', 'committing', 'aborting'])

/** Whom a phase waits for, for the message of a deadline. */
export const WAITS: Partial<Record<UpdatePhase, (old: number | undefined, successor: number | undefined) => string>> = {
  starting: () => 'the new version did not join',
  joined: (_, successor) => `the new version (pid ${successor}) did not ask for the state`,
  preparing: (old) => `the old version (pid ${old}) did not let go`,
  restoring: (_, successor) => `the new version (pid ${successor}) did not commit`,
}

export function isOver(phase: UpdatePhase): phase is UpdateEnd {
  return ['committed', 'rolledBack', 'checked', 'orphaned'].includes(phase)
}
