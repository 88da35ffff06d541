import { expect, it } from 'vitest'
import { jsonLine, sentence, spread, table } from './report.js'
import type { Result } from './scenario.js'

const result: Result = {
  rows: [
    { step: 'update 1', outcome: 'committed', version: 'v2', blackoutMs: 4.25, gapMs: 9, note: '' },
    { step: 'refused', outcome: 'rolledBack', version: 'v2', blackoutMs: undefined, gapMs: 3, note: 'no' },
  ],
  problems: [],
  updates: 10,
  rolledBack: 5,
  requests: 12_345,
  failed: 0,
  connectionsReset: 0,
  lostWrites: 0,
  acknowledgedWrites: 100,
  connections: 64,
  blackoutsMs: [4.25, 2, 9],
  gapsMs: [9, 12.5],
  memoryBytes: 2 ** 28,
  memoryIntact: true,
  crash: { connections: 68, requests: 3, recovery_ms: 250 },
  upgradePauseMs: 9.5,
  takeoverMs: 8.5,
}

it('has the fields that programs read', () => {
  expect(JSON.parse(jsonLine(result, 20_040))).toEqual({
    updates: 10,
    rolled_back: 5,
    requests: 12_345,
    failed: 0,
    connections_reset: 0,
    lost_writes: 0,
    blackout_ms: { p50: 4.25, max: 9 },
    client_gap_ms: { p50: 12.5, max: 12.5 },
    memory_bytes: 268_435_456,
    memory_intact: true,
    duration_s: 20,
    crash: { connections: 68, requests: 3, recovery_ms: 250 },
    upgrade_pause_ms: 9.5,
    takeover_ms: 8.5,
  })
})

it('has zeros where nothing was measured', () => {
  expect(spread([])).toEqual({ p50: 0, max: 0 })
})

it('lines up the table and says in one sentence what was lost', () => {
  expect(table(result.rows)).toEqual([
    'what happened  outcome     answers  blackout  client gap',
    'update 1       committed   v2         4.3 ms      9.0 ms',
    'refused        rolledBack  v2              -      3.0 ms',
  ])
  expect(sentence(result, 20_040)).toContain('of 12,345 requests 0 failed')
})
