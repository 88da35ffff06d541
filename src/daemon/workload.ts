/** A workload: one service, the version of it that runs, whoever supervises it, and the sessions that are its state. */
import type { WorkloadRecord } from '../abi/record-shapes.js'
import type * as wire from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { afterOf, stateOf } from './describe.js'
import type { Holding, LuodSession } from './holding.js'
import type { Recorded } from './journal.js'
import type { Member } from './member.js'
import type { Update } from './update.js'

export interface SupervisorLink {
  /** Of its request: the same one comes back with it. */
  id: string
  pid: number
  /** What it says that the workload needs, by name. */
  after: readonly string[]
  /**
   * Of a luod before this one, and since when it was not here, of the monotonic clock: it has a moment to come back,
   * and cannot be told anything before that.
   */
  awaySinceMs?: number
  /** Its connection is lost, and luod waits for it: ends that, when it has come back. */
  stopWaiting?: () => void
  /** False when it is gone. */
  tell(event: wire.Methods['Supervise']['output'], fds?: readonly Fd[]): boolean
}

export interface Workload {
  readonly id: string
  readonly uid: number
  readonly name: string
  /** 0: the state ends with its last holder. */
  keepMs: number
  /** How many versions have run on this state. */
  generation: number
  /** The one that its members hold. */
  session: LuodSession | undefined
  /** All of them, that one first. */
  readonly sessions: Set<Holding>
  member: Member | undefined
  supervisor: SupervisorLink | undefined
  update: Update | undefined
  /** The update before: a supervisor may speak of it when it is over. */
  lastUpdate: { id: string; committed: boolean } | undefined
  readonly recorded: Recorded
}

/** Nobody takes part in it yet, and it has no session. */
export function newWorkload(id: string, uid: number, name: string, recorded: Recorded): Workload {
  return {
    ...{ id, uid, name, recorded },
    keepMs: 0,
    generation: 0,
    session: undefined,
    sessions: new Set(),
    member: undefined,
    supervisor: undefined,
    update: undefined,
    lastUpdate: undefined,
  }
}

export function workloadRecord(workload: Workload): WorkloadRecord {
  const { uid, name, keepMs, generation, session, member, supervisor, lastUpdate } = workload
  return {
    ...{ uid, name, keep_ms: keepMs, generation, state: stateOf(workload), after: afterOf(workload) },
    ...(member ? { pid: member.pid, member: member.key } : {}),
    ...(session ? { session: session.id } : {}),
    ...(supervisor ? { supervisor: supervisorRecord(supervisor) } : {}),
    ...(lastUpdate ? { last_update: lastUpdate } : {}),
  }
}

function supervisorRecord({ id, pid, after, awaySinceMs }: SupervisorLink): WorkloadRecord['supervisor'] {
  return { id, pid, after: [...after], ...(awaySinceMs === undefined ? {} : { away_since_ms: awaySinceMs }) }
}
