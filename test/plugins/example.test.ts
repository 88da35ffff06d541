/** The plug-in of examples/plugin, as an operator and their services use it, and over an emulated kexec. */
import { spawnSync } from 'node:child_process'
import { readFileSync, readSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Generation, type Handover } from '../../src/backends/generation.js'
import { registerReferenceHandlers } from '../../src/handlers/reference.js'
import { loadPlugin, type Plugin } from '../../src/plugin/load.js'
import { registerPlugin } from '../../src/plugin/register.js'
import { closeAll, countOpenFds, type Fd } from '../../src/sys/fd.js'
import { sameOpenFile } from '../../src/sys/file-info.js'
import { Poller } from '../../src/sys/poller.js'
import { failure, Stage } from '../daemon/stage.js'
import { failsWith, flags, Kit, O_NONBLOCK, waits } from '../kinds/kit.js'
import { eventfd } from '../kinds/proofs-kernel.js'

const EXAMPLE = fileURLToPath(new URL('../../examples/plugin/eventfd-by-value.js', import.meta.url))
const EFD_SEMAPHORE = 1
const ENTRIES = 256

function add(fd: Fd, value: bigint): void {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64LE(value)
  writeSync(fd.number, buffer)
}

function take(fd: Fd): bigint {
  const buffer = Buffer.alloc(8)
  readSync(fd.number, buffer)
  return buffer.readBigUInt64LE()
}

beforeAll(() => {
  // It has an epoll, which is made once.
  Poller.shared()
})

let plugin: Plugin
let kit: Kit
let openBefore: number
let defects: unknown[]
beforeEach(async () => {
  plugin = await loadPlugin(EXAMPLE)
  openBefore = countOpenFds()
  kit = new Kit()
  defects = []
})
afterEach(() => {
  kit[Symbol.dispose]()
  expect(defects).toEqual([])
  expect(countOpenFds()).toBe(openBefore)
})

describe('in a luod', () => {
  test('a service preserves eventfds and gets them back', async () => {
    await using stage = await Stage.start({ args: ['--plugin', EXAMPLE] })
    const client = await stage.client()
    const joined = await client.call('Join', { id: 'join', workload: 'web', accepts: ['*'], fds: 0 })
    const { session } = joined.parameters
    const preserve = (id: string, fds: Fd[]) => {
      const files = fds.map((_, index) => ({ token: `${id}${index}`, fd: index }))
      return client.call('Preserve', { id, session, files, fds: fds.length }, fds)
    }
    const fd = eventfd(kit, 5)
    await preserve('1', [fd])
    // It is this plug-in that has it: luod's own handler has no limit of 256.
    expect(await failure(preserve('2', [fd]))).toBe('EBUSY')
    const more = Array.from({ length: ENTRIES - 1 }, () => eventfd(kit))
    for (let at = 0; at < more.length; at += 200) await preserve(`3${at}`, more.slice(at, at + 200))
    expect(await failure(preserve('4', [eventfd(kit)]))).toBe('ENOSPC')
    const { fds } = await client.call('Retrieve', { session, tokens: ['10'] })
    for (const back of fds) kit.own(back)
    add(fd, 2n)
    expect(take(fds[0] as Fd)).toBe(7n)
    closeAll(joined.fds)
  })
})

describe('over an emulated kexec', () => {
  const begin = (handover?: Handover) =>
    Generation.begin({
      register: (context) => {
        registerPlugin(plugin, context)
        registerReferenceHandlers(context)
      },
      onDefect: (error) => defects.push(error),
      ...(handover ? { handover } : {}),
    })

  test('counters and flags cross as values, in new eventfds', () => {
    const before = begin()
    const outgoing = before.open().createSession('web')
    const [counter, semaphore] = [eventfd(kit, 5), eventfd(kit, 3, EFD_SEMAPHORE | O_NONBLOCK)]
    outgoing.preserve('1', counter)
    outgoing.preserve('2', semaphore)
    // What is added before the freeze is there.
    add(counter, 2n ** 40n)
    const handover = before.kexec()
    // The descriptors do not cross.
    expect(handover.files).toEqual([])
    const after = begin(handover)
    const session = after.open().retrieveSession('web')
    const [back, backSemaphore] = ['1', '2'].map((token) => kit.own(session.retrieve(token))) as [Fd, Fd]
    expect(sameOpenFile(back, counter)).toBe(false)
    expect([take(back), waits(back)]).toEqual([2n ** 40n + 5n, false])
    expect([1, 2, 3].map(() => take(backSemaphore))).toEqual([1n, 1n, 1n])
    expect(failsWith(() => take(backSemaphore))).toBe('EAGAIN')
    expect(flags(back) & O_NONBLOCK).toBe(0)
    session.finish()
    session.close()
    after.close()
  })

  test('a session with events that nobody came for cannot be finished, and then it can', () => {
    const before = begin()
    const outgoing = before.open().createSession('web')
    outgoing.preserve('1', eventfd(kit, 1))
    outgoing.preserve('2', eventfd(kit, 0))
    const after = begin(before.kexec())
    const session = after.open().retrieveSession('web')
    expect(failsWith(() => session.finish())).toBe('EBUSY')
    kit.own(session.retrieve('1'))
    session.finish()
    session.close()
    after.close()
  })

  test('what comes back is preserved again, and goes on', () => {
    let generation = begin()
    const first = generation.open().createSession('web')
    first.preserve('1', eventfd(kit, 1))
    for (let round = 2n; round <= 4n; round++) {
      const handover = generation.kexec()
      generation = begin(handover)
      const device = generation.open()
      const incoming = device.retrieveSession('web')
      const fd = kit.own(incoming.retrieve('1'))
      const outgoing = device.createSession('web')
      // Not before it is finished.
      expect(failsWith(() => outgoing.preserve('1', fd))).toBe('EBUSY')
      incoming.finish()
      incoming.close()
      add(fd, 1n)
      outgoing.preserve('1', fd)
    }
    const last = begin(generation.kexec())
    const session = last.open().retrieveSession('web')
    expect(take(kit.own(session.retrieve('1')))).toBe(4n)
    session.finish()
    last.close()
  })
})

test('the types of liveupdate/plugin fit it', () => {
  const compiler = fileURLToPath(new URL('../../node_modules/typescript/bin/tsc', import.meta.url))
  const options = ['--noEmit', '--allowJs', '--checkJs', '--module', 'nodenext', '--target', 'es2022', '--skipLibCheck']
  const args = [compiler, ...options, '--types', 'node', '--strict', '--noImplicitAny', 'false', EXAMPLE]
  const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  expect(stdout).toBe('')
  expect(status).toBe(0)
})

test('the documentation names the example, and each operation that it uses', () => {
  const page = readFileSync(new URL('../../docs/plugins.md', import.meta.url), 'utf8')
  expect(page).toContain('examples/plugin/eventfd-by-value.js')
  for (const operation of [
    'canPreserve',
    'getId',
    'preserve',
    'unpreserve',
    'freeze',
    'unfreeze',
    'retrieve',
    'canFinish',
    'finish',
  ]) {
    expect(page).toContain(`| \`${operation}`)
  }
})
