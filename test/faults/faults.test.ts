/**
 * Every fault of the table, with real processes: after each the documented outcome, the right version serving on the
 * right connections, the state intact, and no process and no descriptor left behind.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { connect } from '../../src/cli/context.js'
import { type RunningTest, startInTest } from '../../src/testing/index.js'
import { eventually } from '../daemon/stage.js'
import { freePort } from '../free-port.js'
import { FAULTS, type FaultRow, MESSAGE_FAULTS } from './table.js'

const SERVICE = fileURLToPath(new URL('./service.mjs', import.meta.url))
const HITS_BEFORE = 5
/** For sides that stand still; a kill is seen at once. */
const DEADLINE_MS = 700

interface Answer {
  version: string
  pid: number
  hits: number
  origin: string
}

const cleanups: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

function ask(port: number, agent?: Agent): Promise<Answer> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, agent: agent ?? false, timeout: 5_000 }, (response) => {
      let body = ''
      response.on('data', (chunk) => {
        body += chunk
      })
      response.on('end', () => resolve(JSON.parse(body)))
    })
      .on('timeout', function (this: { destroy(error: Error): void }) {
        this.destroy(new Error('no answer'))
      })
      .on('error', reject)
  })
}

/** Pids of all processes of this test: its socket's path, which is in a directory of its own, is in what they carry. */
function processesOf(socket: string): Map<number, string> {
  const found = new Map<number, string>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    try {
      const state = readFileSync(`/proc/${name}/stat`, 'latin1')
      if (state.slice(state.lastIndexOf(')') + 2).startsWith('Z')) continue
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8')
      if (`${command}\0${readFileSync(`/proc/${name}/environ`, 'utf8')}`.includes(socket)) {
        found.set(Number(name), command.replaceAll('\0', ' '))
      }
    } catch {
      // It has ended meanwhile.
    }
  }
  return found
}

async function status(socket: string) {
  const { client, status } = await connect(socket)
  client.close()
  return status
}

async function sessions(socket: string) {
  const { client } = await connect(socket)
  try {
    return (await client.call('Sessions', {})).parameters.sessions
  } finally {
    client.close()
  }
}

async function start(row: FaultRow, port: number): Promise<RunningTest> {
  const running = await startInTest({
    from: [process.execPath, SERVICE, String(port), 'old'],
    restart: true,
    ...(row.in === 'old' ? { fault: row.point } : {}),
  })
  cleanups.push(async () => {
    await running.dispose()
    // Where luoctl was killed, nobody else ends its service.
    for (const pid of processesOf(running.socket).keys()) process.kill(pid, 'SIGKILL')
  })
  return running
}

test.each(FAULTS)(
  'fault $number: in the $in version, $point.action $point.victim $point.when $point.call',
  async (row) => {
    const port = await freePort()
    const running = await start(row, port)
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    cleanups.push(() => agent.destroy())
    for (let count = 0; count < HITS_BEFORE; count++) await ask(port, agent)
    const old = await running.pid()
    const before = await status(running.socket)

    const result = await running.update([process.execPath, SERVICE, String(port), 'new'], {
      deadlineMs: row.code === 'LUO_DEADLINE' ? DEADLINE_MS : 10_000,
      ...(row.in === 'new' ? { fault: row.point } : {}),
    })
    expect({ outcome: result.outcome, code: result.code }).toEqual({ outcome: row.outcome, code: row.code })

    // Who serves, and with which state.
    if (row.serving === 'restarted') {
      const answer = await eventually(
        () => ask(port),
        ({ hits }) => hits > HITS_BEFORE,
        'nobody serves',
      )
      expect(answer.origin).toBe('crash')
      expect(answer.pid).not.toBe(old)
      expect(answer.version).toBe(row.outcome === 'committed' ? 'new' : 'old')
    } else {
      const answer = await ask(port, agent)
      expect(answer.version).toBe(row.serving)
      expect(answer.hits).toBe(HITS_BEFORE + 1)
      expect(answer.pid === old).toBe(row.serving === 'old')
    }
    const supervised = row.point.victim !== 'supervisor'
    const shown = await eventually(
      () => running.show(),
      ({ state, supervised: by }) => state === 'running' && by === supervised,
      'it is not running, or not supervised as it should be',
    )
    expect(await sessions(running.socket)).toMatchObject([{ custody: 'held' }])

    // No process but luod, the supervisor and the one that serves.
    const expected = 2 + (supervised ? 1 : 0)
    const left = await eventually(
      () => processesOf(running.socket),
      ({ size }) => size === expected,
      'processes are left',
    )
    expect([...left.keys()]).toContain(shown.pid)
    // Nothing more is open in luod than before, but for the supervisor's connection where it is gone.
    await eventually(
      () => status(running.socket),
      ({ open_fds, connections, files }) =>
        files === before.files && open_fds - before.open_fds === 2 * (connections - before.connections),
      `descriptors are left, and there were ${before.open_fds} at ${before.connections} connections`,
    )
  },
)

test('the numbers of the faults are in order and each fault is there once', () => {
  const all = [...FAULTS, ...MESSAGE_FAULTS]
  expect(all.map(({ number }) => number)).toEqual(all.map((_, index) => index + 1))
  const names = FAULTS.map(({ in: at, point }) => `${at} ${Object.values(point).join(' ')}`)
  expect(new Set(names).size).toBe(FAULTS.length)
})
