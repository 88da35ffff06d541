import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { rejectionOf } from '../../test/code-of.js'
import { until } from '../../test/until.js'
import { openSession } from '../client/index.js'
import { LuoError } from '../errors.js'
import { INTERFACE_NAME, MAX_FDS } from '../protocol/interface.js'
import { encodeError, MAX_MESSAGE_BYTES } from '../protocol/messages.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd, fileSize } from '../sys/memfd.js'
import { Poller } from '../sys/poller.js'
import { acceptUnix, connectUnix, listenUnix } from '../sys/unix.js'
import { VarlinkClient } from './client.js'
import { Connection } from './connection.js'

const STRANGER = 54321
const SESSION = {
  ...{ session: '1', name: 'a', uid: 0, custody: 'held', files: 0, bytes: '0' },
  ...{ keep_ms: 0, age_ms: 1 },
}

let directory: string
let path: string
let openBefore: number
let listener: Fd
let client: VarlinkClient
/** luod's side, which says whatever the test wants. */
let luod: Connection
let requests: Record<string, unknown>[]
/** Bytes that luod has not sent yet. */
let queued: number

beforeAll(() => {
  // Made once in the life of a process, and kept.
  Poller.shared()
})
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'client-'))
  path = join(directory, 'luod.sock')
  openBefore = countOpenFds()
  requests = []
  queued = 0
  listener = listenUnix(path)
  client = await VarlinkClient.connect(path)
  luod = new Connection(acceptUnix(listener) as Fd, {
    onMessage: (message, fds) => {
      requests.push(message)
      closeAll(fds)
    },
    onClose: () => {},
    onUnderWay: (direction, { bytes }) => {
      if (direction === 'queued') queued += bytes
    },
  })
})
afterEach(async () => {
  client.close()
  luod.close()
  listener.close()
  rmSync(directory, { recursive: true })
  await until(() => countOpenFds() <= openBefore, 'every descriptor closed')
  expect(countOpenFds()).toBe(openBefore)
})

test('a luod that says of its one answer that more follow breaks the rules, and none of their files stays', async () => {
  const answer = rejectionOf(client.call('Inspect', {}))
  const file = createMemfd('file')
  const message = { parameters: { fds: 1, records_fd: 0 }, continues: true }
  for (let count = 0; count < 3; count++) luod.send(message, [file])
  file.close()
  expect(await answer).toBe('LUO_PROTOCOL')
})

describe('connecting', () => {
  test('is ENOENT where nothing is, and ECONNREFUSED where nobody listens any more', async () => {
    expect(await rejectionOf(VarlinkClient.connect(join(directory, 'other.sock')))).toBe('ENOENT')
    listener.close()
    expect(await rejectionOf(VarlinkClient.connect(path))).toBe('ECONNREFUSED')
  })

  test('is EPERM where another user listens, but for root, whose own luod everybody trusts', async () => {
    const own = process.getuid?.() ?? 0
    const owner = own === 0 ? STRANGER : own
    const name = `@liveupdate-client-test-${process.pid}`
    // The kernel keeps who it was that began to listen.
    if (own === 0) process.seteuid?.(owner)
    using foreign = listenUnix(name)
    if (own === 0) process.seteuid?.(0)
    const connectAs = async (uid: number, to: string) => {
      vi.spyOn(process, 'getuid').mockReturnValue(uid)
      const connected = await VarlinkClient.connect(to).finally(() => vi.restoreAllMocks())
      connected.close()
    }
    expect(await rejectionOf(connectAs(STRANGER + 1, name))).toBe('EPERM')
    await connectAs(owner, name)
    await connectAs(0, name)
    if (own === 0) await connectAs(STRANGER, path)
    for (let fd = acceptUnix(foreign); fd; fd = acceptUnix(foreign)) fd.close()
  })

  test('waits while too many others do', async () => {
    const waiting: Fd[] = []
    const fill = () => {
      for (let count = 0; count < 10_000; count++) waiting.push(connectUnix(path))
    }
    expect(fill).toThrow('EAGAIN')
    const inVain = await VarlinkClient.connect(path, 30).catch((error: LuoError) => error)
    const session = await openSession('web', { socket: path, reconnectMs: 0 }).catch((error: LuoError) => error)
    expect(session).toMatchObject({ code: 'LUO_NO_DAEMON', message: expect.stringContaining('its queue is full') })
    expect(inVain).toMatchObject({ code: 'EAGAIN' })
    expect(String(inVain)).toContain(`connect to ${path}: whoever listens there takes no connection for 0.03 s`)
    const connecting = VarlinkClient.connect(path)
    for (let fd = acceptUnix(listener); fd; fd = acceptUnix(listener)) fd.close()
    const late = await connecting
    late.close()
    closeAll(waiting)
  })
})

