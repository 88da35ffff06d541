/**
 * What the clients in C and Python do for a kexec: they learn the purpose, and wait for luod longer than in an update.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { FileIn, Methods } from '../../src/protocol/types.js'
import { type FakeLuod, fakeLuod, fakeMember } from '../fake-luod.js'
import { until } from '../until.js'
import { compile, HERE } from './build.js'

type Event = Methods['Subscribe']['output']

/** Far below what the client of a test is told to wait, and far above what it would wait for an update. */
const A_WHILE_MS = 200
const SHORT_MS = 20
const LONG_MS = 600_000

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-wait-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

interface Waiting {
  luod: FakeLuod
  child: ChildProcess
  /** Its lines. */
  said(): string[]
  complaints(): string
  say(event: Event): void
  readies: FileIn[][]
}

describe.each([
  ['C', () => [compile(join(HERE, 'wait.c'), folder, 'wait')]],
  ['Python', () => ['python3', join(HERE, 'wait.py')]],
])('the client in %s', (_, command) => {
  let program: string[]
  beforeAll(() => {
    program = command()
  })

  async function waiting(reconnectMs: number, kexecWaitMs: number): Promise<Waiting> {
    const { handlers, say, subscribed } = fakeMember()
    const readies: FileIn[][] = []
    const luod = fakeLuod({
      ...handlers,
      Ready: ({ input }) => {
        readies.push(input.files ?? [])
        return { output: {} }
      },
    })
    closing.push(() => luod[Symbol.dispose]())
    const [path = '', ...args] = program
    const child = spawn(path, [...args, luod.socket, String(reconnectMs), String(kexecWaitMs)], { stdio: 'pipe' })
    closing.push(() => child.kill('SIGKILL'))
    let said = ''
    let complaints = ''
    child.stdout?.on('data', (data) => (said += data))
    child.stderr?.on('data', (data) => (complaints += data))
    await until(subscribed, `a subscription: ${complaints}`)
    return {
      luod,
      child,
      said: () => said.split('\n').filter(Boolean),
      complaints: () => complaints,
      say,
      readies,
    }
  }

  /** It has let go for a kexec, and luod has ended. */
  async function letGo(reconnectMs: number, kexecWaitMs: number): Promise<Waiting> {
    const one = await waiting(reconnectMs, kexecWaitMs)
    one.say({ event: 'prepare', update: 'k', deadline_ms: 5_000, purpose: 'kexec' })
    await until(() => one.readies.length === 1, 'ready')
    one.luod[Symbol.dispose]()
    return one
  }

  test('tells an update from a kexec, and what is for updates only is called so', async () => {
    const { say, said, readies } = await waiting(SHORT_MS, LONG_MS)
    say({ event: 'prepare', update: 'u', deadline_ms: 5_000, purpose: 'update' })
    await until(() => readies.length === 1, 'ready')
    say({ event: 'resume', update: 'u', reason: 'rolled back' })
    say({ event: 'prepare', update: 'k', deadline_ms: 5_000, purpose: 'kexec' })
    await until(() => readies.length === 2, 'ready once more')
    expect(said()).toEqual(['prepare', 'resume', 'prepare for kexec'])
    expect(readies).toEqual([[{ token: '1', fd: 0, until: 'update' }], []])
  })

  test('does not go on while luod is away, and does when another one knows of no kexec', async () => {
    const { luod, said } = await letGo(SHORT_MS, LONG_MS)
    await new Promise((resolve) => setTimeout(resolve, A_WHILE_MS))
    expect(said()).toEqual(['prepare for kexec'])
    const next = fakeLuod({}, luod.socket)
    closing.push(() => next[Symbol.dispose]())
    await until(() => said().includes('resume'), 'it goes on')
  })

  test('goes on alone when its time is over, and leaves nothing', async () => {
    const { child, said, complaints } = await letGo(SHORT_MS, A_WHILE_MS)
    expect(await once(child, 'exit')).toEqual([0, null])
    expect(said()).toEqual(['prepare for kexec', 'resume', 'lost'])
    expect(complaints()).toBe('')
  })
})
