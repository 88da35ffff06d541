/**
 * The steps at which luod may die while it changes hands, by name: in an upgrade, beside a standby, when another
 * process takes over, with the service manager's store. Each is told on a diagnostics channel just before it is done.
 * Nobody listens but tests, which kill one of the parties exactly there (`test/faults`); without a listener it costs
 * nothing.
 *
 * `test/faults/steps.test.ts` fails for a step without a fault, and for a fault without a step.
 */
import { channel } from 'node:diagnostics_channel'

export const STEP_CHANNEL = 'liveupdate.luod.step'

/** In the order in which they come; what is said is what comes next. */
export const STEPS = {
  'copy.start': 'luod: start a process that can take its place',
  'copy.hear': 'luod: take the hello of that process, with the versions that it reads',
  'copy.fill': 'luod: send a part of the descriptors',
  'copy.synced': 'luod: say that all descriptors are sent',
  'copy.trust': 'luod: take the word that everything is there and verified',
  'next.hello': 'next: say which versions it reads',
  'next.receive': 'next: take the descriptors that came',
  'next.verify': 'next: verify records and descriptors',
  'next.ready': 'next: say that everything is there',
  'change.put': 'luod: give the descriptors of a change to whoever keeps copies',
  'change.commit': 'luod: make the change count in the records',
  'change.remove': 'luod: take descriptors back that no record mentions any more',
  'change.answer': 'luod: answer the request',
  'upgrade.inherit': 'luod: tell the successor that it is next, beside the standby that is there',
  'upgrade.alone': 'luod: end the standby that was there, so that only the successor is next',
  'upgrade.pause': 'luod: take no requests any more',
  'upgrade.machines': 'luod: write down its emulated machines',
  'upgrade.go': 'luod: tell the successor to go on',
  'upgrade.resume': 'luod: let an emulated machine go on, since the upgrade has failed',
  'upgrade.end': 'luod: end, after the word of the successor',
  'takeover.go': 'next: go on, as it was told to',
  'takeover.claim': 'next: claim the place of luod, which is dead',
  'takeover.yield': 'next: end, because another one has claimed it',
  'takeover.noticed': 'next: go on, because luod is dead and nobody else has claimed its place',
  'takeover.build': 'next: build the state from records and descriptors',
  'takeover.machines': 'next: take the emulated machines that came',
  'takeover.machine': 'next: go on with an emulated machine',
  'takeover.serve': 'next: say that it serves',
  'takeover.listen': 'next: answer requests',
  'takeover.member': 'next: take back a member that has connected again',
  'takeover.supervisor': 'next: take back a supervisor that has connected again',
  'takeover.notifier': 'next: take back the notifier of an emulated machine that has connected again',
  'store.put': 'luod: send a descriptor to the store',
  'store.barrier': 'luod: ask the service manager whether it has everything',
  'store.flushed': 'luod: take the word of the service manager',
  'recovery.build': 'next: build the state from what was in the store',
  'recovery.claim': 'next: claim from the store what it goes on with',
  'recovery.drop': 'next: let go of what is in the store and in no record',
} as const

export type Step = keyof typeof STEPS

const steps = channel(STEP_CHANNEL)

/** `name` comes next. */
export function step(name: Step): void {
  if (steps.hasSubscribers) steps.publish(name)
}
