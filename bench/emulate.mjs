/**
 * What `luoctl emulate` costs: one trapped ioctl and one trapped open, as the program sees them, and how much longer work
 * takes that has nothing to do with live update: a start of Python, and a small compile job.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ratio, summary } from './tools/stats.mjs'

const LUOCTL = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const LIMIT_MS = 120_000

/** Prints the microseconds of each call, or of each run of a command. */
const PROGRAM = `
import fcntl, json, os, struct, subprocess, sys, time

def timed(run, count):
    spent = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        spent.append((time.perf_counter() - started) * 1e6)
    return spent

what, count = sys.argv[1], int(sys.argv[2])
if what == 'calls':
    device = os.open('/dev/liveupdate', os.O_RDWR)
    answer = fcntl.ioctl(device, 0xBA00, struct.pack('<Ii64s', 72, -1, b'bench'))
    session = struct.unpack_from('<i', answer, 4)[0]
    name = struct.pack('<II64s', 72, 0, b'')
    ioctls = timed(lambda: fcntl.ioctl(session, 0xBA43, name), count)
    os.close(device)
    opens = timed(lambda: os.close(os.open('/dev/liveupdate', os.O_RDWR)), count)
    print(json.dumps({'ioctl': ioctls, 'open': opens}))
else:
    subprocess.run(sys.argv[3:], check=True)
    print(json.dumps(timed(lambda: subprocess.run(sys.argv[3:], check=True), count)))
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
  const python = (emulated, args) => {
    const command = ['python3', program, ...args]
    const [file, ...rest] = emulated ? [process.execPath, LUOCTL, 'emulate', '--', ...command] : command
    return JSON.parse(execFileSync(file, rest, { env, encoding: 'utf8', timeout: LIMIT_MS }))
  }
  const slowdown = (count, command) => {
    const plain = python(false, ['run', String(count), ...command])
    return ratio(plain, python(true, ['run', String(count), ...command]))
  }
  try {
    const { ioctl, open } = python(true, ['calls', quick ? '200' : '5000'])
    say('calls')
    const runs = quick ? 3 : 30
    const python_start = slowdown(runs, ['python3', '-c', 'import json, http.client'])
    say('python')
    const compile = slowdown(runs, ['cc', '-O1', '-o', join(folder, 'out'), source])
    return {
      emulate: {
        emulate_ioctl_us: summary(ioctl),
        emulate_open_us: summary(open),
        emulate_passthrough_ratio: { python_start, compile },
      },
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
