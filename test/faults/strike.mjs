// Loaded into luod, and so into whoever stands by, with `node --import`: kills somebody just before a step of changing
// hands (src/daemon/steps.ts). LUO_TEST_STRIKE is a directory; the order in it is carried out once, by whoever is the
// first to come to its step. The victim is dead when luod goes on: nothing depends on how fast anybody is.
import { subscribe } from 'node:diagnostics_channel'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'

const directory = process.env.LUO_TEST_STRIKE
const { ppid } = process
const hasLine = process.argv.includes('--line-fd')
const nothing = new Int32Array(new SharedArrayBuffer(4))

function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** The process that was started last to stand by here. */
function child() {
  const children = read(`/proc/self/task/${process.pid}/children`).trim().split(' ')
  return Number(children.filter((pid) => read(`/proc/${pid}/cmdline`).includes('--line-fd')).at(-1))
}

const isDead = (pid) => /^State:\s+[ZX]/m.test(read(`/proc/${pid}/status`) || 'State:\tX')

subscribe('liveupdate.luod.step', (step) => {
  const text = read(`${directory}/order`)
  if (text === '') return
  const order = JSON.parse(text)
  if (order.after === step) {
    writeFileSync(`${directory}/order.now`, JSON.stringify({ ...order, after: undefined }))
    renameSync(`${directory}/order.now`, `${directory}/order`)
    if (order.dies) process.kill(process.pid, 'SIGKILL')
    return
  }
  if (order.after !== undefined || order.step !== step) return
  try {
    renameSync(`${directory}/order`, `${directory}/struck`)
  } catch {
    return
  }
  const { victim } = order
  // Whoever took over is luod from then on.
  const isNext = hasLine && /^(next|takeover)\./.test(step)
  const pids = { luod: isNext ? ppid : process.pid, next: isNext ? process.pid : child() }
  const pid = pids[victim] ?? victim
  process.kill(pid, 'SIGKILL')
  while (!isDead(pid)) Atomics.wait(nothing, 0, 0, 1)
})
