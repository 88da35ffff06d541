/**
 * The update as a table: which event leads from which phase to which, and what is to be done on the way. Nothing
 * happens here; `update.ts` does what the table says. docs/update.md has the drawing, and a test compares the two.
 *
 *     starting → joined → preparing → restoring → committing → committed
 *         └─────────┴─────────┴───────────┴──→ aborting → rolledBack | checked | orphaned
 *
 * Until `committing` every failure leads to `aborting`: the successor is killed and waited for, then the old version
 * goes on. From `committing` on there is no way back but one: the successor has said that it is whole, the old version
 * is told to let go, and is killed when it does not. Only a version that went on by itself, while luod was away, says so
 * instead of its word: then it keeps the state. An event that a phase has no row for changes nothing.
 */

export const PHASES = [
  'starting',
  'joined',
  'preparing',
  'restoring',
  'committing',
  'aborting',
  'committed',
  'rolledBack',
  'checked',
  'orphaned',
] as const
export type UpdatePhase = (typeof PHASES)[number]
export type UpdateEnd = 'committed' | 'rolledBack' | 'checked' | 'orphaned'

export const EVENTS = [
  /** The successor showed its ticket and accepts the state. */
  'joined',
  /** It asks for the state. */
  'claimed',
  /** The old version has let go. */
  'oldReady',
  /** It does not let go; or it had, but luod was away for too long, so that it went on. */
  'oldRefused',
  'oldDied',
  /** The state is in luod's custody. */
  'frozen',
  /** The successor is whole. */
  'commitAsked',
  /** The old version's word, after `release`, that it touches nothing any more. */
  'oldReleased',
  /** It did not give its word in time. */
  'fenceLate',
  'successorDied',
  /** It could not be started, or was turned away when it joined. */
  'successorFailed',
  'supervisorGone',
  'deadline',
  'abortAsked',
  /** A check has seen what it wanted. */
  'checkDone',
  /** Whatever of the successor was alive is dead. */
  'successorGone',
] as const
export type UpdateEvent = (typeof EVENTS)[number]

export type UpdateAction =
  /** Ask the old version to let go; the blackout begins. */
  | 'askOld'
  /** The state is luod's from here on. */
  | 'freeze'
  /** Answer the successor's claim. */
  | 'giveState'
  /** It is the successor's, as soon as the old version has given its word or is dead. */
  | 'release'
  /** Answer the commit; the blackout ends. */
  | 'handOver'
  | 'killOld'
  | 'killSuccessor'
  /** The old version goes on as it was; without one the state waits for a restart, or ends. */
  | 'goBack'
  /** Both are dead: the state waits for a restart. */
  | 'orphan'

export interface Move {
  to: UpdatePhase
  actions: readonly UpdateAction[]
}

const abort: Move = { to: 'aborting', actions: ['killSuccessor'] }
const failures = {
  oldDied: abort,
  successorDied: abort,
  successorFailed: abort,
  supervisorGone: abort,
  deadline: abort,
  abortAsked: abort,
  checkDone: abort,
} as const

export const UPDATE_TABLE: Readonly<Record<UpdatePhase, Partial<Record<UpdateEvent, Move>>>> = {
  starting: { ...failures, joined: { to: 'joined', actions: [] } },
  joined: { ...failures, claimed: { to: 'preparing', actions: ['askOld'] } },
  preparing: { ...failures, oldRefused: abort, oldReady: { to: 'restoring', actions: ['freeze'] } },
  restoring: {
    ...failures,
    // Frozen state needs no old version: only the way back is gone.
    oldDied: { to: 'restoring', actions: [] },
    oldRefused: abort,
    frozen: { to: 'restoring', actions: ['giveState'] },
    commitAsked: { to: 'committing', actions: ['release'] },
  },
  committing: {
    oldRefused: abort,
    oldReleased: { to: 'committed', actions: ['handOver'] },
    oldDied: { to: 'committed', actions: ['handOver'] },
    fenceLate: { to: 'committing', actions: ['killOld'] },
    successorDied: { to: 'orphaned', actions: ['killOld', 'orphan'] },
  },
  // What the end is called depends on why it aborts, and on whether the old version is there: see `endOf`.
  aborting: { successorGone: { to: 'rolledBack', actions: ['goBack'] } },
  committed: {},
  rolledBack: {},
  checked: {},
  orphaned: {},
}

export function nextMove(phase: UpdatePhase, event: UpdateEvent): Move | undefined {
  return UPDATE_TABLE[phase][event]
}

/** What the end of an aborted update is. */
export function endOf({ checked, oldAlive }: { checked: boolean; oldAlive: boolean }): UpdateEnd {
  if (!oldAlive) return 'orphaned'
  return checked ? 'checked' : 'rolledBack'
}
