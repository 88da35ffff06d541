/**
 * The examples in C and Python under `luoctl run`, with visitors all the time: whatever the successor is written in,
 * and whatever it does, each visitor gets a number of their own, and no number is lost.
 */
import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type RunningTest, startInTest } from '../../src/testing/index.js'
import { eventually } from '../daemon/stage.js'
import { freePort } from '../free-port.js'
import { CLIENTS, compile } from './build.js'

const VISITORS = 4
const BETWEEN_UPDATES = 50
/** How an update ends is asked, not how fast: interpreters start slowly where others need the processors too. */
const PATIENT = { deadlineMs: 60_000 }
const PYTHON = join(CLIENTS, 'python')

interface Answer {
  count: number
  pid: number
}

let folder: string
let counter: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-counter-'))
  counter = compile(join(CLIENTS, 'c/example-counter.c'), folder, 'counter')
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let port: number
const running: RunningTest[] = []
beforeEach(async () => {
  port = await freePort()
})
afterEach(async () => {
  for (const each of running.splice(0)) await each.dispose()
})

const COMMANDS = {
  C: () => [counter, String(port)],
  Python: () => ['python3', '-B', join(PYTHON, 'example_counter.py'), String(port)],
} as const

/** A few lines with the Python client, as a version of the workload. */
function script(...lines: string[]): string[] {
  const begin = ['import os, select, sys', `sys.path.insert(0, ${JSON.stringify(PYTHON)})`, 'import liveupdate']
  return ['python3', '-B', '-c', [...begin, ...lines].join('\n')]
}

async function start(from: readonly string[], options: { restart?: boolean } = {}): Promise<RunningTest> {
  const started = await startInTest({ from, ...options })
  running.push(started)
  return started
}

function visit(): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect(port, '127.0.0.1')
    socket.on('data', (data) => {
      text += data
    })
    socket.on('error', reject)
    socket.on('close', () => {
      const [count = Number.NaN, pid = Number.NaN] = text.split(' ').map(Number)
      if (text.endsWith('\n')) resolve({ count, pid })
      else reject(new Error(`a visitor was told "${text}"`))
    })
  })
}

/** Visitors that come all the time; `stop` answers all that they were told. */
function visitors() {
  const answers: Answer[] = []
  let stopped = false
  const visitor = async () => {
    let last = 0
    while (!stopped) {
      const answer = await visit()
      expect(answer.count).toBeGreaterThan(last)
      last = answer.count
      answers.push(answer)
    }
  }
  const all = Array.from({ length: VISITORS }, visitor)
  const failed = Promise.all(all)
  failed.catch(() => {})
  return {
    answers,
    /** So many more have been served. */
    async more(count: number): Promise<void> {
      const wanted = answers.length + count
      await Promise.race([
        failed,
        eventually(
          () => answers.length,
          (length) => length >= wanted,
          'nobody is served',
        ),
      ])
    },
    async stop(): Promise<void> {
      stopped = true
      await failed
    },
  }
}

/** Every visitor had a number of their own, none is missing, and the next one gets the next. */
async function expectNothingLost(answers: readonly Answer[]): Promise<void> {
  const counts = answers.map(({ count }) => count).sort((a, b) => a - b)
  expect(counts).toEqual(counts.map((_, index) => index + 1))
  expect((await visit()).count).toBe(counts.length + 1)
}

test('updates under load, from C to C to Python to Python to C', async () => {
  const service = await start(COMMANDS.C())
  const load = visitors()
  const pids = [await service.pid()]
  for (const next of [COMMANDS.C, COMMANDS.Python, COMMANDS.Python, COMMANDS.C]) {
    await load.more(BETWEEN_UPDATES)
    expect(await service.update(next(), PATIENT)).toMatchObject({ outcome: 'committed' })
    pids.push(await service.pid())
  }
  await load.more(BETWEEN_UPDATES)
  await load.stop()
  expect(new Set(load.answers.map(({ pid }) => pid))).toEqual(new Set(pids))
  await expectNothingLost(load.answers)
  expect(service.output()).not.toMatch(/Sanitizer|Traceback|runtime error/)
})

describe.each(['C', 'Python'] as const)('a counter in %s', (language) => {
  test.each([
    ['crashes at its start', script('os._exit(3)'), 'LUO_GONE'],
    ['crashes when it has the state', script('files = liveupdate.join().claim()', 'os._exit(3)'), 'LUO_GONE'],
    ['does not accept the state', script('liveupdate.join(accepts=["other/1"])'), 'LUO_STATE_VERSION'],
  ])('serves on when its successor %s', async (_, successor, code) => {
    const service = await start(COMMANDS[language]())
    const pid = await service.pid()
    const load = visitors()
    await load.more(BETWEEN_UPDATES)
    expect(await service.update(successor, PATIENT)).toMatchObject({ outcome: 'rolledBack', code })
    await load.more(BETWEEN_UPDATES)
    await load.stop()
    expect(new Set(load.answers.map((answer) => answer.pid))).toEqual(new Set([pid]))
    await expectNothingLost(load.answers)
    // It can be updated all the same.
    expect(await service.update(COMMANDS[language](), PATIENT)).toMatchObject({ outcome: 'committed' })
    await expectNothingLost([...load.answers, { count: load.answers.length + 1, pid }])
  })

  test('is restarted after kill -9, and counts on', async () => {
    const service = await start(COMMANDS[language](), { restart: true })
    for (let count = 1; count <= BETWEEN_UPDATES; count++) expect((await visit()).count).toBe(count)
    const killed = await service.pid()
    process.kill(killed, 'SIGKILL')
    const next = await visit()
    expect(next.count).toBe(BETWEEN_UPDATES + 1)
    expect(next.pid).not.toBe(killed)
  })

  test('runs alone without luod', async () => {
    const { LUO_WORKLOAD, LUO_SOCKET, ...env } = process.env
    const [program = '', ...args] = COMMANDS[language]()
    const alone = spawn(program, args, { env, stdio: 'inherit' })
    try {
      const answer = await eventually(visit, ({ count }) => count > 0, 'it does not serve')
      expect(answer).toEqual({ count: 1, pid: expect.any(Number) })
    } finally {
      alone.kill('SIGKILL')
    }
  })

  test('does not start when it is a workload and there is no luod', async () => {
    const env = { ...process.env, LUO_WORKLOAD: 'web', LUO_SOCKET: join(folder, 'nobody.sock') }
    const [program = '', ...args] = COMMANDS[language]()
    const failed = promisify(execFile)(program, args, { env })
    await expect(failed).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('LUO_NO_DAEMON') })
  })
})

test('a version in Python refuses, and says why', async () => {
  const service = await start(
    script(
      'workload = liveupdate.join()',
      'workload.commit()',
      'while True:',
      '  select.select([workload], [], [])',
      '  event = workload.dispatch()',
      '  if event and event.kind == liveupdate.PREPARE: workload.refuse("writing to disk")',
    ),
  )
  const result = await service.update(COMMANDS.C(), PATIENT)
  expect(result).toMatchObject({ outcome: 'rolledBack', code: 'LUO_REFUSED' })
  expect(result.reason).toContain('writing to disk')
})
