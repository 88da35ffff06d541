import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { checkCycle, GroupPlan, type Standing, standingOf } from './group.js'
import { nextMove, type UpdateEvent, type UpdatePhase } from './update-machine.js'

type Edges = readonly (readonly [from: number, to: number])[]

const NODES = 7
const everything = Array.from({ length: NODES }, (_, node) => node)
const edges: fc.Arbitrary<Edges> = fc.array(
  fc.tuple(fc.integer({ min: 0, max: NODES - 1 }), fc.integer({ min: 0, max: NODES - 1 })),
  { maxLength: 14 },
)
/** Without cycles: a node needs only those with a higher number. */
const acyclic = edges.map((all) => all.filter(([from, to]) => from < to))

const needsIn = (all: Edges) => (node: number) => all.filter(([from]) => from === node).map(([, to]) => to)

/** Whether there is a way, found by joining ways until nothing is new. */
function ways(all: Edges): (from: number, to: number) => boolean {
  const found = new Set(all.map(([from, to]) => `${from} ${to}`))
  for (let before = -1; before < found.size; ) {
    before = found.size
    for (const a of everything) {
      for (const b of everything) {
        for (const c of everything) if (found.has(`${a} ${b}`) && found.has(`${b} ${c}`)) found.add(`${a} ${c}`)
      }
    }
  }
  return (from, to) => found.has(`${from} ${to}`)
}

function cycleOf(name: string, more: readonly string[], needs: (name: string) => readonly string[]) {
  try {
    checkCycle(name, more, needs)
  } catch (error) {
    if (!isLuoError(error, 'LUO_CYCLE')) throw error
    return error.message.slice(error.message.indexOf(': ') + 2).split(' → ')
  }
}

test('a cycle is found where there is one, and what is shown is one', () => {
  fc.assert(
    fc.property(acyclic, fc.array(fc.integer({ min: 0, max: NODES - 1 }), { maxLength: 4 }), (all, more) => {
      const needs = (name: string) => needsIn(all)(Number(name)).map(String)
      const after = [...all, ...more.map((to) => [0, to] as const)]
      const cycle = cycleOf('0', more.map(String), needs)
      expect(cycle !== undefined).toBe(ways(after)(0, 0))
      if (!cycle) return
      expect([cycle[0], cycle.at(-1)]).toEqual(['0', '0'])
      for (const [index, to] of cycle.slice(1).entries()) {
        expect(after.map(String)).toContain(`${cycle[index]},${to}`)
      }
    }),
  )
})

test('the message shows the way round, and names that nobody has are allowed', () => {
  const needs = (name: string) => ({ db: ['disk'], disk: ['web', 'later'] })[name] ?? []
  expect(() => checkCycle('web', ['db'], needs)).toThrow('web → db → disk → web')
  expect(() => checkCycle('web', ['web'], needs)).toThrow('web → web')
  expect(cycleOf('web', ['later'], needs)).toBeUndefined()
})

test('what a workload needs, it needs through workloads that are not in the group too', () => {
  fc.assert(
    fc.property(acyclic, fc.subarray(everything), (all, group) => {
      const plan = new GroupPlan(group, needsIn(all))
      const way = ways(all)
      for (const node of group) {
        expect(plan.dependencies(node)).toEqual(group.filter((other) => way(node, other)))
        expect(plan.dependents(node)).toEqual(group.filter((other) => way(other, node)))
      }
    }),
  )
})

// --- whole runs -----------------------------------------------------------------------------------------------------

/** Where the gates are, and what comes next in each phase when nothing fails. */
const GATED: readonly UpdateEvent[] = ['claimed', 'frozen', 'commitAsked', 'checkDone']
const OUTCOMES: readonly UpdatePhase[] = ['committed', 'rolledBack', 'orphaned', 'checked']

interface Mock {
  phase: UpdatePhase
  atGate: UpdateEvent | undefined
  checked: boolean
  given: boolean
}

