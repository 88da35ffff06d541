/**
 * The emulated machines of this luod, by user and name. One that nobody runs programs on is there for as long as it
 * holds what a generation handed over.
 */
import { LuoError } from '../errors.js'
import { LIMITS, RESTORE_WAIT_MS } from './limits.js'
import { Machine, type MachineOptions, type MachineState } from './machine.js'
import { MACHINES_VERSION } from './machines-state.js'

export class Machines {
  readonly #machines = new Map<string, Machine>()
  readonly #onEnded: () => void
  #timer: NodeJS.Timeout | undefined

  constructor(onEnded: () => void) {
    this.#onEnded = onEnded
  }

  get size(): number {
    return this.#machines.size
  }

  /** Those that this user may see. */
  list(uid: number): Machine[] {
    return [...this.#machines.values()].filter((machine) => uid === 0 || machine.uid === uid)
  }

  /** LUO_NOT_FOUND when this user has none of this name. */
  get(uid: number, name: string): Machine {
    const machine = this.#machines.get(keyOf(uid, name))
    if (machine) return machine
    throw new LuoError('LUO_NOT_FOUND', `find the machine ${name}: uid ${uid} has none of this name`)
  }

  /** Made if there is none; LUO_LIMIT when this user has too many. */
  ensure(uid: number, name: string, options: MachineOptions): Machine {
    const known = this.#machines.get(keyOf(uid, name))
    if (known) return known
    const count = [...this.#machines.values()].filter((machine) => machine.uid === uid).length
    if (count >= LIMITS.machines) {
      throw new LuoError('LUO_LIMIT', `start the machine ${name}: uid ${uid} has ${count}, of ${LIMITS.machines}`)
    }
    const machine = new Machine(uid, name, options, () => this.endIdle(machine))
    this.#machines.set(keyOf(uid, name), machine)
    return machine
  }

  // --- for a luod that takes the place of this one -------------------------------------------------------------------

  /**
   * LUO_UPDATING, which names it, when there is one that no other luod could go on with now, LUO_RECORDS_VERSION when
   * `by` does not read their state.
   */
  mustBeReplaceable(by?: { readonly machines: readonly number[] }): void {
    for (const machine of this.#machines.values()) machine.mustBeReplaceable()
    if (!by || this.size === 0 || by.machines.includes(MACHINES_VERSION)) return
    const names = this.list(0).map(({ name, uid }) => `${name} of uid ${uid}`)
    throw new LuoError(
      'LUO_RECORDS_VERSION',
      `upgrade luod: that build cannot go on with emulated machines of version ${MACHINES_VERSION}: ` +
        `${names.join(', ')}; end them first (luoctl machines --end)`,
    )
  }

  /** Nothing is answered and nothing happens on any machine, until `resume`. */
  pause(): void {
    for (const machine of this.#machines.values()) machine.pause()
  }

  resume(): void {
    for (const machine of this.#machines.values()) machine.resume()
  }

  /** All of them, while they are paused. */
  save(): MachineState[] {
    return [...this.#machines.values()].map((machine) => machine.save())
  }

  /**
   * Goes on with those of another luod. Their descriptors are this one's from here on; when this fails they are the
   * caller's to close.
   */
  restore(states: readonly MachineState[], options: (state: MachineState) => MachineOptions): void {
    if (states.length === 0) return
    for (const state of states) {
      const machine: Machine = Machine.restore(state, options(state), () => this.endIdle(machine))
      this.#machines.set(keyOf(state.uid, state.name), machine)
    }
    this.#timer = setTimeout(() => {
      for (const machine of [...this.#machines.values()]) {
        machine.forgetAbsent()
        this.endIdle(machine)
      }
    }, RESTORE_WAIT_MS)
  }

  /** Ends it if there is no reason for it to be there. */
  endIdle(machine: Machine): void {
    if (machine.idle) this.end(machine)
  }

  end(machine: Machine): void {
    if (!this.#machines.delete(keyOf(machine.uid, machine.name))) return
    machine.close()
    this.#onEnded()
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const machine of this.#machines.values()) machine.close()
    this.#machines.clear()
  }
}

function keyOf(uid: number, name: string): string {
  return `${uid}\0${name}`
}
