/**
 * Whoever listens takes no connection, and its queue is full: the clients in C and Python wait for as long as luod may be
 * away, and then say so in the words of the client in TypeScript.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openSession } from '../../src/client/index.js'
import { LuoError } from '../../src/errors.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { acceptUnix, connectUnix, listenUnix, receive } from '../../src/sys/unix.js'
import { eventually } from '../daemon/stage.js'
import { compile, HERE } from './build.js'

/** More than any queue has. */
const MANY = 10_000
const LONG_MS = 60_000

let folder: string
let wait: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-queue-'))
  wait = compile(join(HERE, 'wait.c'), folder, 'wait')
})
afterAll(() => rmSync(folder, { recursive: true }))

let path: string
let listener: Fd
let others: Fd[]
let children: ChildProcess[]
beforeEach(({ task }) => {
  path = join(folder, `${task.id}.sock`)
  listener = listenUnix(path)
  others = []
  children = []
})
afterEach(() => {
  for (const child of children) child.kill('SIGKILL')
  closeAll([listener, ...others])
})

function fill(): void {
  expect(() => {
    for (let count = 0; count < MANY; count++) others.push(connectUnix(path))
  }).toThrow('EAGAIN')
}

/** The next that has connected. */
function taken(): Promise<Fd> {
  return eventually(
    () => acceptUnix(listener),
    (fd) => fd !== undefined,
    'nobody connects',
  ) as Promise<Fd>
}

function start(program: string[], reconnectMs: number) {
  const [command = '', ...args] = program
  const child = spawn(command, [...args, path, String(reconnectMs), '0'], { stdio: ['ignore', 'ignore', 'pipe'] })
  children.push(child)
  let said = ''
  child.stderr.on('data', (data) => {
    said += data
  })
  const exit = new Promise<string>((resolve) => child.on('close', () => resolve(said)))
  return { child, exit }
}

describe.each([
  ['C', () => [wait]],
  ['Python', () => ['python3', join(HERE, 'wait.py')]],
])('the client in %s', (_, program) => {
  test('waits for a moment, and then fails as the one in TypeScript does', async () => {
    fill()
    // In C none is 10 s, and less is none.
    const { exit } = start(program(), -1)
    const known = await openSession('wait', { socket: path, reconnectMs: 0 }).catch((error: LuoError) => error)
    if (!(known instanceof LuoError)) throw new Error('it is open')
    expect(known.code).toBe('LUO_NO_DAEMON')
    const words = known.message.slice(known.message.indexOf('connect to'))
    expect(await exit).toContain(`${words} (LUO_NO_DAEMON)\n`)
  })

  test('has its turn when there is room again', async () => {
    fill()
    const { child } = start(program(), LONG_MS)
    const folder = `/proc/${child.pid}/fd`
    const sockets = () => readdirSync(folder).filter((fd) => readlinkSync(join(folder, fd)).startsWith('socket:'))
    await eventually(sockets, ({ length }) => length > 0, 'it does not try')
    closeAll(others)
    for (;;) {
      using fd = await taken()
      const request = await eventually(
        () => receive(fd),
        (got) => got !== undefined,
        'nothing came',
      )
      if (request && request.bytes.length > 0) {
        expect(Buffer.from(request.bytes).toString()).toContain('.Join"')
        return
      }
    }
  })

  test('that has lost its connection gives it up in time too', async () => {
    const { exit } = start(program(), 50)
    const fd = await taken()
    fill()
    fd.close()
    expect(await exit).toContain('(LUO_GONE)\n')
  })
})
