/**
 * liveupdate beside what else is used to replace a running Node.js service: the same service, the same load, several
 * updates each. A peer that is not there is said to be skipped, and why.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startInTest } from '../dist/testing/index.js'
import { atEnd, removeDirectory, start, stop, temporaryDirectory } from './tools/cleanup.mjs'
import { freePort, Load } from './tools/load.mjs'
import { round, summary } from './tools/stats.mjs'

const LOAD = { connections: 64, rate: 1_000 }
const SETTLE_MS = 700
const START_LIMIT_MS = 20_000
const INSTALL_LIMIT_MS = 120_000
const HERE = fileURLToPath(new URL('.', import.meta.url))
const service = (name) => join(HERE, 'services', `${name}.mjs`)

function message(child, wanted) {
  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error(`no message ${wanted}`)), START_LIMIT_MS)
    const take = (got) => {
      if (got !== wanted) return
      clearTimeout(limit)
      child.off('message', take)
      resolve()
    }
    child.on('message', take)
    child.once('exit', (code) => reject(new Error(`the service ended with ${code} before ${wanted}`)))
  })
}

function startService(name, port) {
  return start(process.execPath, [service(name)], {
    env: { ...process.env, BENCH_PORT: String(port) },
    stdio: ['ignore', 'ignore', 2, 'ipc'],
  })
}

async function liveupdate(port) {
  const command = [process.execPath, service('live')]
  const running = await startInTest({ from: command, workload: 'bench', env: { BENCH_PORT: String(port) } })
  const forget = atEnd(() => running.dispose())
  const blackouts = []
  return {
    async update() {
      const { outcome, blackoutMs, reason } = await running.update(command)
      if (outcome !== 'committed') throw new Error(`the update did not commit: ${reason}`)
      blackouts.push(blackoutMs)
    },
    figures: () => ({ blackout_ms: summary(blackouts) }),
    async end() {
      await running.dispose()
      forget()
    },
  }
}

/** What a service manager does: it asks the old process to end, waits for its end, and starts the new one. */
async function restart(port) {
  let child = startService('plain', port)
  await message(child, 'ready')
  return {
    async update() {
      await stop(child)
      child = startService('plain', port)
      await message(child, 'ready')
    },
    end: () => stop(child),
  }
}

async function cluster(port) {
  const child = startService('cluster', port)
  await message(child, 'ready')
  return {
    async update() {
      const updated = message(child, 'updated')
      child.kill('SIGHUP')
      await updated
    },
    end: () => stop(child),
  }
}

function pm2Command() {
  const command = join(HERE, 'node_modules', 'pm2', 'bin', 'pm2')
  if (existsSync(command)) return command
  const args = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--ignore-scripts']
  const done = spawnSync('npm', args, { cwd: HERE, timeout: INSTALL_LIMIT_MS, encoding: 'utf8' })
  if (done.status !== 0) {
    throw new Error(
      `pm2 cannot be installed: ${done.error?.message ?? done.signal ?? done.stderr.trim().split('\n')[0]}`,
    )
  }
  return command
}

export async function pm2(port) {
  const command = pm2Command()
  const home = temporaryDirectory('pm2')
  const config = join(home, 'app.json')
  const app = {
    name: 'bench',
    script: service('plain'),
    exec_mode: 'cluster',
    instances: 2,
    wait_ready: true,
    kill_timeout: 3_000,
    env: { BENCH_PORT: String(port) },
  }
  writeFileSync(config, JSON.stringify({ apps: [app] }))
  const env = { ...process.env, PM2_HOME: home, PM2_DISCRETE_MODE: 'true' }
  const run = (...args) => {
    const child = start(process.execPath, [command, ...args], { env, stdio: ['ignore', 'ignore', 'pipe'] })
    let errors = ''
    child.stderr.on('data', (chunk) => {
      errors += chunk
    })
    return new Promise((resolve, reject) => {
      child.once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`pm2 ${args[0]}: ${errors.trim()}`))))
    })
  }
  const kill = () => spawnSync(process.execPath, [command, 'kill'], { env, stdio: 'ignore', timeout: 10_000 })
  const forget = atEnd(kill)
  try {
    await run('start', config)
  } catch (error) {
    kill()
    forget()
    throw error
  }
  return {
    update: () => run('reload', 'bench'),
    async end() {
      await run('kill').catch(kill)
      forget()
      removeDirectory(home)
    },
  }
}

export async function measurePeer({ begin, updates, say }) {
  const port = await freePort()
  const peer = await begin(port)
  let load
  try {
    load = await Load.start({ ...LOAD, port })
    const gaps = []
    const tookMs = []
    for (let count = 0; count < updates; count++) {
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
      await load.call('gap')
      const startedAt = performance.now()
      await peer.update()
      tookMs.push(performance.now() - startedAt)
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
      gaps.push(await load.call('gap'))
    }
    const { latency_ms: latency, ...stats } = await load.call('stop')
    const [p50, p99, max] = [latency.p50, latency.p99, latency.max].map(round)
    const gapsMs = gaps.map(({ gap }) => gap)
    const figures = {
      updates,
      ...stats,
      longest_gap_ms: round(Math.max(...gapsMs)),
      gap_ms: summary(gapsMs),
      silence_ms: summary(gaps.map(({ silence }) => silence)),
    }
    say(`${stats.failed} of ${stats.sent} failed, ${stats.closed_by_peer} closed, gap ${figures.longest_gap_ms} ms`)
    return { ...figures, update_took_ms: summary(tookMs), latency_ms: { p50, p99, max }, ...peer.figures?.() }
  } finally {
    load?.end()
    await peer.end()
  }
}

export async function measurePeers({ quick, say }) {
  const peers = { load: { ...LOAD, loop: 'open' } }
  for (const begin of [liveupdate, restart, cluster, pm2]) {
    const { name } = begin
    try {
      peers[name] = await measurePeer({ begin, updates: quick ? 2 : 6, say: (line) => say(`${name}: ${line}`) })
    } catch (error) {
      peers[name] = { skipped: error instanceof Error ? error.message : String(error) }
      say(`${name}: ${peers[name].skipped}`)
    }
  }
  return { peers }
}
