/** The service manager's store, with a manager of this test. */
import { mkdtempSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FdStore, type FdStoreOptions, receivedFiles, storeLimit } from '../../src/daemon/fd-store.js'
import { closeAll, countOpenFds, type Fd } from '../../src/sys/fd.js'
import { sameOpenFile } from '../../src/sys/file-info.js'
import { inheritedFiles } from '../../src/sys/listen-fds.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { NotifyChannel, storeMessage } from '../../src/sys/notify.js'
import { Poller } from '../../src/sys/poller.js'
import { socketPair } from '../../src/sys/unix.js'
import { codeOf, rejectionOf } from '../code-of.js'
import { FakeManager } from './fake-manager.js'

const SERVICE = fileURLToPath(new URL('fd-store-service.mjs', import.meta.url))
/** More than the queue of a datagram socket holds. */
const MANY = Number(readFileSync('/proc/sys/net/unix/max_dgram_qlen', 'latin1')) + 50

let folder: string
let manager: FakeManager
let owned: Fd[]
let stores: FdStore[]
let openBefore: number
beforeEach(() => {
  Poller.shared()
  createMemfd('first').close()
  openBefore = countOpenFds()
  folder = mkdtempSync(join(tmpdir(), 'luo-store-'))
  manager = new FakeManager(join(folder, 'notify'), 1000)
  owned = []
  stores = []
})
afterEach(() => {
  for (const store of stores) store.close()
  manager[Symbol.dispose]()
  closeAll(owned)
  rmSync(folder, { recursive: true })
  expect(countOpenFds()).toBe(openBefore)
})

function memory(content = ''): Fd {
  const fd = createMemfd('kept')
  owned.push(fd)
  writeSync(fd.number, content)
  return fd
}

function storeOf(options: Partial<FdStoreOptions> = {}): FdStore {
  const store = new FdStore({ path: manager.path, limit: manager.limit, ...options })
  stores.push(store)
  return store
}

const entries = (count: number) => Array.from({ length: count }, (_, index) => ({ key: `file/${index}`, fd: memory() }))

/** What a process of the service says that the manager gave it. */
async function restarted(): Promise<Record<string, unknown>> {
  const { stdout } = manager.start(process.execPath, [SERVICE])
  if (!stdout) throw new Error('it has no output')
  return JSON.parse(await text(stdout)) as Record<string, unknown>
}

describe('the store', () => {
  test('has by the end of a flush what was put before it, and gives it to the next process', async () => {
    const store = storeOf()
    store.put([
      { key: 'records', fd: memory('the records') },
      { key: 'file/12', fd: memory('a file') },
      { key: 'odd:key # %41 é', fd: memory('odd') },
    ])
    await store.flush()
    expect(manager.names).toEqual(['luo/records', 'luo/file/12', 'luo/odd%3akey%20%23%20%2541%20%c3%a9'])
    manager.kept.push({ name: 'luod.socket', fd: memory().dup() })
    expect(await restarted()).toEqual({
      entries: { records: 'the records', 'file/12': 'a file', 'odd:key # %41 é': 'odd' },
      others: ['luod.socket'],
      outdated: [],
      again: 0,
      variables: [],
    })
  })

  test('has more than the manager reads at once, in order, and does not wait for it', async () => {
    const store = storeOf()
    manager.pause()
    const all = entries(MANY)
    store.put(all)
    store.remove(all.slice(1).map(({ key }) => key))
    let flushed = false
    const flush = store.flush().then(() => {
      flushed = true
    })
    await new Promise(setImmediate)
    expect(flushed).toBe(false)
    manager.resume()
    await flush
    expect(manager.names).toEqual(['luo/file/0'])
    expect(store.size).toBe(1)
  })

  test('is asked once by flushes of the same changes, and not at all when there are none', async () => {
    const store = storeOf()
    await store.flush()
    store.put(entries(1))
    expect(store.flush()).toBe(store.flush())
    await store.flush()
    store.remove(['file/0', 'not there'])
    await Promise.all([store.flush(), store.flush()])
    await store.flush()
    expect(manager.messages.filter((message) => message === 'BARRIER=1')).toHaveLength(2)
  })

  test('has a descriptor under a key at every moment, also when it gets another one', async () => {
    const store = storeOf()
    const [first, second, third] = ['first', 'second', 'third'].map((name) => memory(name)) as [Fd, Fd, Fd]
    store.put([{ key: 'session', fd: first }])
    const copy = first.dup()
    owned.push(copy)
    store.put([{ key: 'session', fd: copy }])
    await store.flush()
    expect(manager.names).toEqual(['luo/session'])
    manager.pause()
    store.put([{ key: 'session', fd: second }])
    store.put([{ key: 'session', fd: third }])
    manager.resume()
    await store.flush()
    expect(manager.names).toEqual(['luo/session#2'])
    expect(sameOpenFile(manager.kept[0]?.fd as Fd, third)).toBe(true)
    expect(await restarted()).toMatchObject({ entries: { session: 'third' }, outdated: [] })
    store.remove(['session'])
    await store.flush()
    expect(manager.kept).toEqual([])
  })

  test('is full: ENOSPC, nothing is sent, and what is there stays', async () => {
    const store = storeOf({ limit: 2 })
    store.put(entries(1))
    expect(codeOf(() => store.put([1, 2].map((index) => ({ key: `more/${index}`, fd: memory() }))))).toBe('ENOSPC')
    store.put([{ key: 'more/1', fd: memory() }])
    // There is no room for it beside the one that it replaces.
    expect(codeOf(() => store.put([{ key: 'more/1', fd: memory() }]))).toBe('ENOSPC')
    await store.flush()
    expect(manager.names).toEqual(['luo/file/0', 'luo/more/1'])
  })

  test('that was there before is taken on; what nobody puts again goes, and what a crash left twice', async () => {
    const [kept, gone, older, newer] = [memory('kept'), memory(), memory('older'), memory('newer')]
    const files = Object.entries({ 'luo/kept': kept, 'luo/gone': gone, 'luo/two#3': newer, 'luo/two#2': older }).map(
      ([name, fd]) => {
        manager.kept.push({ name, fd: fd.dup() })
        return { name, fd: fd.dup() }
      },
    )
    const received = receivedFiles(files)
    for (const { fd } of received.entries.values()) owned.push(fd)
    const store = storeOf({ received })
    expect(store.size).toBe(3)
    store.put([...received.entries].filter(([key]) => key !== 'gone').map(([key, { fd }]) => ({ key, fd })))
    store.dropUnclaimed()
    await store.flush()
    expect(manager.names).toEqual(['luo/kept', 'luo/two#3'])
    expect(manager.messages).toEqual([
      'FDSTOREREMOVE=1\nFDNAME=luo/two#2',
      'FDSTOREREMOVE=1\nFDNAME=luo/gone',
      'BARRIER=1',
    ])
  })
})

