/** What the demo prints at the end: the table, one sentence, three commands; or one JSON line. Pure text. */
import { type Result, type Row, round } from './scenario.js'

export interface Spread {
  p50: number
  max: number
}

/** Median (of an even number: the upper one) and maximum; zeros when there is nothing. */
export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b)
  return { p50: round(sorted[Math.floor(sorted.length / 2)] ?? 0), max: round(sorted.at(-1) ?? 0) }
}

export function jsonLine(result: Result, durationMs: number): string {
  return JSON.stringify({
    updates: result.updates,
    rolled_back: result.rolledBack,
    requests: result.requests,
    failed: result.failed,
    connections_reset: result.connectionsReset,
    lost_writes: result.lostWrites,
    blackout_ms: spread(result.blackoutsMs),
    client_gap_ms: spread(result.gapsMs),
    memory_bytes: result.memoryBytes,
    memory_intact: result.memoryIntact,
    duration_s: Math.round(durationMs / 100) / 10,
    crash: result.crash,
    upgrade_pause_ms: result.upgradePauseMs,
    takeover_ms: result.takeoverMs,
  })
}

export function table(rows: readonly Row[]): string[] {
  const cells = rows.map((row) => [row.step, row.outcome, row.version, ms(row.blackoutMs), ms(row.gapMs)])
  const all = [['what happened', 'outcome', 'answers', 'blackout', 'client gap'], ...cells]
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...all.map((line) => line[column]?.length ?? 0)))
  return all.map((line) =>
    line
      .map((cell, column) => (column < 3 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  )
}

export function sentence(result: Result, durationMs: number): string {
  const gap = spread(result.gapsMs)
  const count = (n: number) => n.toLocaleString('en-US')
  const intact = result.memoryIntact ? 'intact' : 'NOT intact'
  return [
    `In ${Math.round(durationMs / 1000)} s the service was replaced ${result.updates} times and ${result.rolledBack} bad`,
    `updates were rolled back: of ${count(result.requests)} requests ${count(result.failed)} failed,`,
    `${result.connectionsReset} of ${result.connections} connections were cut by an update,`,
    `${result.lostWrites} of ${count(result.acknowledgedWrites)} acknowledged writes were lost,`,
    `${result.memoryBytes / 2 ** 20} MiB of memory stayed ${intact}, and no update kept the clients waiting for more than`,
    `${Math.ceil(gap.max)} ms (typically ${Math.ceil(gap.p50)} ms).`,
  ].join(' ')
}

export const TRY_NEXT = [
  'npx luoctl run kv --restart -- node examples/kv/server-v1.js   # in one terminal',
  'npx luoctl update kv -- node examples/kv/server-v2.js          # in another',
  'curl -s localhost:8080/version                                 # who answers now?',
]

function ms(value: number | undefined): string {
  return value === undefined ? '-' : `${value.toFixed(1)} ms`
}
