/**
 * What `luoctl emulate` costs: one trapped ioctl and one trapped open, as the program sees them, and how much longer
 * work takes that has nothing to do with live update: a start of Python, the C client compiled and linked, and the
 * least that can be compiled: a compiler's fixed part, which opens a file every few hundred microseconds. Run in turn
 * with and without.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { distribution, ratio } from './tools/stats.mjs'

const LUOCTL = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
/** A compile job of an ordinary size, linked too. */
const CLIENT = ['liveupdate.c', 'example-counter.c'].map((name) =>
  fileURLToPath(new URL(`../clients/c/${name}`, import.meta.url)),
)
const LIMIT_MS = 120_000

/** Prints the microseconds of each call; or, for each line of its input, runs a command and prints those of the run. */
const PROGRAM = `
import fcntl, json, os, struct, subprocess, sys, time

def timed(run, count):
    spent = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        spent.append((time.perf_counter() - started) * 1e6)
    return spent

if sys.argv[1] == 'calls':
    count = int(sys.argv[2])
    device = os.open('/dev/liveupdate', os.O_RDWR)
    answer = fcntl.ioctl(device, 0xBA00, struct.pack('<Ii64s', 72, -1, b'bench'))
    session = struct.unpack_from('<i', answer, 4)[0]
    name = struct.pack('<II64s', 72, 0, b'')
    ioctls = timed(lambda: fcntl.ioctl(session, 0xBA43, name), count)
    os.close(device)
    opens = timed(lambda: os.close(os.open('/dev/liveupdate', os.O_RDWR)), count)
    print(json.dumps({'ioctl': ioctls, 'open': opens}))
else:
    for _ in sys.stdin:
        print(timed(lambda: subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, check=True), 1)[0], flush=True)
`

export async function measureEmulate({ quick, say }) {
  for (const tool of ['python3', 'cc']) {
    if (spawnSync(tool, ['--version']).status !== 0) return { emulate: { skipped: `${tool} is not there` } }
  }
  const folder = mkdtempSync(join(tmpdir(), 'luo-bench-emulate-'))
  const program = join(folder, 'program.py')
  const source = join(folder, 'source.c')
  writeFileSync(program, PROGRAM)
  writeFileSync(source, '#include <stdio.h>\nint main(void) { return puts("bench") < 0; }\n')
  const env = { ...process.env, LUO_SOCKET: join(folder, 'luod.sock') }
  const emulate = [LUOCTL, 'emulate', '--', 'python3', program]
  /** Runs `command` for each call, and resolves with what it took. */
  const runner = (file, args, command) => {
    const child = spawn(file, [...args, 'run', ...command], { env, stdio: ['pipe', 'pipe', 'inherit'] })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const run = async () => {
      child.stdin.write('\n')
      const line = await lines.next()
      if (line.done) throw new Error(`${command.join(' ')} was not run to its end`)
      return Number(line.value)
    }
    const close = async () => {
      child.stdin.end()
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    }
    return { run, close }
  }
  const slowdown = async (count, command) => {
    const plain = runner('python3', [program], command)
    const emulated = runner(process.execPath, emulate, command)
    const [without, under] = [[], []]
    try {
      for (let turn = 0; turn < count + 1; turn++) {
        const first = turn % 2 === 0
        if (first) without.push(await plain.run())
        under.push(await emulated.run())
        if (!first) without.push(await plain.run())
      }
    } finally {
      await Promise.all([plain.close(), emulated.close()])
    }
    // The first of each has nothing in any cache.
    return ratio(without.slice(1), under.slice(1))
  }
  try {
    const calls = [...emulate, 'calls', quick ? '200' : '5000']
    const { ioctl, open } = JSON.parse(
      execFileSync(process.execPath, calls, { env, encoding: 'utf8', timeout: LIMIT_MS }),
    )
    say('calls')
    const runs = quick ? 3 : 50
    const python_start = await slowdown(runs, ['python3', '-c', 'import json, http.client'])
    say('python')
    const cc = (...args) => ['cc', '-o', join(folder, 'out'), ...args]
    const compile = await slowdown(quick ? 1 : 30, cc('-O2', ...CLIENT))
    say('compile')
    const compile_one_line = await slowdown(runs, cc('-O1', source))
    return {
      emulate: {
        emulate_ioctl_us: distribution(ioctl),
        emulate_open_us: distribution(open),
        emulate_passthrough_ratio: { python_start, compile, compile_one_line },
      },
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
