/**
 * Who is killed at which step of changing hands, and who must serve afterwards. `steps.test.ts` goes through all of
 * them, with requests running; docs/upgrade.md refers to their numbers, which go on from those of `table.ts`.
 *
 * luod: who serves when it begins. next: the process that stands by, or is its successor in an upgrade. Everything that
 * was acknowledged is there afterwards, once, but where `nobody` serves: there luod dies while nobody else has all of
 * it, which `luoctl status` calls not ready.
 */
import type { Step } from '../../src/daemon/steps.js'
import { FAULTS, MESSAGE_FAULTS } from './table.js'

/**
 * What makes the step happen: requests; an upgrade, to a build that is luod's own or to one that ends as soon as it
 * shall go on, or the end of luod when it has two heirs in one; the end of luod, and what its standby does then.
 */
export type During =
  | 'requests'
  | 'upgrade'
  | 'failing upgrade'
  | 'crash, two heirs'
  | 'new standby'
  | 'crash'
  | 'requests, store'
  | 'recovery'
export type Victim = 'luod' | 'next' | 'client' | 'supervisor' | 'version' | 'notifier'
/** What becomes of an emulated machine. */
export type MachineFate = 'goes on' | 'ends'

export interface StepRow {
  number: number
  step: Step
  during: During
  victim: Victim
  serving: 'luod' | 'next' | 'nobody'
  /** Of a row with an emulated machine; it ends with its notifier, too. */
  machine?: MachineFate
}

const ROWS: readonly [Step, During, Victim, StepRow['serving'], MachineFate?][] = [
  ['copy.start', 'new standby', 'client', 'luod'],
  ['copy.hear', 'new standby', 'next', 'luod'],
  ['copy.fill', 'new standby', 'next', 'luod'],
  ['copy.synced', 'new standby', 'next', 'luod'],
  ['copy.trust', 'new standby', 'next', 'luod'],
  ['next.hello', 'new standby', 'next', 'luod'],
  ['next.receive', 'new standby', 'next', 'luod'],
  ['next.verify', 'new standby', 'next', 'luod'],
  ['next.ready', 'new standby', 'next', 'luod'],
  ['copy.trust', 'new standby', 'luod', 'next'],
  ['change.put', 'requests', 'luod', 'next'],
  ['change.commit', 'requests', 'luod', 'next'],
  ['change.remove', 'requests', 'luod', 'next'],
  ['change.answer', 'requests', 'luod', 'next'],
  ['change.put', 'requests', 'next', 'luod'],
  ['change.commit', 'requests', 'next', 'luod'],
  ['change.remove', 'requests', 'client', 'luod'],
  ['change.answer', 'requests', 'client', 'luod'],
  ['copy.start', 'upgrade', 'luod', 'next'],
  ['copy.hear', 'upgrade', 'luod', 'next'],
  ['copy.fill', 'upgrade', 'luod', 'next'],
  ['copy.synced', 'upgrade', 'luod', 'next'],
  ['copy.trust', 'upgrade', 'luod', 'next'],
  ['copy.hear', 'upgrade', 'next', 'luod'],
  ['copy.fill', 'upgrade', 'next', 'luod'],
  ['copy.synced', 'upgrade', 'next', 'luod'],
  ['copy.trust', 'upgrade', 'next', 'luod'],
  ['next.hello', 'upgrade', 'luod', 'next'],
  ['next.receive', 'upgrade', 'luod', 'next'],
  ['next.verify', 'upgrade', 'luod', 'next'],
  ['next.ready', 'upgrade', 'luod', 'next'],
  ['upgrade.inherit', 'upgrade', 'luod', 'next'],
  ['upgrade.alone', 'upgrade', 'luod', 'next'],
  ['upgrade.alone', 'upgrade', 'next', 'luod'],
  ['takeover.claim', 'crash, two heirs', 'next', 'next'],
  ['takeover.yield', 'crash, two heirs', 'client', 'next'],
  ['upgrade.pause', 'upgrade', 'luod', 'next'],
  ['upgrade.pause', 'upgrade', 'next', 'luod'],
  ['upgrade.go', 'upgrade', 'luod', 'next'],
  ['upgrade.go', 'upgrade', 'next', 'luod'],
  ['upgrade.go', 'upgrade', 'supervisor', 'next'],
  ['upgrade.go', 'upgrade', 'version', 'next'],
  ['upgrade.end', 'upgrade', 'luod', 'next'],
  ['takeover.go', 'upgrade', 'luod', 'next'],
  ['takeover.go', 'upgrade', 'next', 'luod'],
  ['takeover.build', 'upgrade', 'luod', 'next'],
  ['takeover.build', 'upgrade', 'next', 'luod'],
  ['takeover.build', 'upgrade', 'client', 'next'],
  ['takeover.build', 'upgrade', 'version', 'next'],
  ['takeover.serve', 'upgrade', 'luod', 'next'],
  ['takeover.serve', 'upgrade', 'next', 'luod'],
  ['takeover.listen', 'upgrade', 'client', 'next'],
  ['takeover.noticed', 'crash', 'client', 'next'],
  ['takeover.noticed', 'crash', 'supervisor', 'next'],
  ['takeover.build', 'crash', 'client', 'next'],
  ['takeover.build', 'crash', 'supervisor', 'next'],
  ['takeover.build', 'crash', 'version', 'next'],
  ['takeover.serve', 'crash', 'version', 'next'],
  ['takeover.listen', 'crash', 'client', 'next'],
  ['takeover.member', 'crash', 'version', 'next'],
  ['takeover.supervisor', 'crash', 'supervisor', 'next'],
  // luod dies before it has told of its machines: they end with it.
  ['upgrade.machines', 'upgrade', 'luod', 'next', 'ends'],
  ['upgrade.machines', 'upgrade', 'next', 'luod', 'goes on'],
  ['upgrade.machines', 'upgrade', 'notifier', 'next', 'ends'],
  ['upgrade.resume', 'failing upgrade', 'notifier', 'luod', 'ends'],
  ['takeover.machines', 'upgrade', 'luod', 'next', 'goes on'],
  ['takeover.machine', 'upgrade', 'next', 'luod', 'goes on'],
  ['takeover.machine', 'upgrade', 'notifier', 'next', 'ends'],
  ['takeover.notifier', 'upgrade', 'notifier', 'next', 'ends'],
  ['takeover.noticed', 'crash', 'next', 'nobody'],
  ['change.put', 'requests, store', 'luod', 'next'],
  ['change.commit', 'requests, store', 'luod', 'next'],
  ['change.answer', 'requests, store', 'luod', 'next'],
  ['store.put', 'requests, store', 'luod', 'next'],
  ['store.barrier', 'requests, store', 'luod', 'next'],
  ['store.flushed', 'requests, store', 'luod', 'next'],
  ['store.flushed', 'requests, store', 'client', 'luod'],
  ['recovery.build', 'recovery', 'luod', 'next'],
  ['recovery.claim', 'recovery', 'luod', 'next'],
  ['recovery.drop', 'recovery', 'luod', 'next'],
  ['takeover.listen', 'recovery', 'luod', 'next'],
  ['recovery.build', 'recovery', 'client', 'next'],
]

