/**
 * What the parts of an update share. `update.ts` is what others see of it, `update-course.ts` follows the table,
 * `update-actions.ts` does what the table says, `old-version.ts` and `successor-requests.ts` speak with the two sides.
 */
import { randomUUID } from 'node:crypto'
import type { UpdateRecord } from '../abi/record-shapes.js'
import type { Phase } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { sameOpenFile } from '../sys/file-info.js'
import type { Gate } from './gate.js'
import type { Journal } from './journal.js'
import type { Member } from './member.js'
import type { State } from './state.js'
import { SuccessorRequests } from './successor-requests.js'
import { Targets } from './targets.js'
import { Timeline } from './timeline.js'
import { factsOf, newFacts, type UpdateFacts } from './update-record.js'
import type { UpdateRequest } from './update-types.js'
import type { VaultKey } from './vault.js'
import type { Workload } from './workload.js'

export interface UpdateParts {
  readonly id: string
  /** Of its record. */
  readonly key: string
  /** Id of the group that it is, or was, updated in. */
  readonly group: string | undefined
  readonly request: UpdateRequest
  /** Of orphaned state, by a new instance after a crash. */
  readonly isClaim: boolean
  readonly state: State
  readonly workload: Workload
  readonly old: Member | undefined
  successor: Member | undefined
  readonly facts: UpdateFacts
  readonly timeline: Timeline
  readonly targets: Targets
  readonly ticket: Ticket
  readonly requests: SuccessorRequests
  ended(): boolean
  /** What has changed is recorded with the next commit. */
  record(): void
}

export type Recalled = UpdateRecord & { key: string }

export interface Origin {
  request: UpdateRequest
  old?: Member | undefined
  gate?: Gate | undefined
  /** What a luod before this one wrote down. */
  record?: Recalled
}

interface Calls {
  ended(): boolean
  record(): void
  onTargetEnded(pid: number): void
}

export function newParts(state: State, workload: Workload, from: Origin, calls: Calls): UpdateParts {
  const { request, old, gate, record } = from
  const { journal, turnstile } = state
  const { onTargetEnded: onEnded, ended, record: recordIt } = calls
  const key = record?.key ?? state.nextUpdateKey()
  const isClaim = record ? record.old === undefined : old === undefined
  const known = record && { startedMs: record.started_ms, phases: record.timeline as unknown as Phase[] }
  return {
    ...{ id: record?.id ?? randomUUID(), key, group: record?.group ?? gate?.group },
    ...{ request, isClaim, state, workload, old, successor: undefined },
    facts: record ? factsOf(record) : newFacts(isClaim ? 'restoring' : 'starting'),
    timeline: new Timeline(turnstile, known),
    targets: new Targets({ update: key, journal, turnstile, onEnded }),
    ticket: new Ticket(journal, key),
    requests: new SuccessorRequests(workload),
    ...{ ended, record: recordIt },
  }
}

/** Tells somebody of it, when a luod after this one knows of it too; without `unrecorded`, also when it cannot. */
export function tellRecorded(parts: UpdateParts, tell: () => void, unrecorded?: (error: unknown) => void): void {
  parts.record()
  parts.state.journal.tell(tell, unrecorded)
}

/** What the successor shows when it joins. */
export class Ticket {
  readonly #journal: Journal
  readonly #key: VaultKey
  /** A copy: while it is open, no other file can be taken for it. */
  #file: Fd | undefined

  constructor(journal: Journal, update: string) {
    this.#journal = journal
    this.#key = `ticket/${update}`
  }

  /** Undefined: it is not good any more. */
  get file(): Fd | undefined {
    return this.#file
  }

  /** Owns `file`. */
  take(file: Fd): void {
    this.#file = file
    this.#journal.keep(this.#key, file)
  }

  is(file: Fd): boolean {
    return this.#file !== undefined && sameOpenFile(this.#file, file)
  }

  void(): void {
    if (!this.#file) return
    this.#file.close()
    this.#file = undefined
    this.#journal.drop(this.#key)
  }
}
