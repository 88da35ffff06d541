/**
 * All workloads let go, before a kexec: each by an update that has no new version (`Update.forKexec`), dependents
 * first, as in a group. It has passed when all of them are frozen, and none of them goes on until it is ended. One that
 * does not let go is the end of it, and the others go on.
 *
 * A workload that does not listen for updates is not asked: what it has preserved crosses as it is.
 */
import { LuoError } from '../errors.js'
import type { Phase } from '../protocol/types.js'
import { Gate } from './gate.js'
import { GroupPlan } from './group.js'
import { LIMITS } from './limits.js'
import type { State } from './state.js'
import { Update } from './update.js'
import type { UpdateRequest } from './update-types.js'
import { Waiting } from './waiting.js'
import type { Workload } from './workload.js'

type OnPhase = (workload: string, update: string, phase: Phase) => void

export class KexecBarrier extends Gate {
  /** Id of the kexec. */
  readonly group: string
  readonly #passed = new Waiting<void>()
  readonly #workloads = new Map<Update, Workload>()
  readonly #plan: GroupPlan<Workload>
  readonly #state: State
  #ending = false

  /** LUO_UPDATING, LUO_WRONG_STATE when a workload cannot be asked now; then none was. */
  constructor(group: string, state: State, request: UpdateRequest, onPhase: OnPhase) {
    super()
    this.group = group
    this.#state = state
    const workloads = state.workloads(0).filter(mustBeAsked)
    this.#plan = new GroupPlan(workloads, (workload) => state.needsOf(workload))
    for (const workload of workloads) {
      const update = Update.forKexec(state, workload, { ...request, purpose: 'kexec' }, this)
      update.listen((phase) => onPhase(workload.name, update.id, phase))
      this.byWorkload.set(workload, update)
      this.#workloads.set(update, workload)
    }
    for (const update of this.byWorkload.values()) update.begin()
    this.changed()
  }

  /** Resolves when everything is frozen; rejects with what the first one said that is not, when all go on again. */
  get passed(): Promise<void> {
    return this.#passed.promise
  }

  /** Whether all are frozen, and nobody takes up what was left meanwhile. */
  get stands(): boolean {
    const others = this.#state.workloads(0).some(({ update }) => update && !this.#workloads.has(update))
    return !others && [...this.byWorkload.values()].every(({ atGate }) => atGate === 'frozen')
  }

  lets(update: Update): boolean {
    const workload = this.#workloads.get(update)
    if (update.atGate === 'checkDone') return true
    return update.atGate === 'claimed' && workload !== undefined && this.#plan.mayGoOn(workload, this.standing, false)
  }

  /** Everybody goes on. */
  async abort(reason: LuoError): Promise<void> {
    this.#ending = true
    const { code, message } = reason
    for (const update of this.byWorkload.values()) {
      update.event('abortAsked', { code, reason: message.slice(0, LIMITS.reason_bytes) })
    }
    await this.#ended()
    if (!this.#passed.settled) this.#passed.fail(reason)
  }

  /** Everybody goes on: it was a dry run. */
  async endCheck(): Promise<void> {
    for (const update of this.byWorkload.values()) update.event('checkDone')
    await this.#ended()
  }

  async #ended(): Promise<void> {
    await Promise.all([...this.byWorkload.values()].map(({ finished }) => finished))
  }

  protected override look(): void {
    if (this.#passed.settled || this.#ending) return
    for (const [workload, update] of this.byWorkload) {
      if (this.standing(workload) === 'failed') return this.#fail(workload, update)
      if (this.standing(workload) === 'claimed' && this.#plan.mayGoOn(workload, this.standing, false)) update.retry()
    }
    if ([...this.byWorkload.values()].every(({ atGate }) => atGate === 'frozen')) this.#passed.answer()
  }

  #fail({ name }: Workload, { failure: { code = 'LUO_ABORTED', reason = 'its update ended' } }: Update): void {
    void this.abort(new LuoError(code as LuoError['code'], `kexec: the workload ${name} does not let go: ${reason}`))
  }
}

function mustBeAsked({ name, member, update }: Workload): boolean {
  if (update) throw new LuoError('LUO_UPDATING', `kexec: an update of the workload ${name} is under way (${update.id})`)
  if (!member?.alive) return false
  if (!member.ready)
    throw new LuoError('LUO_WRONG_STATE', `kexec: the workload ${name} is starting (pid ${member.pid})`)
  return member.listens
}
