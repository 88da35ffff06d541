/**
 * What the replacement of luod costs its clients, with many files and connections: an upgrade, the takeover by a
 * standby after SIGKILL, and what having a standby adds to preserving. The pause is what a client sees: from its last
 * answer before to its first one after, as one that asks without a break; `luod` is what luod says itself.
 */
import { randomUUID } from 'node:crypto'
import { closeAll } from '../dist/sys/fd.js'
import { createMemfd } from '../dist/sys/memfd.js'
import { VarlinkClient } from '../dist/wire/client.js'
import { ReconnectingClient } from '../dist/wire/reconnecting.js'
import { Luod, preserve } from './tools/luod.mjs'
import { ratio, summary } from './tools/stats.mjs'

const CLIENTS = 100
/** Each of them asks something this often. */
const ASK_MS = 100
const FILES = 10_000
const MANY_FILES = 15_000
const LIMITS = ['--limit', 'files=16000', '--limit', 'connections=1000']
const WAIT_MS = 20
const WAIT_LIMIT_MS = 30_000

class Loaded {
  static async start(files) {
    const loaded = new Loaded()
    loaded.luod = await Luod.start([...LIMITS, '--standby'])
    const { socket } = loaded.luod
    const holder = await loaded.luod.join('bench')
    const fds = Array.from({ length: files }, (_, index) => createMemfd(`bench-${index}`))
    await preserve(holder.client, holder.session, fds, 1)
    closeAll(fds)
    loaded.clients = await Promise.all(Array.from({ length: CLIENTS }, () => ReconnectingClient.connect(socket)))
    loaded.timers = loaded.clients.map((client) =>
      setInterval(() => client.call('Sessions', { limit: 1 }).catch(() => {}), ASK_MS),
    )
    loaded.pid = (await loaded.whole()).pid
    return loaded
  }

  /** Another luod than `not` answers, and has a standby. */
  async whole(not) {
    const end = performance.now() + WAIT_LIMIT_MS
    for (;;) {
      const client = await VarlinkClient.connect(this.luod.socket).catch(() => undefined)
      const status = await client?.call('Status', {}).catch(() => undefined)
      client?.close()
      const { pid, protection } = status?.parameters ?? {}
      if (protection?.ready && pid !== not) return status.parameters
      if (performance.now() > end) throw new Error(`luod is not whole: ${JSON.stringify(status?.parameters)}`)
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS))
    }
  }

  /** The longest that a client waited which asks all the time. */
  async replaced(replace) {
    const client = await ReconnectingClient.connect(this.luod.socket)
    let longest = 0
    let last = performance.now()
    let stop = false
    const asking = (async () => {
      while (!stop) {
        await client.call('Sessions', { limit: 1 })
        const now = performance.now()
        longest = Math.max(longest, now - last)
        last = now
      }
    })()
    await new Promise((resolve) => setTimeout(resolve, ASK_MS))
    longest = 0
    await replace(this.pid)
    const status = await this.whole(this.pid)
    stop = true
    await asking
    client.close()
    this.pid = status.pid
    if (status.takeover.findings > 0) throw new Error(`${status.takeover.findings} findings`)
    return { client: longest, luod: status.takeover.pause_ms }
  }

  async upgrade() {
    const client = await VarlinkClient.connect(this.luod.socket)
    try {
      for await (const _ of client.stream('Upgrade', { id: randomUUID() }));
    } catch {
      // The end of the luod that was asked.
    }
    client.close()
  }

  async close() {
    for (const timer of this.timers) clearInterval(timer)
    for (const client of this.clients) client.close()
    process.kill(this.pid, 'SIGTERM')
    await this.luod.close()
  }
}

async function several(rounds, measure) {
  const results = []
  for (let round = 0; round < rounds; round++) results.push(await measure())
  return { ...summary(results.map(({ client }) => client)), luod: summary(results.map(({ luod }) => luod)) }
}

export async function measureStandby({ quick, say }) {
  const rounds = quick ? 1 : 7
  const kill = (pid) => process.kill(pid, 'SIGKILL')
  const loaded = await Loaded.start(quick ? 500 : FILES)
  const result = {}
  try {
    result.upgrade_pause_ms = await several(rounds, () => loaded.replaced(() => loaded.upgrade()))
    say(`an upgrade: a client waits ${result.upgrade_pause_ms.median} ms`)
    result.standby_takeover_ms = await several(rounds, () => loaded.replaced(kill))
    say(`a takeover: a client waits ${result.standby_takeover_ms.median} ms`)
  } finally {
    await loaded.close()
  }
  const many = await Loaded.start(quick ? 500 : MANY_FILES)
  try {
    result.recovery_ms_15k_files = await several(rounds, () => many.replaced(kill))
  } finally {
    await many.close()
  }
  result.standby_cost_ratio = await cost(quick, say)
  return result
}

/** Preserving with a standby over without, in turns. */
async function cost(quick, say) {
  const files = quick ? 500 : 4_000
  const rounds = quick ? 2 : 15
  const luods = { alone: await Luod.start(LIMITS), standby: await Luod.start([...LIMITS, '--standby']) }
  const fds = Array.from({ length: files }, (_, index) => createMemfd(`bench-${index}`))
  const tokens = fds.map((_, index) => String(index + 1))
  const times = { alone: [], standby: [] }
  try {
    const joined = { alone: await luods.alone.join('bench'), standby: await luods.standby.join('bench') }
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    for (let round = 0; round < rounds + 3; round++) {
      for (const which of ['alone', 'standby']) {
        const { client, session } = joined[which]
        const startedAt = performance.now()
        await preserve(client, session, fds, 1)
        if (round >= 3) times[which].push(performance.now() - startedAt)
        await client.call('Unpreserve', { id: randomUUID(), session, tokens })
      }
    }
  } finally {
    closeAll(fds)
    await luods.alone.close()
    await luods.standby.close()
  }
  const result = ratio(times.alone, times.standby)
  say(`preserving with a standby takes ${result.ratio} times as long`)
  return result
}
