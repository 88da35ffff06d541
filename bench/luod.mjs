/** luod by itself: how soon clients can connect, what it weighs, and how it freezes a session with many files. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { start, stop } from './tools/cleanup.mjs'
import { Luod } from './tools/luod.mjs'
import { summary } from './tools/stats.mjs'

const FREEZE = fileURLToPath(new URL('services/freeze.mjs', import.meta.url))
const EMPTY = fileURLToPath(new URL('services/empty.mjs', import.meta.url))
const IDLE_MS = 1_000

export async function measureStart({ quick, say }) {
  const startMs = []
  const emptyMs = []
  const ratios = []
  const rssMb = []
  for (let count = 0; count < (quick ? 3 : 15); count++) {
    const empty = await emptyScriptMs()
    const luod = await Luod.start()
    startMs.push(luod.startMs)
    emptyMs.push(empty)
    ratios.push(luod.startMs / empty)
    if (count < 3) {
      await new Promise((resolve) => setTimeout(resolve, IDLE_MS))
      rssMb.push(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${luod.pid}/status`, 'utf8'))[1]) / 1024)
    }
    await luod.close()
  }
  say(`starts in ${summary(startMs).median} ms, an empty script runs in ${summary(emptyMs).median} ms`)
  return {
    luod_start_ms: summary(startMs),
    empty_script_ms: summary(emptyMs),
    luod_start_ratio: summary(ratios),
    luod_idle_rss_mb: summary(rssMb),
  }
}

/** What Node itself takes, from its start to its end. */
async function emptyScriptMs() {
  const startedAt = performance.now()
  await once(start(process.execPath, [EMPTY], { stdio: 'ignore' }), 'close')
  return performance.now() - startedAt
}

/** In a process of its own: luod kills a successor that fails. */
export async function measureFreeze({ quick, say }) {
  const files = quick ? 1_000 : 10_000
  const values = []
  // The first one warms up nobody: each is a luod and a workload of their own.
  for (let count = 0; count < (quick ? 2 : 7); count++) {
    const luod = await Luod.start(['--limit', `files=${files + 500}`])
    const child = start(process.execPath, [FREEZE, luod.socket, String(files)], { stdio: ['ignore', 2, 2, 'ipc'] })
    try {
      values.push(
        await new Promise((resolve, reject) => {
          child.once('message', resolve)
          child.once('exit', (code, signal) => reject(new Error(`freeze.mjs ended with ${code ?? signal}`)))
        }),
      )
    } finally {
      await stop(child, 'SIGKILL')
      await luod.close()
    }
  }
  const of = (what) => summary(values.map((value) => value[what]))
  say(`${files} files in ${of('claimMs').median} ms`)
  const name = files === 10_000 ? 'freeze_10k_files_ms' : 'freeze_1k_files_ms'
  return { [name]: { ...of('claimMs'), what: 'from Ready of the old version to the answer of Claim, over the socket' } }
}
