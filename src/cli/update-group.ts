/**
 * `luoctl update NAME NAME…` and `luoctl update --all`: several workloads as one. Prints each phase with the workload's
 * name as it happens, then how each ended. Like an update of one it is luod's, and goes on when luoctl ends early.
 */
import { randomUUID } from 'node:crypto'
import { LuoError } from '../errors.js'
import type { GroupOutcome } from '../protocol/types.js'
import type { ReconnectingClient } from '../wire/reconnecting.js'
import { atMost, type Context, EXIT, withClient } from './context.js'
import { formatDuration } from './durations.js'
import { clean, phaseLine, table } from './format.js'
import { MAX_REPLIES, reportFailure, type UpdateRequest, updateExitCode, withUpdate } from './update.js'

/** Each of `names`, or without them every one of this user that can be updated. */
export async function updateGroupCommand(
  context: Context,
  names: readonly string[] | undefined,
  how: Pick<UpdateRequest, 'deadlineMs' | 'check'>,
): Promise<number> {
  const workloads = names ?? (await withClient(context, updatable))
  const [first] = workloads
  if (first === undefined) throw new LuoError('LUO_NOT_FOUND', 'update --all: no supervised workload runs')
  const outcomes = await withUpdate(context, first, (client) => follow(context, client, workloads, how))
  if (!context.json) report(context, outcomes)
  return outcomes.every(({ outcome }) => updateExitCode(outcome) === EXIT.OK) ? EXIT.OK : EXIT.NOT_UPDATED
}

async function updatable(client: ReconnectingClient): Promise<string[]> {
  const { workloads } = (await client.call('List', {})).parameters
  const own = process.getuid?.()
  return workloads
    .filter(({ uid, state, supervised }) => uid === own && state === 'running' && supervised)
    .map(({ name }) => name)
}

async function follow(
  context: Context,
  client: ReconnectingClient,
  workloads: readonly string[],
  { deadlineMs, check }: Pick<UpdateRequest, 'deadlineMs' | 'check'>,
): Promise<readonly GroupOutcome[]> {
  const input = { id: randomUUID(), workloads: [...workloads], deadline_ms: deadlineMs, check }
  const width = Math.max(...workloads.map((name) => clean(name).length))
  const seen = new Set<string>()
  // After a lost connection the same id follows the same updates, each of which is told from its beginning.
  const replies = client.stream('UpdateGroup', input)
  for await (const { parameters } of atMost(MAX_REPLIES * workloads.length, replies, 'update')) {
    const { workload = '', phase, outcomes } = parameters
    const line = JSON.stringify([workload, phase])
    if (phase && seen.has(line)) continue
    seen.add(line)
    if (context.json) context.out(JSON.stringify(parameters))
    else if (phase) context.out(`${clean(workload).padEnd(width)} ${phaseLine(phase)}`)
    if (outcomes) return outcomes
  }
  throw new LuoError('LUO_GONE', 'luod ended the update of the group without saying how it went')
}

function report(context: Context, outcomes: readonly GroupOutcome[]): void {
  const rows = outcomes.map(({ workload, outcome, timeline, blackout_ms: blackoutMs }) => [
    clean(workload),
    outcome,
    formatDuration(timeline.at(-1)?.at_ms ?? 0),
    blackoutMs === undefined ? '-' : formatDuration(blackoutMs),
  ])
  context.out('')
  for (const line of table(['WORKLOAD', 'OUTCOME', 'TOOK', 'BLACKOUT'], rows)) context.out(line)
  // Those that roll back because of another one say no more than that one.
  const own = outcomes.filter(({ timeline }) => !timeline.some(({ code }) => code === 'LUO_GROUP'))
  for (const { outcome, timeline } of own) reportFailure(context, { outcome, timeline })
}
