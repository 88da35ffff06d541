/**
 * Several workloads, some of which need others, updated as one: the order, and what becomes of the rest when one fails.
 * Pure; `group-update.ts` asks, `docs/update.md` explains.
 *
 * A workload that needs another one is its *dependent*. What it needs, it may reach through workloads that are not in
 * the group, so the order goes by everything that this user's workloads have declared.
 *
 * Dependents let go first: a request under way in one may need an answer of what it depends on. They go on last. Until
 * the first commit all of them roll back when one fails. After it, those roll back that depend on what did not commit.
 */
import { LuoError } from '../errors.js'
import type { UpdateEvent, UpdatePhase } from './update-machine.js'

/** All that `start` reaches over one step or more, each with that from which it was reached first. */
function reach<T>(start: T, needs: (node: T) => readonly T[]): Map<T, T> {
  const reached = new Map<T, T>()
  const stack = [start]
  for (let from = stack.pop(); from !== undefined; from = stack.pop()) {
    for (const to of needs(from)) {
      if (reached.has(to)) continue
      reached.set(to, from)
      stack.push(to)
    }
  }
  return reached
}

/**
 * LUO_CYCLE when `name` would need itself if it also needed all of `more`. `needs` says what the others need, by name;
 * a name that nobody has needs nothing.
 */
export function checkCycle(name: string, more: readonly string[], needs: (name: string) => readonly string[]): void {
  const reached = reach(name, (node) => (node === name ? more : needs(node)))
  let by = reached.get(name)
  if (by === undefined) return
  const cycle = [name]
  for (; by !== undefined && by !== name; by = reached.get(by)) cycle.unshift(by)
  const path = [name, ...cycle].join(' → ')
  throw new LuoError('LUO_CYCLE', `${name} cannot come after what comes after it: ${path}`)
}

/** How far an update in a group is. `claimed`, `frozen`, `whole` and `seen` wait for the group. */
export type Standing =
  | 'starting'
  | 'claimed'
  | 'preparing'
  | 'frozen'
  | 'restoring'
  | 'whole'
  | 'committing'
  | 'committed'
  /** A check has seen what it wanted, and was then told to end. */
  | 'seen'
  | 'checked'
  | 'failed'

const WAITS_AS: Partial<Record<UpdateEvent, Standing>> = {
  claimed: 'claimed',
  frozen: 'frozen',
  commitAsked: 'whole',
  checkDone: 'seen',
}

const STANDS_AS: Readonly<Record<UpdatePhase, Standing>> = {
  starting: 'starting',
  joined: 'starting',
  preparing: 'preparing',
  restoring: 'restoring',
  committing: 'committing',
  committed: 'committed',
  checked: 'checked',
  aborting: 'failed',
  rolledBack: 'failed',
  orphaned: 'failed',
}

export function standingOf(update: {
  phase: UpdatePhase
  atGate: UpdateEvent | undefined
  checked: boolean
}): Standing {
  if (update.checked) return 'checked'
  return (update.atGate && WAITS_AS[update.atGate]) ?? STANDS_AS[update.phase]
}

/** What is behind an update: it has claimed (1), the old version has let go (2), the successor is whole (3). */
const RANK: Readonly<Record<Standing, number>> = {
  failed: -1,
  starting: 0,
  claimed: 1,
  preparing: 1,
  frozen: 2,
  restoring: 2,
  seen: 2,
  checked: 2,
  whole: 3,
  committing: 3,
  committed: 4,
}
const CLAIMED = 1
const LET_GO = 2
const WHOLE = 3
const COMMITTED = 4
const OVER: ReadonlySet<Standing> = new Set(['committed', 'checked', 'failed'])

/** `T` stands for a workload. */
export class GroupPlan<T> {
  readonly #all: readonly T[]
  readonly #dependencies = new Map<T, readonly T[]>()
  readonly #dependents = new Map<T, T[]>()

  constructor(all: readonly T[], needs: (workload: T) => readonly T[]) {
    this.#all = all
    for (const one of all) this.#dependents.set(one, [])
    for (const one of all) {
      const reached = reach(one, needs)
      const dependencies = all.filter((other) => reached.has(other))
      this.#dependencies.set(one, dependencies)
      for (const other of dependencies) this.#dependents.get(other)?.push(one)
    }
  }

  /** Those in the group that this one needs, however far away. */
  dependencies(one: T): readonly T[] {
    return this.#dependencies.get(one) ?? []
  }

  /** Those in the group that need this one, however far away. */
  dependents(one: T): readonly T[] {
    return this.#dependents.get(one) ?? []
  }

  /** Whether what waits may go on. `begun`: one was let to its commit before. */
  mayGoOn(one: T, standing: (workload: T) => Standing, begun: boolean): boolean {
    const all = (those: readonly T[], rank: number) => those.every((other) => RANK[standing(other)] >= rank)
    switch (standing(one)) {
      case 'claimed':
        return all(this.#all, CLAIMED) && all(this.dependents(one), LET_GO)
      case 'frozen':
        return all(this.dependencies(one), WHOLE)
      case 'whole':
        return (begun || all(this.#all, WHOLE)) && all(this.dependencies(one), COMMITTED)
      case 'seen':
        return all(this.#all, LET_GO)
      default:
        return false
    }
  }

  /** Those that have to roll back, each with the one because of which. */
  rollBacks(standing: (workload: T) => Standing, begun: boolean): Map<T, T> {
    const because = new Map<T, T>()
    for (const culprit of this.#all.filter((one) => standing(one) === 'failed')) {
      for (const one of begun ? this.dependents(culprit) : this.#all) {
        if (!OVER.has(standing(one)) && !because.has(one)) because.set(one, culprit)
      }
    }
    return because
  }
}