describe('a call', () => {
  test('is one message, with the name of the interface, and "more" only for a stream', async () => {
    const call = client.call('Abort', { id: '1', workload: 'web' })
    const next = client.stream('Watch', {}).next()
    await until(() => requests.length === 2, 'the requests')
    expect(requests).toEqual([
      { method: `${INTERFACE_NAME}.Abort`, parameters: { id: '1', workload: 'web' } },
      { method: `${INTERFACE_NAME}.Watch`, parameters: {}, more: true },
    ])
    luod.send({ parameters: { update: '7' } })
    luod.send({ parameters: { event: 'a' } })
    expect((await call).parameters).toEqual({ update: '7' })
    expect(await next).toMatchObject({ done: false, value: { parameters: { event: 'a' } } })
  })

  test('has no member that is null in its answer', async () => {
    const call = client.call('AdoptSession', { id: '1', name: 'a' })
    luod.send({ parameters: { session: { ...SESSION, pid: null }, fds: null } })
    expect((await call).parameters).toStrictEqual({ session: SESSION })
  })

  test('that is an error has no files: what came with it is closed', async () => {
    const call = client.call('List', {})
    using fd = createMemfd('file')
    const { error, parameters } = encodeError(new LuoError('ENOENT', 'list: nothing'))
    luod.send({ error, parameters: { ...parameters, fds: 2 } }, [fd, fd])
    expect(await rejectionOf(call)).toBe('ENOENT')
  })

  test.each<[string, unknown, () => Fd[]]>([
    ['LUO_PROTOCOL', { id: '1', workload: 'x'.repeat(MAX_MESSAGE_BYTES) }, () => []],
    ['EINVAL', { id: '1', workload: 'web', fds: MAX_FDS + 1 }, () => Array(MAX_FDS + 1).fill(createMemfd('one'))],
    [
      'EBADF',
      { id: '1', workload: 'web', fds: 1 },
      () => {
        const fd = createMemfd('closed')
        fd.close()
        return [fd]
      },
    ],
  ])('that cannot be sent says why (%s), and what else is under way is LUO_GONE', async (code, input, make) => {
    const before = rejectionOf(client.call('List', {}))
    const fds = make()
    expect(await rejectionOf(client.call('Abort', input as { id: string; workload: string }, fds))).toBe(code)
    closeAll(fds)
    expect(await before).toBe('LUO_GONE')
    expect(await rejectionOf(client.call('List', {}))).toBe('LUO_GONE')
  })

  test('of a stream that cannot be sent says why too', async () => {
    const input = { workload: 'x'.repeat(MAX_MESSAGE_BYTES) }
    expect(await rejectionOf(client.stream('Watch', input).next())).toBe('LUO_PROTOCOL')
  })
})