/** Updates that follow the real table, in the order that `random` picks, with failures where it says so. */
class Run {
  readonly group: readonly number[]
  readonly mocks = new Map<number, Mock>()
  readonly log: { node: number; event: UpdateEvent; held: boolean }[] = []
  begun = false
  readonly #plan: GroupPlan<number>
  readonly #check: 'successor' | 'prepare' | undefined

  constructor(group: readonly number[], all: Edges, check?: 'successor' | 'prepare') {
    this.group = group
    this.#check = check
    this.#plan = new GroupPlan(group, needsIn(all))
    for (const node of group) {
      this.mocks.set(node, { phase: 'starting', atGate: undefined, checked: false, given: false })
    }
  }

  of(node: number): Mock {
    return this.mocks.get(node) as Mock
  }

  readonly standing = (node: number): Standing => standingOf(this.of(node))

  next(node: number): UpdateEvent {
    const { phase, given } = this.of(node)
    if (phase === 'starting') return 'joined'
    if (phase === 'joined') return this.#check === 'successor' ? 'checkDone' : 'claimed'
    if (phase === 'preparing') return this.#check === 'prepare' ? 'checkDone' : 'oldReady'
    if (phase === 'restoring') return given ? 'commitAsked' : 'frozen'
    return phase === 'committing' ? 'oldReleased' : 'successorGone'
  }

