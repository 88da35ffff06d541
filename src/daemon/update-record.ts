/** How an update is recorded: as it is now, or how it has ended, for whoever asks again. */
import type { UpdateRecord } from '../abi/record-shapes.js'
import type { Change, Json } from '../abi/records.js'
import type { Phase } from '../protocol/types.js'
import type { Member } from './member.js'
import type { UpdateEnd, UpdatePhase } from './update-machine.js'
import type { Cause, Followed, UpdateRequest, UpdateResult } from './update-types.js'
import type { Workload } from './workload.js'

/** What changes in the course of an update. A luod after this one goes on from it. */
export interface UpdateFacts {
  phase: UpdatePhase
  /** Whether the old version was asked to let go, and so must be told how it ended. */
  asked: boolean
  released: 'word' | undefined
  /** It was a check that has seen what it wanted. */
  checked: boolean
  /** Why it does not commit, if that is known. */
  failure: Cause
  /** These three are of the monotonic clock. */
  deadlineAtMs: number | undefined
  askedAtMs: number
  /** When requests were first held back. */
  blackoutFromMs: number | undefined
  blackoutMs: number | undefined
}

export function newFacts(phase: UpdatePhase): UpdateFacts {
  return {
    phase,
    asked: false,
    released: undefined,
    checked: false,
    failure: {},
    deadlineAtMs: undefined,
    askedAtMs: 0,
    blackoutFromMs: undefined,
    blackoutMs: undefined,
  }
}

export interface Recordable {
  readonly id: string
  readonly group: string | undefined
  readonly request: UpdateRequest
  readonly successor: Member | undefined
}

export function updateChange(
  key: string,
  { id, group, request, successor }: Recordable,
  facts: UpdateFacts,
  more: {
    workload: Workload
    old: Member | undefined
    ticket: boolean
    targets: { key: string; pid: number }[]
    startedMs: number
    phases: readonly Phase[]
    outcome: UpdateEnd | undefined
  },
): Change {
  const { workload, old, phases, outcome, startedMs, targets, ticket } = more
  const { deadlineMs, check, command, purpose, by } = request
  const value: UpdateRecord = {
    ...{ id, workload: workload.id, name: workload.name, group, phase: facts.phase, outcome },
    ...{ deadline_ms: deadlineMs, check, purpose, by: { uid: by.uid, pid: by.pid } },
    // Nobody is started any more by one that is over.
    command: outcome === undefined ? command && [...command] : undefined,
    ...(outcome === undefined ? { old: old?.key, successor: successor?.key } : {}),
    ...{ old_pid: old?.pid, new_pid: successor?.pid, ticket, targets },
    ...{ asked: facts.asked, released: facts.released, checked: facts.checked, failure: facts.failure },
    ...{ started_ms: startedMs, deadline_at_ms: facts.deadlineAtMs, asked_at_ms: facts.askedAtMs },
    ...{ blackout_from_ms: facts.blackoutFromMs, blackout_ms: facts.blackoutMs },
    timeline: phases as unknown as Json[],
  }
  return { type: 'update', key, value: value }
}

export function factsOf(record: UpdateRecord): UpdateFacts {
  return {
    phase: record.phase as UpdatePhase,
    asked: record.asked,
    released: record.released,
    checked: record.checked,
    failure: record.failure,
    deadlineAtMs: record.deadline_at_ms,
    askedAtMs: record.asked_at_ms,
    blackoutFromMs: record.blackout_from_ms,
    blackoutMs: record.blackout_ms,
  }
}

export function requestOf({ deadline_ms: deadlineMs, check, command, purpose, by }: UpdateRecord): UpdateRequest {
  return { deadlineMs, check, command, by, ...(purpose ? { purpose } : {}) }
}

/** One that was over before luod was replaced. */
export function finishedUpdate(key: string, record: UpdateRecord, forget: () => void): Followed {
  const timeline = record.timeline as unknown as Phase[]
  const result: UpdateResult = { outcome: record.outcome as UpdateEnd, blackoutMs: record.blackout_ms, timeline }
  return {
    key,
    id: record.id,
    workload: record.name,
    ended: true,
    finished: Promise.resolve(result),
    listen: (listener) => {
      for (const phase of timeline) listener(phase)
      return () => {}
    },
    forget,
  }
}
