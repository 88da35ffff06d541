/**
 * A session is given to its holder as one end of a pair of sockets: the other end tells when the last copy of it is
 * gone, wherever that copy was and however its holder ended.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { closeAll, countOpenFds, type Fd } from './fd.js'
import { inheritStdio } from './node.js'
import { Poller, type Registration } from './poller.js'
import { receive, send, socketPair } from './unix.js'

let openAtStart: number
const files: Fd[] = []
const children: ChildProcess[] = []
const registrations: Registration[] = []

interface Session {
  /** What the holder has. */
  held: Fd
  /** Whether the last copy is gone. */
  over(): boolean
}

function session(): Session {
  const [ours, held] = socketPair()
  files.push(ours, held)
  let hangup = false
  const registration = Poller.shared().add(ours, { read: false, write: false }, (ready) => {
    hangup = ready.hangup
    registration.close()
  })
  registrations.push(registration)
  return { held, over: () => hangup }
}

function pair(): [Fd, Fd] {
  const both = socketPair()
  files.push(...both)
  return both
}

/** A Node process that has `held` by its stdio, and says so. */
async function holder(held: Fd, program = ''): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['-e', `${program}; console.log('holds'); setInterval(() => {}, 1000)`], {
    stdio: ['pipe', 'pipe', 'inherit', inheritStdio(held)],
  })
  children.push(child)
  if (child.stdout) await once(child.stdout, 'data')
  return child
}

const end = ({ over }: Session) => vi.waitFor(() => expect(over()).toBe(true), { timeout: 5_000 })
const goesOn = async ({ over }: Session) => {
  await sleep(30)
  expect(over()).toBe(false)
}

beforeAll(async () => {
  Poller.shared()
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  openAtStart = countOpenFds()
})

afterEach(async () => {
  for (const registration of registrations.splice(0)) registration.close()
  closeAll(files.splice(0))
  for (const child of children.splice(0)) {
    child.stdin?.destroy()
    child.stdout?.destroy()
    if (child.kill('SIGKILL')) await once(child, 'exit')
  }
})

describe('a session ends with its last copy', () => {
  test('which is the only one', async () => {
    const it = session()
    await goesOn(it)
    it.held.close()
    await end(it)
  })

  test('which is a duplicate', async () => {
    const it = session()
    const copy = it.held.dup()
    it.held.close()
    await goesOn(it)
    copy.close()
    await end(it)
  })

  test('which is under way to somebody who has not received it, and then has', async () => {
    const it = session()
    const [a, b] = pair()
    send(a, Uint8Array.of(1), [it.held])
    closeAll([it.held, a])
    await goesOn(it)
    const got = receive(b)
    await goesOn(it)
    closeAll(got?.fds ?? [])
    await end(it)
  })

  test('which is under way to somebody who never receives it', async () => {
    const it = session()
    const [a, b] = pair()
    send(a, Uint8Array.of(1), [it.held])
    closeAll([it.held, a])
    await goesOn(it)
    b.close()
    await end(it)
  })

  test('which is under way on itself, where nobody can ever receive it', async () => {
    const it = session()
    const [a, b] = pair()
    // Both ends and the session are in the queue of one of the ends: only the kernel can find that out.
    send(a, Uint8Array.of(1), [a, b, it.held])
    closeAll([it.held, a, b])
    // It looks when the next socket with files under way is closed.
    const poke = () => {
      const [c, d] = socketPair()
      send(c, Uint8Array.of(1), [c])
      closeAll([c, d])
      expect(it.over()).toBe(true)
    }
    await vi.waitFor(poke, { timeout: 5_000 })
  })

  test('which a process has that is killed', async () => {
    const it = session()
    const child = await holder(it.held)
    it.held.close()
    await goesOn(it)
    child.kill('SIGKILL')
    await end(it)
  })

  test('which a process has that ends by itself', async () => {
    const it = session()
    const child = await holder(it.held, `process.stdin.on('data', () => process.exit())`)
    it.held.close()
    await goesOn(it)
    child.stdin?.write('end')
    await end(it)
  })

  test('which a process has that closes it and goes on', async () => {
    const it = session()
    const child = await holder(it.held, `process.stdin.on('data', () => require('node:fs').closeSync(3))`)
    it.held.close()
    await goesOn(it)
    child.stdin?.write('close')
    await end(it)
    expect(child.exitCode ?? child.signalCode).toBe(null)
  })

  test('which a child of the killed holder has inherited', async () => {
    const it = session()
    const program = `
      const { spawn } = require('node:child_process')
      const child = spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore', 3] })
      console.log(child.pid)
    `
    const child = spawn(process.execPath, ['-e', program.concat('; setInterval(() => {}, 1000)')], {
      stdio: ['ignore', 'pipe', 'inherit', inheritStdio(it.held)],
    })
    children.push(child)
    const [line] = await once(child.stdout as NonNullable<typeof child.stdout>, 'data')
    it.held.close()
    child.kill('SIGKILL')
    await once(child, 'exit')
    await goesOn(it)
    process.kill(Number(String(line)), 'SIGKILL')
    await end(it)
  })

  test('and not with one of two processes that have it', async () => {
    const it = session()
    const [first, second] = await Promise.all([holder(it.held), holder(it.held)])
    it.held.close()
    first.kill('SIGKILL')
    await once(first, 'exit')
    await goesOn(it)
    second.kill('SIGKILL')
    await end(it)
  })
})

test('a child that was not given it does not keep it', async () => {
  const it = session()
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  children.push(child)
  await once(child, 'spawn')
  it.held.close()
  await end(it)
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
