/** `luoctl run` with real processes: exit codes, signals, SIGHUP, the service manager, the other commands beside it. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { eventually } from '../daemon/stage.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const PACKAGE = fileURLToPath(new URL('../..', import.meta.url))
const SERVICE = `
import { join } from 'liveupdate'
const live = await join()
const memory = await live.memory('count', { size: 4096 })
const count = new Uint32Array(memory.buffer)
process.on('SIGTERM', async () => { await live.leave(); process.exit(7) })
process.on('SIGUSR1', () => console.log('heard SIGUSR1'))
await live.ready()
count[0] += 1
console.log('VERSION is number', count[0], 'pid', process.pid)
setInterval(() => {}, 1000)
`

let folder: string
let running: ChildProcess[]
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-run-'))
  running = []
})
afterEach(async () => {
  for (const child of running) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    const hard = setTimeout(() => child.kill('SIGKILL'), 3_000)
    await ended
    clearTimeout(hard)
  }
  rmSync(folder, { recursive: true, force: true })
})

function environment(more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const { LUO_WORKLOAD, LUO_TICKET, NOTIFY_SOCKET, ...env } = process.env
  return { ...env, LUO_SOCKET: join(folder, 'luod.sock'), ...more }
}

function luoctl(args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [LUOCTL, ...args], { env: environment() }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr })
    })
  })
}

class Run {
  readonly process: ChildProcess
  output = ''

  constructor(args: string[], env: NodeJS.ProcessEnv = {}, cwd = folder) {
    this.process = spawn(process.execPath, [LUOCTL, 'run', 'web', ...args], {
      cwd,
      env: environment({ PWD: cwd, ...env }),
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    running.push(this.process)
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.on('data', (data) => {
        this.output += data
      })
    }
  }

  async exit(): Promise<number | null> {
    if (this.process.exitCode === null) await once(this.process, 'exit')
    return this.process.exitCode
  }

  says(text: string): Promise<boolean> {
    return eventually(() => this.output.includes(text), Boolean, `it does not say "${text}" but "${this.output}"`)
  }
}

/** A release: a directory with a server.js in which the package can be found. */
function release(name: string): string {
  const directory = join(folder, name)
  mkdirSync(join(directory, 'node_modules'), { recursive: true })
  symlinkSync(PACKAGE, join(directory, 'node_modules/liveupdate'))
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(directory, 'server.js'), SERVICE.replace('VERSION', name))
  return directory
}

test.each([
  ['exits with 0', ['sh', '-c', 'exit 0'], 0],
  ['exits with 41', ['sh', '-c', 'exit 41'], 41],
  ['is killed by SIGKILL', ['sh', '-c', 'kill -9 $$'], 137],
  ['is killed by SIGTERM', ['sh', '-c', 'kill -15 $$'], 143],
  ['does not exist', ['./no-such-program'], 127],
  ['is not executable', ['./plain-file'], 126],
])('a command that %s gives its code to luoctl run', async (_, command, code) => {
  writeFileSync(join(folder, 'plain-file'), 'text')
  expect(await new Run(['--', ...command]).exit()).toBe(code)
})

test('SIGHUP updates to what the current link points to now; SIGTERM ends it with its own code', async () => {
  release('one')
  release('two')
  const current = join(folder, 'current')
  symlinkSync('one', current)
  const run = new Run(['--', process.execPath, 'server.js'], {}, current)
  await run.says('one is number 1')
  symlinkSync('two', join(folder, 'next'))
  renameSync(join(folder, 'next'), current)
  run.process.kill('SIGHUP')
  await run.says('two is number 2')
  await run.says('web: updated')
  run.process.kill('SIGUSR1')
  await run.says('heard SIGUSR1')
  run.process.kill('SIGTERM')
  expect(await run.exit()).toBe(7)
  // Its private luod ends with it.
  await eventually(
    () => existsSync(join(folder, 'luod.sock')),
    (there) => !there,
    'luod is still there',
  )
})