describe('a manager', () => {
  test('that does not answer ends the store: LUO_DEADLINE, then and later', async () => {
    const store = storeOf({ barrierMs: 20 })
    manager.pause()
    store.put(entries(MANY))
    expect(await rejectionOf(store.flush())).toBe('LUO_DEADLINE')
    expect(await rejectionOf(store.flush())).toBe('LUO_DEADLINE')
    expect(codeOf(() => store.put(entries(1)))).toBe('LUO_DEADLINE')
    expect(codeOf(() => store.remove(['file/0']))).toBe('LUO_DEADLINE')
  })

  test('that ends is an error of the next change', async () => {
    const store = storeOf()
    using other = new FakeManager(join(folder, 'other'))
    const [lost] = [storeOf({ path: other.path })]
    other[Symbol.dispose]()
    lost.put(entries(1))
    expect(await rejectionOf(lost.flush())).toBe('ECONNREFUSED')
    store.put(entries(1))
    await store.flush()
    expect(codeOf(() => new FdStore({ path: join(folder, 'nobody'), limit: 1 }))).toBe('ENOENT')
  })

  test('gets a descriptor, too, that is closed before it is sent: it waits, and its owner does not', async () => {
    const store = storeOf()
    manager.pause()
    const all = entries(MANY)
    store.put(all)
    all.at(-1)?.fd.close()
    const flush = store.flush()
    store.remove([all.at(-1)?.key ?? ''])
    manager.resume()
    await flush
    await store.flush()
    expect(store.works).toBe(true)
    expect(manager.names).toHaveLength(MANY - 1)
  })

  test('is not waited for by a store that is closed', async () => {
    const store = storeOf()
    manager.pause()
    store.put(entries(1))
    const flush = rejectionOf(store.flush())
    store.close()
    expect(await flush).toBe('LUO_GONE')
  })
})

test('several files go in one message, under one name', () => {
  const channel = new NotifyChannel(manager.path)
  const pair = socketPair()
  owned.push(...pair, channel.socket)
  expect(channel.send(storeMessage('pair'), pair)).toBe(true)
  manager.read()
  expect(manager.names).toEqual(['pair', 'pair'])
  expect(codeOf(() => channel.send(storeMessage('many'), new Array<Fd>(254).fill(pair[0])))).toBe('EINVAL')
})

test('a name that the manager would not take is EINVAL', () => {
  for (const name of ['', 'a:b', 'line\nend', 'ü', 'x'.repeat(256)])
    expect(codeOf(() => storeMessage(name))).toBe('EINVAL')
  const store = storeOf()
  expect(codeOf(() => store.put([{ key: 'x'.repeat(300), fd: memory() }]))).toBe('EINVAL')
})

describe('what a process was started with', () => {
  const mine = { LISTEN_PID: String(process.pid) }
  test('is of that process only, and taken once', () => {
    expect(inheritedFiles({})).toEqual([])
    expect(inheritedFiles({ LISTEN_PID: '1', LISTEN_FDS: '1' })).toEqual([])
    const env: Record<string, string> = { ...mine, LISTEN_FDS: '0', LISTEN_FDNAMES: '', OTHER: 'stays' }
    expect(inheritedFiles(env)).toEqual([])
    expect(env).toEqual({ OTHER: 'stays' })
  })

  test.each([
    { LISTEN_FDS: 'x' },
    { LISTEN_FDS: '-1' },
    { LISTEN_FDS: '9999999999' },
    { LISTEN_FDS: '2', LISTEN_FDNAMES: 'one' },
  ])('makes sense: %j does not', (env) => {
    expect(codeOf(() => inheritedFiles({ ...mine, ...env }))).toBe('EINVAL')
  })
})

test('the limit of the store is what the manager says; none is 0', () => {
  expect([{ FDSTORE: '512' }, {}, { FDSTORE: '' }, { FDSTORE: '-1' }, { FDSTORE: 'x' }].map(storeLimit)).toEqual([
    512, 0, 0, 0, 0,
  ])
})
