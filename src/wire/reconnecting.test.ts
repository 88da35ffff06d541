import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd } from '../sys/memfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { acceptUnix, listenUnix } from '../sys/unix.js'
import { Connection } from './connection.js'
import { ReconnectingClient } from './reconnecting.js'

/** What a fake luod does with a message: answer it, or cut the connection. */
type Act = 'answer' | 'cut' | 'refuse' | 'nonsense'

let folder: string
let path: string
let luod: FakeLuod | undefined
let client: ReconnectingClient | undefined
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-reconnect-'))
  path = join(folder, 's')
})
afterEach(() => {
  client?.close()
  luod?.close()
  rmSync(folder, { recursive: true, force: true })
})

class FakeLuod {
  readonly asked: { method: string; id: unknown; files: number; connection: number }[] = []
  readonly #listener: Fd
  readonly #registration: Registration
  readonly #connections: Connection[] = []
  readonly #acts: Act[]

  constructor(acts: readonly Act[]) {
    this.#acts = [...acts]
    rmSync(path, { force: true })
    this.#listener = listenUnix(path)
    this.#registration = Poller.shared().add(this.#listener, { read: true, write: false }, () => {
      const fd = acceptUnix(this.#listener)
      if (fd) this.#serve(fd)
    })
  }

  get connections(): number {
    return this.#connections.length
  }

  #serve(fd: Fd): void {
    const number = this.#connections.length
    const connection: Connection = new Connection(fd, {
      onMessage: ({ method, parameters }, fds) => {
        for (const file of fds) file.close()
        const { id } = parameters as { id?: string }
        this.asked.push({ method: String(method).split('.').at(-1) ?? '', id, files: fds.length, connection: number })
        const act = this.#acts.shift() ?? 'answer'
        if (act === 'cut') connection.close()
        else if (act === 'nonsense') connection.send([] as unknown as object)
        else if (act === 'answer') connection.send({ parameters: { workloads: [], event: 'one' } })
        else connection.send({ error: 'x.Failed', parameters: { code: 'LUO_GONE', message: 'no version runs' } })
      },
      onClose: () => {},
    })
    this.#connections.push(connection)
  }

  cut(): void {
    for (const connection of this.#connections) connection.close()
  }

  close(): void {
    this.cut()
    this.#registration.close()
    this.#listener.close()
    luod = undefined
  }
}

async function begin(acts: readonly Act[], options: { reconnectMs?: number } = {}): Promise<ReconnectingClient> {
  luod = new FakeLuod(acts)
  client = await ReconnectingClient.connect(path, options)
  return client
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'nothing failed',
    (error) => (isLuoError(error) ? error.code : String(error)),
  )
}

describe('a connection that is lost', () => {
  test('is made again, and what was under way is asked again, in order, with its id and files', async () => {
    const before = countOpenFds()
    const connected = await begin(['cut'])
    using file = createMemfd('sent', { size: 1 })
    const requests = ['1', '2', '3'].map((id) =>
      connected.call('Preserve', { id, session: 's', files: [], fds: 1 }, [file]),
    )
    await Promise.all(requests)
    const repeated = luod?.asked.filter(({ connection }) => connection === 1)
    expect(repeated?.map(({ id, files }) => [id, files])).toEqual([
      ['1', 1],
      ['2', 1],
      ['3', 1],
    ])
    connected.close()
    luod?.close()
    // The file itself, and what the poller keeps.
    expect(countOpenFds()).toBeLessThanOrEqual(before + 2)
  })

  test('is waited for while nobody listens, and only so long', async () => {
    const connected = await begin([], { reconnectMs: 300 })
    luod?.close()
    const waiting = connected.call('List', {})
    await new Promise((resolve) => setTimeout(resolve, 50))
    luod = new FakeLuod([])
    await waiting
    luod.close()
    expect(await codeOf(connected.call('List', {}))).toBe('LUO_GONE')
    expect((await connected.closed).code).toBe('LUO_GONE')
    expect(await codeOf(connected.call('List', {}))).toBe('LUO_GONE')
    expect(await codeOf(connected.stream('Watch', {}).next())).toBe('LUO_GONE')
  })

  test('again and again without any answer is given up: luod may fall at what it is asked', async () => {
    const connected = await begin(Array(1_000).fill('cut'), { reconnectMs: 200 })
    expect(await codeOf(connected.call('List', {}))).toBe('LUO_GONE')
    expect(luod?.asked.length).toBeGreaterThan(1)
  })

  test('begins a stream anew, and says so', async () => {
    const connected = await begin([])
    let again = 0
    const stream = connected.stream('Watch', {}, () => {
      again += 1
    })
    const first = stream.next()
    await first
    expect((await stream.next()).done).toBe(true)
    const second = connected.stream('Watch', {}, () => {
      again += 1
    })
    luod?.close()
    luod = new FakeLuod(['cut'])
    await second.next()
    expect(again).toBeGreaterThan(0)
  })

  test('is not made again by whoever closed it', async () => {
    const connected = await begin([])
    connected.close()
    expect(await codeOf(connected.call('List', {}))).toBe('LUO_GONE')
    expect(luod?.asked).toEqual([])
  })
})

test('what luod refuses is not asked again, also with the code of a lost connection', async () => {
  const connected = await begin(['refuse'])
  expect(await codeOf(connected.call('List', {}))).toBe('LUO_GONE')
  expect(luod?.asked).toHaveLength(1)
  await connected.call('List', {})
})

test('a luod that breaks the protocol is left', async () => {
  const connected = await begin(['nonsense'])
  expect(await codeOf(connected.call('List', {}))).toBe('LUO_PROTOCOL')
  expect(luod?.connections).toBe(1)
})

test('a request that is withdrawn while luod is away is never sent', async () => {
  const connected = await begin(['cut'])
  const abort = new AbortController()
  const withdrawn = connected.call('Released', { id: '1', member: 'm', update: 'u' }, [], abort.signal)
  const kept = connected.call('Refuse', { id: '2', member: 'm', update: 'u', reason: 'r' })
  setImmediate(() => abort.abort(new Error('withdrawn')))
  expect(await codeOf(withdrawn)).toBe('Error: withdrawn')
  await kept
  const later = luod?.asked.filter(({ connection }) => connection > 0).map(({ method }) => method)
  expect(later).not.toContain('Released')
})

test('one that is opened waits for the first luod as for a later one', async () => {
  client = ReconnectingClient.open(path)
  const waiting = client.call('List', {})
  luod = new FakeLuod([])
  await waiting
})