/** Who serves whatever happens to them: they are not luod. */
const OTHERS = ['client', 'supervisor', 'version'] as const
const SERVING: Record<During, StepRow['serving']> = {
  ...{ requests: 'luod', 'requests, store': 'luod', 'new standby': 'luod', 'failing upgrade': 'luod' },
  ...{ upgrade: 'next', crash: 'next', 'crash, two heirs': 'next', recovery: 'next' },
}
/** One of them at each step; each of them with `LUO_EVERY_FAULT=1`, which takes some minutes. */
const EVERY = process.env.LUO_EVERY_FAULT === '1'

const moments = new Map(ROWS.map(([step, during, , , machine]) => [`${step} ${during}`, { step, during, machine }]))
const isRow = new Set(ROWS.map(([step, during, victim]) => `${step} ${during} ${victim}`))
const others = [...moments].flatMap(([moment, { step, during, machine }], index) =>
  OTHERS.filter((victim, at) => !isRow.has(`${moment} ${victim}`) && (EVERY || at === index % OTHERS.length)).map(
    (victim) => [step, during, victim, SERVING[during], machine && 'goes on'] as const,
  ),
)

export const FIRST_STEP_NUMBER = FAULTS.length + MESSAGE_FAULTS.length + 1

function numbered(rows: readonly (readonly [Step, During, Victim, StepRow['serving'], MachineFate?])[], from: number) {
  return rows.map(
    ([step, during, victim, serving, machine], index): StepRow => ({
      ...{ number: from + index, step, during, victim, serving },
      ...(machine ? { machine } : {}),
    }),
  )
}

export const STEP_FAULTS = numbered(ROWS, FIRST_STEP_NUMBER)
export const OTHER_FAULTS = numbered(others, FIRST_STEP_NUMBER + ROWS.length)
