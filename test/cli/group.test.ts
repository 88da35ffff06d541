/** `luoctl update` of several services: two that speak HTTP, of which one asks the other for every answer. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { LoadGenerator } from '../../src/demo/load.js'
import { eventually } from '../daemon/stage.js'
import { freePort } from '../free-port.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const SERVICE = fileURLToPath(new URL('./group-service.mjs', import.meta.url))
const UPDATES = 3
vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 })

let folder: string
let running: ChildProcess[]
let webPort: number

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'luo-group-'))
  running = []
  webPort = await freePort()
  const dbPort = String(await freePort())
  run('db', [dbPort])
  // Its private luod is also that of the other.
  await eventually(
    () => luoctl('list'),
    ({ code }) => code === 0,
    'no luod',
  )
  run('web', [String(webPort), dbPort])
  const ready = ({ workloads }: { workloads: { state: string }[] }) =>
    workloads.filter(({ state }) => state === 'running').length === 2
  await eventually(
    async () => JSON.parse((await luoctl('list', '--json')).stdout || '{"workloads":[]}'),
    ready,
    'start',
  )
})
afterEach(async () => {
  for (const child of running) {
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    await ended
  }
  rmSync(folder, { recursive: true, force: true })
})

function environment(): NodeJS.ProcessEnv {
  const { LUO_WORKLOAD, LUO_TICKET, NOTIFY_SOCKET, ...env } = process.env
  return { ...env, LUO_SOCKET: join(folder, 'luod.sock'), PWD: folder }
}

function luoctl(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [LUOCTL, ...args], { env: environment() }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr })
    })
  })
}

function run(role: string, ports: string[]): void {
  const command = [process.execPath, SERVICE, role, ...ports]
  const child = spawn(process.execPath, [LUOCTL, 'run', role, '--', ...command], {
    cwd: folder,
    env: environment(),
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  running.push(child)
}

test('two services, of which one needs the other, are updated under load: no request fails', async () => {
  const load = new LoadGenerator({ port: webPort, connections: 8, rate: 150 })
  await load.start()
  for (let count = 0; count < UPDATES; count++) {
    const done = await luoctl('update', 'web', 'db', '--json')
    const lines = done.stdout.trim().split('\n')
    expect(done.code, done.stdout).toBe(0)
    const { group, outcomes } = JSON.parse(lines.at(-1) ?? '')
    expect(outcomes).toMatchObject([
      { workload: 'web', outcome: 'committed', blackout_ms: expect.any(Number) },
      { workload: 'db', outcome: 'committed', blackout_ms: expect.any(Number) },
    ])
    for (const line of lines.slice(0, -1)) {
      expect(JSON.parse(line)).toMatchObject({ group, workload: expect.stringMatching(/^(web|db)$/), phase: {} })
    }
  }
  const { sent, answered, failed, lost, errors } = await load.stop()
  expect({ failed, lost, errors }).toEqual({ failed: 0, lost: 0, errors: [] })
  expect(answered).toBe(sent)
  expect(answered).toBeGreaterThan(0)
  expect((await luoctl('show', 'web')).stdout).toMatch(/^ *needs +db$/m)
})

test('exit codes, --all, and what is no group', async () => {
  const all = await luoctl('update', '--all', '--check')
  expect(all.code).toBe(0)
  expect(all.stdout).toMatch(/^web +checked/m)
  expect(all.stdout).toMatch(/^db +checked/m)
  writeFileSync(join(folder, 'db.broken'), '')
  const broken = await luoctl('update', 'db', 'web')
  expect(broken.code).toBe(3)
  expect(broken.stdout).toMatch(/^web +rolledBack/m)
  expect(broken.stderr.match(/LUO_\w+/g)).toEqual(['LUO_GONE'])
  expect((await luoctl('update')).code).toBe(2)
  expect((await luoctl('update', 'web', '--all')).code).toBe(2)
  expect((await luoctl('update', 'web', 'db', '--', 'true')).code).toBe(2)
  expect((await luoctl('update', 'web', 'web')).code).toBe(2)
  expect((await luoctl('update', 'web', 'nothing')).code).toBe(1)
  expect((await luoctl('run', 'x', '--after', 'x', '--', 'true')).code).toBe(1)
})
