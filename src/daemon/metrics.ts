/**
 * luod in numbers, for Prometheus. Counts are looked up when somebody asks; what happens is counted as it is told
 * (`events.ts`) or answered. No label is a name that a user chose, so that nobody can make up series without end.
 *
 * This is the one importer of prom-client, which is loaded only when metrics are asked for.
 */
import type { HistoryEvent } from '../protocol/types.js'
import { countOpenFds } from '../sys/fd.js'
import type { Content } from './metrics-server.js'

/** What luod says of itself. */
export interface MetricsSource {
  counts(): Record<'workloads' | 'sessions' | 'files' | 'bytes' | 'connections' | 'watchers' | 'orphans', number>
  onEvent(told: (event: HistoryEvent) => void): void
  /** `code` is `ok`, or that of the error. */
  onAnswered(told: (method: string, code: string) => void): void
}

const OUTCOMES = ['committed', 'rolledBack', 'orphaned', 'checked']
/** A blackout has a few milliseconds; beyond a second somebody was waited for. */
const BLACKOUT_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
/** From starting a program to the longest deadlines. */
const DURATION_BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

/** `isProtected`: whether luod may crash, and nothing is lost. */
export async function createMetrics(
  source: MetricsSource,
  version: string,
  isProtected: () => boolean,
): Promise<Content> {
  const { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } = await import('prom-client')
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })

  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(value())
      },
    })
  gauge('luod_workloads', 'Workloads, with those that only wait for a restart.', () => source.counts().workloads)
  gauge('luod_sessions', 'Sessions.', () => source.counts().sessions)
  gauge('luod_files', 'Preserved files.', () => source.counts().files)
  gauge('luod_bytes_held', 'Bytes of preserved memory, as large as it was then.', () => source.counts().bytes)
  gauge('luod_connections', 'Connections to luod.', () => source.counts().connections)
  gauge('luod_watchers', 'Streams of events.', () => source.counts().watchers)
  gauge('luod_orphans', 'Workloads whose state waits for a restart.', () => source.counts().orphans)
  gauge('luod_protected', 'Whether a crash of luod would lose nothing.', () => (isProtected() ? 1 : 0))
  gauge('luod_open_fds', 'Open descriptors of luod.', countOpenFds)
  const info = { name: 'luod_build_info', help: 'Always 1; the label says which version runs.', registers }
  new Gauge({ ...info, labelNames: ['version'] }).set({ version }, 1)

  const counter = <L extends string>(name: string, help: string, ...labelNames: L[]) =>
    new Counter({ name, help, labelNames, registers })
  const updates = counter('luod_updates_total', 'Updates that have ended.', 'outcome')
  const claims = counter('luod_claims_total', 'Claims of state after a crash that have ended.', 'outcome')
  const refusals = counter('luod_refusals_total', 'Requests that were refused.', 'code')
  const requests = counter('luod_requests_total', 'Requests that were answered.', 'method', 'code')
  // A rate needs a value before the first one happens.
  for (const outcome of OUTCOMES) updates.inc({ outcome }, 0)
  for (const outcome of ['committed', 'orphaned']) claims.inc({ outcome }, 0)
  const blackout = new Histogram({
    name: 'luod_update_blackout_seconds',
    help: 'For how long an update held requests back.',
    buckets: BLACKOUT_BUCKETS,
    registers,
  })
  const duration = new Histogram({
    name: 'luod_update_duration_seconds',
    help: 'From the request of an update to its end.',
    buckets: DURATION_BUCKETS,
    registers,
  })

  source.onAnswered((method, code) => requests.inc({ method, code }))
  source.onEvent(({ event, outcome = '', code = '', blackout_ms, duration_ms }) => {
    if (event === 'refused') refusals.inc({ code })
    else if (event === 'claimed') claims.inc({ outcome })
    else if (event === 'updated') {
      updates.inc({ outcome })
      if (blackout_ms !== undefined) blackout.observe(blackout_ms / 1000)
      if (duration_ms !== undefined) duration.observe(duration_ms / 1000)
    }
  })
  return registry
}
