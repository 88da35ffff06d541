/**
 * From the reboot call to the first answer of the service, in a virtual machine: under luod, and beside it a program in
 * C that makes the calls of the kernel itself (services/kexec.c), both with the same memory in the same machine.
 *
 * One clock spans the reboot: the host's, by which each line of the console has its time. What is before the reboot
 * call is tied to it by a line that has the time of the guest, too; what is after it has the monotonic clock, which
 * begins with the next kernel. luod's own account of it, the event `kexec` of its history, is in the result beside it.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryDirectory } from './tools/cleanup.mjs'
import { summary } from './tools/stats.mjs'
import { allowTypeScript } from './tools/typescript.mjs'

const path = (name) => fileURLToPath(new URL(name, import.meta.url))
const PORT = '8080'
const PROGRAM = 'kexec-bench'

export async function measureKexec({ quick, say }) {
  if (!process.env.LUO_KERNEL) {
    say('LEFT OUT: it takes LUO_KERNEL, the path of a kernel (scripts/build-kernel.sh builds one)')
    return { kexec: { skipped: 'no LUO_KERNEL' } }
  }
  allowTypeScript()
  const { compile, MACHINE_FOLDER, runMachine } = await import('../test/vm/machine.js')
  const program = join(temporaryDirectory('kexec'), PROGRAM)
  compile(path('services/kexec.c'), program)
  const luod = [process.execPath, path('../dist/daemon/main.js'), path('../dist/cli/main.js')]
  const how = { bare: ['bare'], luod: ['luod', ...luod, path('services/kexec.mjs'), PORT] }

  /** The parts of one run, in ms, in their order. */
  const once = async (which) => {
    const lines = []
    const boot = (stage) => ({ program: `${MACHINE_FOLDER}/${PROGRAM}`, args: [stage, ...how[which]] })
    await runMachine({
      boots: [boot('before'), boot('after')],
      files: [program],
      onLine: (line, atMs) => lines.push({ line, atMs }),
    })
    return partsOf(which, lines)
  }
  const runs = { bare: [], luod: [] }
  for (let count = 0; count < (quick ? 1 : 5); count++) {
    for (const which of Object.keys(runs)) {
      runs[which].push(await once(which))
      say(`${which}: ${Math.round(runs[which].at(-1).parts.total)} ms from the reboot call to the first answer`)
    }
  }
  const of = (which, what) => {
    const all = runs[which].map((run) => run[what])
    return Object.fromEntries(Object.keys(all[0]).map((name) => [name, summary(all.map((one) => one[name]))]))
  }
  return { kexec: { bare: of('bare', 'parts'), luod: of('luod', 'parts'), history: of('luod', 'history') } }
}

function partsOf(which, lines) {
  const json = lines.flatMap(({ line, atMs }) => (/^\{".*\}$/.test(line) ? { ...JSON.parse(line), atMs } : []))
  const marks = json.filter(({ mark }) => mark)
  const second = marks.findLastIndex(({ mark }) => mark === 'begun')
  const find = (name, from, to) => {
    const found = marks.slice(from, to).find(({ mark }) => mark === name)
    if (!found) throw new Error(`${which}: the machine did not say ${name}`)
    return found
  }
  const before = (name) => find(name, 0, second)
  const after = (name) => find(name, second)
  const begun = after('begun')
  /** The next kernel's monotonic clock is this far behind the host's. */
  const kernelStart = begun.atMs - begun.monotonic_ms
  const init = begun.init_ms
  if (which === 'bare') {
    const rebooting = before('rebooting')
    const marksAfter = { init, program: begun.monotonic_ms, claim: after('claimed').monotonic_ms }
    return { parts: spans(kernelStart - rebooting.atMs, marksAfter, after('answer').monotonic_ms), history: {} }
  }
  const events = json.findLast(({ events }) => events).events
  const kexec = events.find(({ event }) => event === 'kexec')
  const { letGo, preserve, stop, reboot, boot, luod } = kexec.spans
  const tie = before('asked')
  // By the clock before the kexec: what follows on it is exact up to the reboot call.
  const askedAt = Date.parse(kexec.at) - kexec.duration_ms
  const rebootAt = tie.atMs + (askedAt + letGo + preserve + stop - tie.realtime_ms)
  const toMonotonic = (at) => Date.parse(at) - begun.realtime_ms + begun.monotonic_ms
  const has = (name) => toMonotonic(events.findLast(({ event }) => event === name).at)
  const back = toMonotonic(kexec.at)
  const marksAfter = {
    init,
    program: begun.monotonic_ms,
    luodNode: back - luod,
    luodBack: back,
    luodReady: after('ready').monotonic_ms,
    service: has('joined'),
    claim: has('claimed'),
  }
  const parts = spans(kernelStart - rebootAt, marksAfter, after('answer').monotonic_ms)
  return { parts, history: { reboot, boot, luod, rebootByConsole: parts.reboot, bootByConsole: marksAfter.luodNode } }
}

/** Each is named by its end, and counted from the end of the one before. */
function spans(reboot, marks, answer) {
  const entries = [...Object.entries(marks), ['answer', answer]]
  const parts = entries.map(([name, at], index) => [name, at - (index > 0 ? entries[index - 1][1] : 0)])
  return { reboot, ...Object.fromEntries(parts), total: reboot + answer }
}