  event(node: number, event: UpdateEvent): void {
    const mock = this.of(node)
    const move = nextMove(mock.phase, event)
    if (!move) return
    if (GATED.includes(event)) {
      mock.atGate = event
      this.log.push({ node, event, held: true })
      if (!this.#plan.mayGoOn(node, this.standing, this.begun)) return
      if (event === 'commitAsked') this.begun = true
    }
    if (move.to !== mock.phase || mock.atGate === event) mock.atGate = undefined
    if (event === 'checkDone') mock.checked = true
    if (event === 'frozen') mock.given = true
    mock.phase = move.to === 'rolledBack' && mock.checked ? 'checked' : move.to
    this.log.push({ node, event, held: false })
    // What luod does by itself.
    if (event === 'oldReady') this.event(node, 'frozen')
  }

  look(): void {
    for (const [node] of this.#plan.rollBacks(this.standing, this.begun)) this.event(node, 'abortAsked')
    for (const node of this.group) {
      const { atGate } = this.of(node)
      if (atGate && this.#plan.mayGoOn(node, this.standing, this.begun)) this.event(node, atGate)
    }
  }

  /** `choices`: who is next, and whether it fails. Ends when all have an outcome. */
  run(choices: readonly { who: number; fails: boolean }[]): void {
    for (let turn = 0; ; turn++) {
      const open = this.group.filter((node) => !OUTCOMES.includes(this.of(node).phase))
      if (open.length === 0) return
      const { who, fails } = choices[turn] ?? { who: turn, fails: false }
      const movable = open.filter((node) => this.of(node).atGate === undefined)
      expect(movable.length, 'nobody gets on').toBeGreaterThan(0)
      const from = fails ? open : movable
      const node = from[who % from.length] as number
      this.event(node, fails ? 'successorDied' : this.next(node))
      this.look()
    }
  }

  /** When it happened, after waiting for the others. */
  at(node: number, event: UpdateEvent): number {
    return this.log.findIndex((entry) => entry.node === node && entry.event === event && !entry.held)
  }

  /** When it came to the gate. */
  came(node: number, event: UpdateEvent): number {
    return this.log.findIndex((entry) => entry.node === node && entry.event === event)
  }
}

const groups = fc.subarray(everything, { minLength: 1 })
const who = fc.nat({ max: NODES })
const calm = fc.array(fc.record({ who, fails: fc.constant(false) }), { maxLength: 60 })
/** Nothing fails for a while, so that the later steps are seen too. */
const rough = fc
  .tuple(
    fc.array(who, { maxLength: 60 }),
    fc.array(fc.record({ who, fails: fc.integer({ max: 3, min: 0 }).map((dice) => dice === 0) }), { maxLength: 40 }),
  )
  .map(([before, after]) => [...before.map((one) => ({ who: one, fails: false })), ...after])

test('without a failure all commit, each once, in the order of what they need', () => {
  fc.assert(
    fc.property(acyclic, groups, calm, (all, group, choices) => {
      const run = new Run(group, all)
      run.run(choices)
      const way = ways(all)
      for (const node of group) {
        expect(run.of(node).phase).toBe('committed')
        expect(run.log.filter((entry) => entry.node === node && entry.event === 'oldReleased')).toHaveLength(1)
        for (const other of group) {
          expect(run.at(node, 'claimed'), 'all have claimed').toBeGreaterThan(run.came(other, 'claimed'))
          expect(run.at(node, 'commitAsked'), 'all are whole').toBeGreaterThan(run.came(other, 'commitAsked'))
          if (!way(node, other)) continue
          expect(run.at(other, 'claimed'), 'it prepares after its dependents').toBeGreaterThan(run.at(node, 'oldReady'))
          expect(run.at(node, 'frozen'), 'it restores after what it needs').toBeGreaterThan(
            run.came(other, 'commitAsked'),
          )
          expect(run.at(node, 'commitAsked'), 'it commits after what it needs').toBeGreaterThan(
            run.at(other, 'oldReleased'),
          )
        }
      }
    }),
  )
})

test('whatever fails, it ends; all or none before the first commit, and after it who does not need what failed', () => {
  let seen = { none: 0, some: 0 }
  fc.assert(
    fc.property(acyclic, groups, rough, (all, group, choices) => {
      const run = new Run(group, all)
      run.run(choices)
      const way = ways(all)
      const own = (node: number) => run.at(node, 'successorDied') >= 0
      const failed = group.filter((node) => run.of(node).phase !== 'committed')
      if (failed.length === 0) return
      if (!run.begun) {
        seen = { ...seen, none: seen.none + 1 }
        expect(failed).toEqual(group)
        expect(group.some(own)).toBe(true)
        return
      }
      seen = { ...seen, some: seen.some + 1 }
      for (const node of group) {
        const victim = group.some((other) => way(node, other) && failed.includes(other))
        expect(run.of(node).phase === 'committed').toBe(!own(node) && !victim)
      }
    }),
    { numRuns: 500 },
  )
  expect(seen.none).toBeGreaterThan(0)
  expect(seen.some).toBeGreaterThan(0)
})

test('a check asks as many as an update would, in its order, and commits nothing', () => {
  fc.assert(
    fc.property(
      acyclic,
      groups,
      calm,
      fc.constantFrom('successor' as const, 'prepare' as const),
      (all, group, choices, check) => {
        const run = new Run(group, all, check)
        run.run(choices)
        const way = ways(all)
        for (const node of group) {
          expect(run.of(node).phase).toBe('checked')
          expect(run.at(node, 'claimed') >= 0).toBe(check === 'prepare')
          for (const other of group) {
            expect(run.at(node, 'successorGone'), 'all have seen it').toBeGreaterThan(run.came(other, 'checkDone'))
            if (check === 'prepare' && way(node, other)) {
              expect(run.at(node, 'claimed')).toBeLessThan(run.at(other, 'claimed'))
            }
          }
        }
      },
    ),
  )
})

test('a check in which one fails is a failure of all', () => {
  const run = new Run([0, 1], [], 'successor')
  run.event(0, 'joined')
  run.event(0, 'checkDone')
  run.event(1, 'successorDied')
  run.look()
  expect(run.standing(0)).toBe('failed')
})

test('after the first commit, what does not need the one that failed waits on for its own', () => {
  const plan = new GroupPlan(['a', 'b', 'c', 'd'], (name) => ({ b: ['a'], c: ['d'] })[name] ?? [])
  const standings: Record<string, Standing> = { a: 'failed', b: 'whole', c: 'whole', d: 'committing' }
  const standing = (name: string) => standings[name] ?? 'starting'
  expect([...plan.rollBacks(standing, true)]).toEqual([['b', 'a']])
  expect(plan.mayGoOn('c', standing, true)).toBe(false)
  standings.d = 'committed'
  expect(plan.mayGoOn('c', standing, true)).toBe(true)
})