describe('a connection that ends', () => {
  test('fails everything under way and everything after that with LUO_GONE', async () => {
    const calls = [rejectionOf(client.call('List', {})), rejectionOf(client.call('Inspect', {}))]
    const stream = rejectionOf(client.stream('Watch', {}).next())
    await until(() => requests.length === 3, 'the requests')
    luod.close()
    expect(await Promise.all([...calls, stream])).toEqual(['LUO_GONE', 'LUO_GONE', 'LUO_GONE'])
    expect((await client.closed).code).toBe('LUO_GONE')
    expect(await rejectionOf(client.call('List', {}))).toBe('LUO_GONE')
    expect(await rejectionOf(client.stream('Watch', {}).next())).toBe('LUO_GONE')
  })

  test('is LUO_GONE also when luod has not read what it was asked, as when it was killed', async () => {
    luod.pause()
    const call = client.call('List', {})
    luod.close()
    const error = await call.catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'LUO_GONE', message: expect.stringContaining('List') })
    expect((await client.closed).code).toBe('LUO_GONE')
  })

  test('in the middle of an answer is LUO_GONE', async () => {
    const call = rejectionOf(client.call('List', {}))
    await until(() => requests.length === 1, 'the request')
    // More than the kernel keeps for a reader: the rest never comes.
    luod.send({ parameters: { workloads: ['x'.repeat(900_000)] } })
    luod.close()
    expect(await call).toBe('LUO_GONE')
  })

  test('because this side closes it is LUO_GONE', async () => {
    const call = rejectionOf(client.call('List', {}))
    client.close()
    client.close()
    expect(await call).toBe('LUO_GONE')
    expect(await rejectionOf(client.call('List', {}))).toBe('LUO_GONE')
  })

  test('with an answer before loses no answer', async () => {
    const calls = [client.call('Abort', { id: '1', workload: 'a' }), client.call('Abort', { id: '1', workload: 'b' })]
    const ends = calls.map(rejectionOf)
    await until(() => requests.length === 2, 'the requests')
    luod.send({ parameters: { update: '1' } })
    luod.close()
    expect(await Promise.all(ends)).toEqual([undefined, 'LUO_GONE'])
  })
})

describe('luod that breaks the rules', () => {
  test.each([
    ['parameters that are an array', { parameters: [] }],
    ['an error that is no text', { error: 5 }],
    ['an error that is no text, with files', { error: 5, parameters: { fds: 1 } }],
    ['a number of files that is none', { parameters: { fds: -1 } }],
    ['files that did not come', { parameters: { fds: 5 } }],
    ['files that it does not declare', { parameters: {} }],
  ])('by sending %s ends the connection with LUO_PROTOCOL, and its files are closed', async (_what, message) => {
    const call = rejectionOf(client.call('List', {}))
    const next = rejectionOf(client.call('List', {}))
    using fd = createMemfd('file')
    luod.send(message, [fd])
    const first = await call
    // One more file than declared is known only after the answer.
    expect([undefined, 'LUO_PROTOCOL']).toContain(first)
    expect(await next).toBe('LUO_PROTOCOL')
    expect((await client.closed).code).toBe('LUO_PROTOCOL')
  })

  test.each<[string, object]>([
    ['a member that is missing', {}],
    ['a list that is none', { workloads: 'web' }],
    ['something else in a list', { workloads: [null] }],
    ['a number that is a text', { workloads: [{ name: 'web', uid: '0' }] }],
  ])('by an answer with %s ends the connection with LUO_PROTOCOL, and its files are closed', async (_what, more) => {
    using fd = createMemfd('file')
    const call = rejectionOf(client.call('List', {}))
    luod.send({ parameters: { ...more, fds: 1 } }, [fd])
    expect(await call).toBe('LUO_PROTOCOL')
  })

  test('by what a later version says is none of that', async () => {
    const call = client.call('AdoptSession', { id: '1', name: 'a' })
    luod.send({ parameters: { session: { ...SESSION, custody: 'lent', since: 5 }, lender: 'b' } })
    expect((await call).parameters.session.custody).toBe('lent')
  })

  test('by an answer to nothing ends the connection with LUO_PROTOCOL, and its files are closed', async () => {
    using fd = createMemfd('file')
    luod.send({ parameters: { fds: 1 } }, [fd])
    expect((await client.closed).code).toBe('LUO_PROTOCOL')
  })

  test('and says why before it is asked anything is quoted', async () => {
    luod.send(encodeError(new LuoError('LUO_LIMIT', 'too many connections')))
    luod.close()
    expect(await client.closed).toMatchObject({ code: 'LUO_LIMIT', message: 'too many connections' })
    expect(await rejectionOf(client.call('List', {}))).toBe('LUO_LIMIT')
  })

  test('and says why before the first request is there is quoted too, though that cannot be sent any more', async () => {
    luod.send(encodeError(new LuoError('LUO_LIMIT', 'too many connections')))
    luod.close()
    const error = await client.call('List', {}).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'LUO_LIMIT', message: 'too many connections' })
  })
})

