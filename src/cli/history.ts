/** `luoctl history [NAME]`: what has happened to a workload, or to everything: when, by whom, and how it ended. */
import type { HistoryEvent } from '../protocol/types.js'
import { type Context, EXIT, withClient } from './context.js'
import { formatDuration } from './durations.js'
import { clean, table } from './format.js'

export async function historyCommand(context: Context, workload: string | undefined, limit?: number): Promise<number> {
  const { events, dropped } = await withClient(
    context,
    async (client) => (await client.call('History', { workload, limit })).parameters,
  )
  if (context.json) context.out(JSON.stringify({ events, dropped }))
  else for (const line of historyLines(events, dropped, workload === undefined)) context.out(line)
  return EXIT.OK
}

/** A table, oldest first; `named`: with the workloads' names. */
export function historyLines(events: readonly HistoryEvent[], dropped: number, named: boolean): string[] {
  if (events.length === 0) return ['Nothing has happened yet.']
  const lines = table(
    ['TIME', ...(named ? ['WORKLOAD'] : []), 'EVENT', 'WHO', 'OUTCOME', 'BLACKOUT', 'DETAIL'],
    events.map((event) => [
      localTime(event.at),
      ...(named ? [clean(event.workload ?? '-')] : []),
      clean(event.event),
      who(event),
      clean(event.outcome ?? event.code ?? '-'),
      event.blackout_ms === undefined ? '-' : formatDuration(event.blackout_ms),
      clean(detail(event)),
    ]),
  )
  return dropped > 0 ? [`${dropped} older events are forgotten.`, ...lines] : lines
}

function who({ by_uid: uid, pid }: HistoryEvent): string {
  const parts = [uid === undefined ? [] : `uid ${uid}`, pid === undefined ? [] : `pid ${pid}`].flat()
  return parts.length > 0 ? parts.join(' ') : 'luod'
}

function detail(event: HistoryEvent): string {
  const { old_pid: old, new_pid: next, duration_ms: took, times, last_at: last, method, outcome, code } = event
  const parts = [
    method === undefined ? [] : method,
    old === undefined && next === undefined ? [] : `pid ${old ?? '-'} to ${next ?? '-'}`,
    took === undefined ? [] : `took ${formatDuration(took)}`,
    outcome !== undefined && code !== undefined ? code : [],
    event.spans === undefined ? [] : spansText(event.spans),
    event.detail ?? [],
    times === undefined || last === undefined ? [] : `${times} times, last at ${localTime(last)}`,
  ]
  return parts.flat().join('; ')
}

/** `letGo 12 ms, reboot 2 s`. */
function spansText(spans: Record<string, number>): string {
  const parts = Object.entries(spans).map(([name, ms]) => `${clean(name)} ${formatDuration(ms)}`)
  return parts.join(', ')
}

/** `2026-02-01 13:05:09.120`, where this runs. */
export function localTime(at: string): string {
  const time = new Date(at)
  if (Number.isNaN(time.getTime())) return clean(at)
  const two = (value: number) => String(value).padStart(2, '0')
  const day = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-')
  const clock = [two(time.getHours()), two(time.getMinutes()), two(time.getSeconds())].join(':')
  return `${day} ${clock}.${String(time.getMilliseconds()).padStart(3, '0')}`
}
