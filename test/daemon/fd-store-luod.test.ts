/** luod under a service manager that has a store for its descriptors: what was acknowledged survives luod. */
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openSession } from '../../src/client/index.js'
import type { LiveSession } from '../../src/client/types.js'
import type { Methods } from '../../src/protocol/types.js'
import { Fd } from '../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../src/sys/memfd.js'
import { inheritStdio } from '../../src/sys/node.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { FakeManager } from './fake-manager.js'
import { eventually, failure } from './stage.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))

let directory: string
let socket: string
let manager: FakeManager
let luod: ChildProcess

async function ask<M extends keyof Methods>(method: M, input: Methods[M]['input']): Promise<Methods[M]['output']> {
  const client = await VarlinkClient.connect(socket)
  try {
    return (await client.call(method, input)).parameters
  } finally {
    client.close()
  }
}

/** The manager starts luod, with what it keeps. */
async function start(): Promise<void> {
  luod = manager.start(process.execPath, [LUOD, '--socket', socket])
  const { pid } = luod
  const seen = () => ask('Status', {}).catch(() => undefined)
  await eventually(seen, (status) => status?.pid === pid && status?.protection.ready === true, 'luod does not start')
}

async function ended(signal: NodeJS.Signals): Promise<void> {
  const end = new Promise((resolve) => luod.once('exit', resolve))
  luod.kill(signal)
  await end
}

async function preserve(session: LiveSession, token: number, text: string): Promise<void> {
  using fd = createMemfd('fd-store-test')
  writeAt(fd, Buffer.from(text), 0)
  await session.preserve(token, inheritStdio(fd))
}

async function contentOf(session: LiveSession, token: number): Promise<string> {
  using fd = Fd.adopt(await session.retrieve(token))
  const bytes = new Uint8Array(64)
  return Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString()
}

function keptAs(name: string) {
  const kept = manager.kept.find((each) => each.name === name)
  if (!kept) throw new Error(`${name} is not in the store`)
  return kept
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'luo-store-'))
  socket = join(directory, 'luod.sock')
  manager = new FakeManager(join(directory, 'notify.sock'), 64)
})

afterEach(async () => {
  if (luod.exitCode === null && luod.signalCode === null) await ended('SIGKILL')
  manager[Symbol.dispose]()
  rmSync(directory, { recursive: true, force: true })
})

test.each(['SIGKILL', 'SIGTERM'] as const)(
  'after %s the next luod has everything, and clients go on',
  async (signal) => {
    await start()
    const session = await openSession('kept', { socket })
    await preserve(session, 1, 'one')
    for (let round = 0; round < 3; round++) {
      await ended(signal)
      await start()
      expect(await contentOf(session, 1)).toBe('one')
      await preserve(session, 2, `two ${round}`)
      await session.unpreserve(2)
    }
    const { sessions } = await ask('Sessions', {})
    expect(sessions).toMatchObject([{ name: 'kept', custody: 'held', files: 1 }])
    expect(await ask('Status', {})).toMatchObject({
      protection: { kind: 'store' },
      takeover: { how: 'crash', findings: 0 },
    })
    session.close()
    await eventually(
      () => ask('Sessions', {}),
      ({ total }) => total === 0,
      'the last close is not seen',
    )
    // Of the session nothing is left there either.
    await eventually(
      () => manager.names.sort(),
      (names) => names.join() === 'luo/listener,luo/lock,luo/records',
      'the store is not what it was',
    )
  },
)

test('an answer waits until the manager has what was preserved', async () => {
  await start()
  const session = await openSession('kept', { socket })
  manager.pause()
  let answered = false
  const preserving = preserve(session, 1, 'one').then(() => {
    answered = true
  })
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(answered).toBe(false)
  manager.resume()
  await preserving
  session.close()
})

test('more than the store takes is served all the same, and Status says that it is not protected', async () => {
  await start()
  const session = await openSession('kept', { socket })
  for (let token = 0; token < 80; token++) await preserve(session, token, String(token))
  expect(await contentOf(session, 79)).toBe('79')
  expect((await ask('Status', {})).protection).toMatchObject({ kind: 'store', ready: false })
  session.close()
})

test('what was left damaged is refused, and stays with the manager', async () => {
  await start()
  const session = await openSession('kept', { socket, keepMs: 60_000, reconnectMs: 0 })
  await preserve(session, 1, 'one')
  await ended('SIGKILL')
  const listener = keptAs('luo/listener')
  listener.name = 'luo/other'
  luod = manager.start(process.execPath, [LUOD, '--socket', socket])
  expect(await new Promise((resolve) => luod.once('exit', resolve))).toBe(1)
  listener.name = 'luo/listener'
  await start()
  expect(await ask('Sessions', {})).toMatchObject({ sessions: [{ name: 'kept', files: 1 }] })
  expect(await failure(session.retrieve(1))).toBe('LUO_GONE')
})

test("a luod that ended while it gave its first descriptors to the store is in nobody's way", async () => {
  await start()
  await ended('SIGKILL')
  const all = [...manager.kept]
  for (const has of [['luo/listener'], ['luo/listener', 'luo/records']]) {
    manager.kept.splice(0, manager.kept.length, ...all.filter(({ name }) => has.includes(name)))
    for (const { name, fd } of all) if (!has.includes(name)) fd.close()
    await start()
    await ended('SIGKILL')
    all.splice(0, all.length, ...manager.kept)
  }
  expect(manager.names.sort()).toEqual(['luo/listener', 'luo/lock', 'luo/records'])
})