test('a crash is followed by a restart with the state; list, show, status, watch and inspect tell of it', async () => {
  release('one')
  const run = new Run(['--restart', '--', process.execPath, 'server.js'], {}, join(folder, 'one'))
  await run.says('one is number 1')
  const listed = JSON.parse((await luoctl(['list', '--json'])).stdout).workloads[0]
  expect(listed).toMatchObject({ name: 'web', state: 'running', supervised: true, generation: 1, keep_ms: 60_000 })
  process.kill(listed.pid, 'SIGKILL')
  await run.says('one is number 2')
  expect((await luoctl(['list'])).stdout).toContain('running')
  expect((await luoctl(['show', 'web'])).stdout).toContain('supervised by luoctl run')
  expect(JSON.parse((await luoctl(['show', 'web', '--json'])).stdout).generation).toBe(2)
  expect(JSON.parse((await luoctl(['status', '--json'])).stdout)).toMatchObject({ workloads: 1, sessions: 1, files: 2 })
  const inspected = JSON.parse((await luoctl(['inspect', '--json'])).stdout)
  expect(inspected.version).toBe(3)
  const records = inspected.types.find(({ type }: { type: string }) => type === 'workload').records
  expect(records[0].value).toMatchObject({ name: 'web', state: 'running' })
  expect((await luoctl(['show', 'nothing'])).code).toBe(1)
})

test('update and abort end with the documented codes', async () => {
  release('one')
  const run = new Run(['--', process.execPath, 'server.js'], {}, join(folder, 'one'))
  await run.says('one is number 1')
  expect((await luoctl(['update', 'web', '--check'])).code).toBe(0)
  const failed = await luoctl(['update', 'web', '--', 'sh', '-c', 'exit 1'])
  expect([failed.code, failed.stdout]).toEqual([3, expect.stringContaining('rolled back')])
  expect((await luoctl(['update', 'web', '--', './missing'])).code).toBe(3)
  expect((await luoctl(['update', 'nothing'])).code).toBe(1)
  expect((await luoctl(['abort', 'web'])).code).toBe(1)
  expect((await luoctl(['update'])).code).toBe(2)
  const done = await luoctl(['update', 'web', '--json'])
  expect(done.code).toBe(0)
  const last = JSON.parse(done.stdout.trim().split('\n').at(-1) ?? '')
  expect(last).toMatchObject({ outcome: 'committed', blackout_ms: expect.any(Number) })
  expect((await luoctl(['list', '--socket', join(folder, 'no.sock')])).code).toBe(4)
})

test('a second supervisor of the same workload is refused', async () => {
  release('one')
  const run = new Run(['--', process.execPath, 'server.js'], {}, join(folder, 'one'))
  await run.says('one is number 1')
  const second = new Run(['--', 'true'])
  expect(await second.exit()).toBe(1)
  expect(second.output).toContain('LUO_WORKLOAD_ACTIVE')
})

test('a service manager is told READY, RELOADING and STOPPING', async () => {
  release('one')
  const path = join(folder, 'notify.sock')
  const script = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print('bound', flush=True)
while True: print(s.recv(4096).decode().replace(chr(10), ' '), flush=True)
`
  const manager = spawn('python3', ['-c', script, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  running.push(manager)
  let heard = ''
  manager.stdout.on('data', (data) => {
    heard += data
  })
  const hears = (text: string) => eventually(() => heard.includes(text), Boolean, `${text} is missing in ${heard}`)
  await hears('bound')
  const run = new Run(['--', process.execPath, 'server.js'], { NOTIFY_SOCKET: path }, join(folder, 'one'))
  await run.says('one is number 1')
  await hears('READY=1')
  heard = ''
  run.process.kill('SIGHUP')
  await hears('RELOADING=1')
  await hears('MONOTONIC_USEC=')
  await hears('READY=1')
  run.process.kill('SIGTERM')
  await hears('STOPPING=1')
  expect(await run.exit()).toBe(7)
})
