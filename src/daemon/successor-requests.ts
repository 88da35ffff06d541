/** The two requests of a successor that are answered later: for the state, and for the commit. */
import { LuoError } from '../errors.js'
import { MAX_FDS } from '../protocol/interface.js'
import type { Methods } from '../protocol/types.js'
import { describeFile, describeSession } from './describe.js'
import { handedOn, ownHolding } from './holding.js'
import type { Cause } from './update-types.js'
import { Waiting } from './waiting.js'
import type { Workload } from './workload.js'

export type ClaimAnswer = Methods['Claim']['output']
export type CommitAnswer = Methods['Commit']['output']

export class SuccessorRequests {
  readonly #workload: Workload
  #claim: Waiting<ClaimAnswer> | undefined
  #commit: Waiting<CommitAnswer> | undefined

  constructor(workload: Workload) {
    this.#workload = workload
  }

  get hasClaimed(): boolean {
    return this.#claim !== undefined
  }

  get claimWaits(): boolean {
    return this.#claim?.settled === false
  }

  get hasCommitted(): boolean {
    return this.#commit !== undefined
  }

  claim(): Promise<ClaimAnswer> {
    this.#claim = new Waiting()
    return this.#claim.promise
  }

  commit(): Promise<CommitAnswer> {
    this.#commit = new Waiting()
    return this.#commit.promise
  }

  /** Answers the claim, if there is one. LUO_GONE when the session has ended. */
  giveState(): void {
    this.#claim?.answer(this.#describe())
  }

  answerCommit(answer: CommitAnswer): void {
    this.#commit?.answer(answer)
  }

  /** What still waits will not be answered any more. */
  fail(cause: Cause): void {
    const code = (cause.code ?? 'LUO_ABORTED') as 'LUO_ABORTED'
    for (const waiting of [this.#claim, this.#commit]) {
      if (!waiting || waiting.settled) continue
      waiting.fail(new LuoError(code, `the update ended: ${cause.reason ?? 'aborted'}`))
    }
  }

  #describe(): ClaimAnswer {
    const own = ownHolding(this.#workload)
    if (!own) throw new LuoError('LUO_GONE', 'claim: the session has ended')
    const { session } = own
    const files = own.files.page({ limit: MAX_FDS }).map(describeFile)
    const sessions = handedOn(this.#workload).map(describeSession)
    return { session: session.id, files, total: session.files.size, sessions, fds: files.length }
  }
}