describe('a stream', () => {
  const event = (name: string) => ({ parameters: { event: name, fds: 1 }, continues: true })
  let fd: Fd
  beforeEach(() => {
    fd = createMemfd('ticket', { size: 3 })
  })
  afterEach(() => {
    fd.close()
  })

  test('that is left early closes the files of replies that nobody took, before and after', async () => {
    const open = countOpenFds()
    const stream = client.stream('Supervise', { id: '1', workload: 'web' })
    for (const name of ['1', '2', '3']) luod.send(event(name), [fd])
    for await (const { parameters, fds } of stream) {
      expect(parameters).toEqual({ event: '1', fds: 1 })
      expect(fds.map(fileSize)).toEqual([3])
      closeAll(fds)
      // The other two are there by now.
      await sleep(5)
      break
    }
    expect(countOpenFds()).toBe(open)
    luod.send(event('4'), [fd])
    luod.send({ parameters: { event: '5' } })
    // An answer to what is asked afterwards comes behind them.
    const call = client.call('Abort', { id: '1', workload: 'web' })
    luod.send({ parameters: { update: '6' } })
    expect((await call).parameters).toEqual({ update: '6' })
    expect(countOpenFds()).toBe(open)
  })

  test('that nobody takes ends the connection before it fills the memory, and what came is not lost', async () => {
    const stream = client.stream('Watch', {})
    const first = stream.next()
    await until(() => requests.length === 1, 'the request')
    for (let index = 0; index < 10_100; index++) {
      luod.send({ parameters: { event: String(index) }, continues: true })
      if (index === 0) await first
      if (index % 100 === 0) await sleep(0)
    }
    expect((await client.closed).code).toBe('LUO_GONE')
    let taken = 1
    const follow = async () => {
      for await (const { parameters } of stream) expect(parameters.event).toBe(String(taken++))
    }
    expect(await rejectionOf(follow())).toBe('LUO_GONE')
    expect(taken).toBeGreaterThan(10_000)
  })

  test('that nobody takes ends the connection also when its replies are few and long', async () => {
    const MANY = 80
    const stream = client.stream('Watch', {})
    const first = stream.next()
    await until(() => requests.length === 1, 'the request')
    const long = { parameters: { event: 'x'.repeat(MAX_MESSAGE_BYTES - 100) }, continues: true }
    for (let sent = 0; sent < MANY && !luod.closed; sent++) {
      luod.send(long)
      if (sent === 0) await first
      await until(() => queued === 0, 'what was sent is read')
    }
    expect((await client.closed).code).toBe('LUO_GONE')
    await stream.return()
  })

  test('that ends with an error leaves no files behind', async () => {
    const stream = client.stream('Supervise', { id: '1', workload: 'web' })
    const first = stream.next()
    luod.send(event('1'), [fd])
    luod.send(event('2'), [fd])
    const { value } = await first
    closeAll(value?.fds ?? [])
    luod.send(encodeError(new LuoError('LUO_ABORTED', 'enough')))
    await sleep(5)
    closeAll((await stream.next()).value?.fds ?? [])
    expect(await rejectionOf(stream.next())).toBe('LUO_ABORTED')
  })
})
