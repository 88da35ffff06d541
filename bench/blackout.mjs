/**
 * What an update's blackout depends on: not on how much memory the service has, and not on how long the new version
 * takes to load. Two services each, updated in turn under a light load; the blackout is luod's (from the first request
 * held back to the commit), the gap is the longest that one client waited for its answer.
 */
import { fileURLToPath } from 'node:url'
import { startInTest } from '../dist/testing/index.js'
import { atEnd } from './tools/cleanup.mjs'
import { freePort, Load } from './tools/load.mjs'
import { ratio, summary } from './tools/stats.mjs'

const SERVICE = fileURLToPath(new URL('services/memory.mjs', import.meta.url))
const LOAD = { connections: 8, rate: 400 }
const SMALL_MIB = 64
const LARGE_MIB = 8 * 1024
const SLOW_LOAD_MS = 3_000
/** Between two updates: the old version drains, and gives its memory back. */
const SETTLE_MS = 2_000

class Updated {
  blackoutsMs = []
  gapsMs = []

  static async start(mebibytes, loadMs) {
    const updated = new Updated()
    updated.command = [process.execPath, SERVICE, String(mebibytes), String(loadMs)]
    updated.port = await freePort()
    updated.running = await startInTest({
      from: [process.execPath, SERVICE, String(mebibytes), '0'],
      workload: `bench-${mebibytes}`,
      env: { BENCH_PORT: String(updated.port) },
    })
    updated.forget = atEnd(() => updated.running.dispose())
    updated.pid = await updated.running.pid()
    return updated
  }

  async populate() {
    const answer = await fetch(`http://127.0.0.1:${this.port}/populate`)
    if (!answer.ok) throw new Error(`populate: answer ${answer.status}`)
    await answer.text()
  }

  /** Under load: one update, measured. */
  async update() {
    const load = await Load.start({ ...LOAD, port: this.port })
    try {
      await new Promise((resolve) => setTimeout(resolve, 300))
      await load.call('gap')
      const result = await this.running.update(this.command, { deadlineMs: 60_000 })
      if (result.outcome !== 'committed') throw new Error(`the update did not commit: ${result.reason}`)
      await new Promise((resolve) => setTimeout(resolve, 300))
      this.gapsMs.push((await load.call('gap')).gap)
      this.blackoutsMs.push(result.blackoutMs)
      const stats = await load.call('stop')
      if (stats.failed > 0 || stats.closed_by_peer > 0) throw new Error(`the load: ${JSON.stringify(stats)}`)
    } finally {
      load.end()
    }
  }

  async end() {
    await this.running.dispose()
    this.forget()
  }
}

async function compare({ rounds, small, large, settleMs, say }) {
  for (const side of [small, large]) await side.populate()
  // The first update of each warms up and does not count.
  for (let round = 0; round <= rounds; round++) {
    for (const side of round % 2 ? [large, small] : [small, large]) {
      await side.update()
      await new Promise((resolve) => setTimeout(resolve, settleMs))
      await side.populate()
      // The kernel has just mapped millions of pages, which is no part of an update.
      await new Promise((resolve) => setTimeout(resolve, settleMs))
      if (round === 0) side.blackoutsMs.pop()
      if (round === 0) side.gapsMs.pop()
    }
    if (round > 0) say(`blackout ${small.blackoutsMs.at(-1).toFixed(1)} and ${large.blackoutsMs.at(-1).toFixed(1)} ms`)
  }
  return {
    blackout: ratio(small.blackoutsMs, large.blackoutsMs),
    gap: ratio(small.gapsMs, large.gapsMs),
    blackout_ms: [summary(small.blackoutsMs), summary(large.blackoutsMs)],
    gap_ms: [summary(small.gapsMs), summary(large.gapsMs)],
  }
}

async function withSides(makers, use) {
  const sides = []
  try {
    for (const make of makers) sides.push(await make())
    return await use(...sides)
  } finally {
    for (const side of sides) await side.end()
  }
}

export async function measureBlackoutMemory({ quick, say }) {
  const largeMib = quick ? 512 : LARGE_MIB
  const rounds = quick ? 2 : 7
  const makers = [() => Updated.start(SMALL_MIB, 0), () => Updated.start(largeMib, 0)]
  const { blackout, gap, blackout_ms, gap_ms } = await withSides(makers, (small, large) =>
    compare({ rounds, small, large, settleMs: SETTLE_MS, say }),
  )
  return {
    blackout_memory_ratio: { ...blackout, of: `${largeMib} MiB over ${SMALL_MIB} MiB` },
    blackout_memory_gap_ratio: gap,
    blackout_memory_ms: { small: blackout_ms[0], large: blackout_ms[1] },
    blackout_memory_gap_ms: { small: gap_ms[0], large: gap_ms[1] },
  }
}

export async function measureBlackoutStartup({ quick, say }) {
  const slowMs = quick ? 500 : SLOW_LOAD_MS
  const rounds = quick ? 2 : 7
  const makers = [() => Updated.start(SMALL_MIB, 0), () => Updated.start(SMALL_MIB, slowMs)]
  const { blackout, gap, blackout_ms, gap_ms } = await withSides(makers, (small, large) =>
    compare({ rounds, small, large, settleMs: 200, say }),
  )
  return {
    blackout_startup_ratio: { ...blackout, of: `${slowMs / 1000} s to load over none` },
    blackout_startup_gap_ratio: gap,
    blackout_startup_ms: { none: blackout_ms[0], slow: blackout_ms[1] },
    blackout_startup_gap_ms: { none: gap_ms[0], slow: gap_ms[1] },
  }
}
