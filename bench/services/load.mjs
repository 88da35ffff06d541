/**
 * The load, in a process of its own: keep-alive connections, one fixed rate over all of them whatever the answers (an
 * open loop). Every request that is due is sent, waits for a free connection, or fails; each is counted once: `sent` =
 * `answered` + `failed`. A connection that the peer closes is counted, and another one is opened when it is needed, as
 * clients do; where that is refused the request has failed.
 *
 * The gap is the longest that one client waited: from when its request was due to its answer, or, when that failed, to
 * the next answer that it got. The silence is the longest time in which nobody got any answer.
 */
import { HttpConnection } from '../../dist/demo/http-connection.js'

const TICK_MS = 1
const REQUEST_LIMIT_MS = 10_000
const STOP_LIMIT_MS = 10_000
/** Requests that wait for a free connection; what is due beyond that has failed. */
const MAX_WAITING = 20_000

const [port, connections, rate] = process.argv.slice(2).map(Number)
const stats = { sent: 0, answered: 0, failed: 0, opened: 0, closed_by_peer: 0, errors: {} }
const slots = Array.from({ length: connections }, () => ({ connection: undefined, busy: false, waitsSince: undefined }))
const latencies = []
let gapMs = 0
let silenceMs = 0
let waiting = []
let due = 0
let underWay = 0
let startedAt = 0
let lastAnswerAt = 0
let turn = 0

function fail(error) {
  stats.failed += 1
  const name = error.code ?? error.message
  stats.errors[name] = (stats.errors[name] ?? 0) + 1
}

async function ask(slot, dueAt) {
  slot.busy = true
  slot.waitsSince ??= dueAt
  underWay += 1
  let limit
  try {
    if (!slot.connection?.open) {
      slot.connection = await HttpConnection.open(port, () => {
        stats.closed_by_peer += 1
      })
      stats.opened += 1
    }
    limit = setTimeout(() => slot.connection.close(), REQUEST_LIMIT_MS)
    const { status } = await slot.connection.request('GET', '/')
    if (status !== 200) throw new Error(`answer ${status}`)
    const now = performance.now()
    stats.answered += 1
    gapMs = Math.max(gapMs, now - slot.waitsSince)
    slot.waitsSince = undefined
    silenceMs = Math.max(silenceMs, now - lastAnswerAt)
    lastAnswerAt = now
    latencies.push(now - dueAt)
  } catch (error) {
    fail(error)
  } finally {
    clearTimeout(limit)
    underWay -= 1
    slot.busy = false
  }
}

function tick() {
  const total = Math.floor(((performance.now() - startedAt) * rate) / 1000)
  for (; due < total; due++) {
    stats.sent += 1
    if (waiting.length < MAX_WAITING) waiting.push(startedAt + (due * 1000) / rate)
    else fail(new Error('no free connection'))
  }
  let next = 0
  for (let looked = 0; looked < slots.length && next < waiting.length; looked++) {
    turn = (turn + 1) % slots.length
    const slot = slots[turn]
    if (!slot.busy) void ask(slot, waiting[next++])
  }
  if (next > 0) waiting = waiting.slice(next)
}

const methods = {
  async start() {
    stats.sent += slots.length
    await Promise.all(slots.map((slot) => ask(slot, performance.now())))
    latencies.length = 0
    gapMs = silenceMs = 0
    startedAt = lastAnswerAt = performance.now()
    setInterval(tick, TICK_MS)
  },
  /** The longest gap and silence since this was asked for before, with those that are now. */
  gap() {
    const now = performance.now()
    const waits = slots.map(({ waitsSince = now }) => now - waitsSince)
    const longest = { gap: Math.max(gapMs, ...waits), silence: Math.max(silenceMs, now - lastAnswerAt) }
    gapMs = silenceMs = 0
    return longest
  },
  /** What is due until now is still sent. */
  async stop() {
    startedAt = Number.POSITIVE_INFINITY
    const limit = performance.now() + STOP_LIMIT_MS
    while ((underWay > 0 || waiting.length > 0) && performance.now() < limit) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    latencies.sort((a, b) => a - b)
    const at = (share) => latencies[Math.floor((latencies.length - 1) * share)]
    return { ...stats, latency_ms: { p50: at(0.5), p99: at(0.99), max: at(1) } }
  },
}

process.on('message', async ({ id, method }) => process.send({ id, result: await methods[method]() }))
process.on('disconnect', () => process.exit(0))
process.on('SIGINT', () => {})
