/**
 * `luoctl update NAME`: asks luod for an update, prints each phase as it happens, then the timeline. The update is
 * luod's: when luoctl ends early it goes on, and `luoctl abort` ends it. `followUpdate` is what `luoctl run` uses for
 * SIGHUP and the testing helpers use too.
 */
import { randomUUID } from 'node:crypto'
import { isLuoError, LuoError } from '../errors.js'
import type { Phase } from '../protocol/types.js'
import type { ReconnectingClient } from '../wire/reconnecting.js'
import type { CheckMode } from './arguments.js'
import { atMost, type Context, EXIT, withClient } from './context.js'
import { formatDuration } from './durations.js'
import { advice, clean, phaseLine, timelineTable } from './format.js'

export type UpdateOutcome = 'committed' | 'rolledBack' | 'orphaned' | 'checked'

export interface UpdateRequest {
  workload: string
  deadlineMs?: number
  check?: CheckMode
  command?: readonly string[]
}

export interface UpdateResult {
  update: string
  outcome: UpdateOutcome
  /** From the first request held back to the commit; undefined when the old version was never asked to stop. */
  blackoutMs: number | undefined
  timeline: Phase[]
}

/** Of one update, also when it is told from its beginning again and again. */
export const MAX_REPLIES = 1_000

/** Starts an update and follows it to its end. A failure that ended it in order is an outcome, not an error. */
export async function followUpdate(
  client: ReconnectingClient,
  request: UpdateRequest,
  onPhase: (phase: Phase, update: string) => void = () => {},
): Promise<UpdateResult> {
  const input = {
    id: randomUUID(),
    workload: request.workload,
    deadline_ms: request.deadlineMs,
    check: request.check,
    command: request.command && [...request.command],
  }
  const seen: Phase[] = []
  let told = 0
  // After a lost connection the same id follows the same update, which is told from its beginning.
  const again = () => {
    told = 0
  }
  const replies = client.stream('Update', input, again)
  for await (const { parameters } of atMost(MAX_REPLIES, replies, `update ${request.workload}`)) {
    if (parameters.phase && ++told > seen.length) {
      seen.push(parameters.phase)
      onPhase(parameters.phase, parameters.update)
    }
    if (parameters.outcome) {
      return {
        update: parameters.update,
        outcome: parameters.outcome,
        blackoutMs: parameters.blackout_ms ?? undefined,
        timeline: parameters.timeline ?? seen,
      }
    }
  }
  throw new LuoError('LUO_GONE', `luod ended the update of ${request.workload} without saying how it went`)
}

export function updateExitCode(outcome: UpdateOutcome): number {
  return outcome === 'committed' || outcome === 'checked' ? EXIT.OK : EXIT.NOT_UPDATED
}

/** The last phase that gives a reason, which is why an update did not commit. */
export function failureOf(timeline: readonly Phase[]): { code: string | undefined; reason: string } | undefined {
  const phase = timeline.findLast((candidate) => candidate.reason !== undefined || candidate.code !== undefined)
  return phase && { code: phase.code ?? undefined, reason: phase.reason ?? phase.phase }
}

/** One sentence on how an update ended. */
export function outcomeSentence(workload: string, result: UpdateResult): string {
  const total = formatDuration(result.timeline.at(-1)?.at_ms ?? 0)
  const blackout = result.blackoutMs === undefined ? '' : `, blackout ${formatDuration(result.blackoutMs)}`
  switch (result.outcome) {
    case 'committed':
      return `${workload}: updated in ${total}${blackout}`
    case 'checked':
      return `${workload}: checked in ${total}${blackout}; the old version goes on, nothing was changed`
    case 'rolledBack':
      return `${workload}: rolled back after ${total}${blackout}; the old version goes on as it was`
    case 'orphaned':
      return `${workload}: both versions ended; luoctl show ${workload} says whether its state waits for a restart`
    default:
      // Of a later luod.
      return `${workload}: ${result.outcome} after ${total}${blackout}`
  }
}

export async function updateCommand(context: Context, request: UpdateRequest): Promise<number> {
  const { workload } = request
  const onPhase = (phase: Phase) => context.out(context.json ? JSON.stringify(phase) : phaseLine(phase))
  const result = await withUpdate(context, workload, (client) => followUpdate(client, request, onPhase))
  report(context, workload, result)
  return updateExitCode(result.outcome)
}

/** As `withClient`, for what goes on without luoctl, and without luod: what that means is said. */
export async function withUpdate<T>(
  context: Context,
  workload: string,
  work: (client: ReconnectingClient) => Promise<T>,
): Promise<T> {
  let asked = false
  try {
    return await withClient(context, (client) => {
      asked = true
      return withHint(context, workload, () => work(client))
    })
  } catch (error) {
    if (!asked || !isLuoError(error, 'LUO_NO_DAEMON')) throw error
    const what = 'luod has ended, and did not say how the update went; one version goes on'
    throw new LuoError(error.code, `update ${workload}: ${what} (${error.message})`, { cause: error })
  }
}

/** Says on Ctrl-C how to end what goes on without luoctl. */
async function withHint<T>(context: Context, workload: string, work: () => Promise<T>): Promise<T> {
  const hint = () => {
    context.err(`luoctl: the update goes on without you; to end it: luoctl abort ${workload}`)
    process.exit(EXIT.INTERRUPTED)
  }
  process.once('SIGINT', hint)
  try {
    return await work()
  } finally {
    process.removeListener('SIGINT', hint)
  }
}

function report(context: Context, workload: string, result: UpdateResult): void {
  if (context.json) {
    const { update, outcome, blackoutMs, timeline } = result
    context.out(JSON.stringify({ update, outcome, blackout_ms: blackoutMs ?? null, timeline }))
    return
  }
  context.out('')
  for (const line of timelineTable(result.timeline)) context.out(line)
  context.out('')
  context.out(outcomeSentence(workload, result))
  reportFailure(context, result)
}

/** Why it did not commit, and what to do. */
export function reportFailure(context: Context, result: Pick<UpdateResult, 'outcome' | 'timeline'>): void {
  const failure = updateExitCode(result.outcome) === EXIT.OK ? undefined : failureOf(result.timeline)
  if (!failure) return
  const hint = failure.code === undefined ? undefined : advice(failure.code)
  context.err(`luoctl: ${clean(failure.reason)}${failure.code === undefined ? '' : ` (${clean(failure.code)})`}`)
  if (hint !== undefined) context.err(`  ${hint}`)
}
