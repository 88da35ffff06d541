/**
 * What is to happen next: an update that is committed, refused, aborted, only a check, or with one of the numbered
 * faults, and what has to come of it; or an update in which luod is replaced while a version stands at a point of the
 * table; or the death of a version outside of any update. It follows from the seed alone.
 */
import type { FaultPoint } from '../../src/testing/index.js'
import { FAULTS, type FaultRow } from '../faults/table.js'
import type { Strike } from './luod.js'
import type { Random } from './random.js'

export interface Plan {
  /** For messages. */
  name: string
  outcome: 'committed' | 'rolledBack' | 'orphaned' | 'checked'
  code?: string | undefined
  fault?: FaultRow
  /** What happens to luod while a version stands there. */
  strike?: { what: Strike; in: FaultRow['in'] } & Pick<FaultPoint, 'when' | 'call'>
  deadlineMs: number
  check?: 'successor' | 'prepare'
  /** The old version says no. */
  refuses?: boolean
  /** The supervisor says that it cannot start the successor. */
  spawnFails?: boolean
  /** An operator ends it, where the successor stops. */
  aborts?: boolean
}

/** Nobody is that slow. */
const DEADLINE_MS = 30_000
/** For sides that stand still. */
const SHORT_DEADLINE_MS = 300

const committed: Plan = { name: 'commit', outcome: 'committed', deadlineMs: DEADLINE_MS }
const rolledBack = { outcome: 'rolledBack', deadlineMs: DEADLINE_MS } as const
const checked = { outcome: 'checked', deadlineMs: DEADLINE_MS } as const

const OTHERS: readonly (readonly [weight: number, plan: Plan])[] = [
  [50, committed],
  [7, { ...rolledBack, name: 'refusal', code: 'LUO_REFUSED', refuses: true }],
  [3, { ...rolledBack, name: 'failed start', code: 'LUO_SPAWN', spawnFails: true }],
  [4, { ...rolledBack, name: 'abort', code: 'LUO_ABORTED', aborts: true }],
  [3, { ...checked, name: 'check of the successor', check: 'successor' }],
  [3, { ...checked, name: 'check of the old version', check: 'prepare' }],
]
const FAULTS_WEIGHT = 30

function planOf(fault: FaultRow): Plan {
  const { number, outcome, code } = fault
  const deadlineMs = code === 'LUO_DEADLINE' ? SHORT_DEADLINE_MS : DEADLINE_MS
  return { name: `fault ${number}`, outcome, code, fault, deadlineMs }
}

const PLANS: readonly (readonly [weight: number, plan: Plan])[] = [
  ...OTHERS,
  ...FAULTS.map((fault) => [FAULTS_WEIGHT / FAULTS.length, planOf(fault)] as const),
]

export function choosePlan(random: Random): Plan {
  return random.weighted(PLANS)
}

/** The points of the table, whatever happens there. */
const POINTS = [
  ...new Map(
    FAULTS.map(({ in: at, point: { when, call } }) => [`${at} ${when} ${call}`, { in: at, when, call }]),
  ).values(),
]
const STRIKES = [
  [5, 'luod'],
  [2, 'standby'],
  [2, 'upgrade'],
] as const

export function chooseStrike(random: Random): Strike {
  return random.weighted(STRIKES)
}

/** A step of a workload while everything may be killed; undefined: its version is, outside of any update. */
export function chooseStep(random: Random): Plan | undefined {
  const kind = random.weighted([
    [6, 'update'],
    [2, 'struck'],
    [2, 'crash'],
  ] as const)
  if (kind === 'crash') return undefined
  if (kind === 'update') return choosePlan(random)
  const point = random.pick(POINTS)
  const what = chooseStrike(random)
  return {
    ...committed,
    name: `${what} in the ${point.in} version ${point.when} ${point.call}`,
    strike: { what, ...point },
  }
}
