/**
 * What an update is to be: committed, refused, aborted, only a check, or with one of the numbered faults; and what has
 * to come of it.
 */
import { FAULTS, type FaultRow } from '../faults/table.js'
import type { Random } from './random.js'

export interface Plan {
  /** For messages. */
  name: string
  outcome: 'committed' | 'rolledBack' | 'orphaned' | 'checked'
  code?: string | undefined
  /** Who has the state afterwards. */
  serving: 'old' | 'new' | 'restarted'
  fault?: FaultRow
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

const committed: Plan = { name: 'commit', outcome: 'committed', serving: 'new', deadlineMs: DEADLINE_MS }
const rolledBack = { outcome: 'rolledBack', serving: 'old', deadlineMs: DEADLINE_MS } as const
const checked = { outcome: 'checked', serving: 'old', deadlineMs: DEADLINE_MS } as const

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
  const { number, outcome, code, serving } = fault
  const deadlineMs = code === 'LUO_DEADLINE' ? SHORT_DEADLINE_MS : DEADLINE_MS
  return { name: `fault ${number}`, outcome, code, serving, fault, deadlineMs }
}

const PLANS: readonly (readonly [weight: number, plan: Plan])[] = [
  ...OTHERS,
  ...FAULTS.map((fault) => [FAULTS_WEIGHT / FAULTS.length, planOf(fault)] as const),
]

export function choosePlan(random: Random): Plan {
  return random.weighted(PLANS)
}
