import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { rejectionOf } from '../../test/code-of.js'
import { until } from '../../test/until.js'
import { isLuoError, LuoError } from '../errors.js'
import { parseInterface } from '../protocol/idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT, MAX_FDS } from '../protocol/interface.js'
import { Decoder, encodeMessage, MAX_MESSAGE_BYTES } from '../protocol/messages.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { interfere } from '../sys/ffi.js'
import { sameOpenFile } from '../sys/file-info.js'
import { nofileLimit, raiseNofile } from '../sys/limits.js'
import { createMemfd, fileSize, readAt, writeAt } from '../sys/memfd.js'
import { pidfdOwner } from '../sys/pidfd.js'
import { Poller } from '../sys/poller.js'
import { type Credentials, connectUnix, listenUnix, receive, send } from '../sys/unix.js'
import { VarlinkClient } from './client.js'
import { type Handlers, type Peer, Server } from './server.js'

const ME = { pid: process.pid, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }

let directory: string
let path: string
let openBefore: number
let servers: Server[]
let clients: { close(): void }[]
let defects: { error: unknown; method: string }[]
let refused: { code: string; peer: Credentials }[]
let counts: number[]

/** Every method of the interface; those that are not under test refuse. */
function handlersFor(some: Partial<Handlers>): Handlers {
  const names = [...parseInterface(INTERFACE_TEXT).methods.keys()]
  const refuse = (name: string) => () => {
    throw new LuoError('LUO_UNSUPPORTED', `${name} is not under test`)
  }
  return { ...(Object.fromEntries(names.map((name) => [name, refuse(name)])) as unknown as Handlers), ...some }
}

const UNDER_WAY = { files: 1_000, bytes: 16 * 2 ** 20 }

function start(some: Partial<Handlers> = {}, maxConnections = 100, maxUnderWay = UNDER_WAY): Server {
  const server = new Server({
    listener: listenUnix(path),
    handlers: handlersFor({ Abort: ({ input }) => ({ output: { update: input.workload } }), ...some }),
    version: '1.2.3',
    maxConnections,
    maxUnderWay,
    onDefect: (error, method) => defects.push({ error, method }),
    onRefused: ({ code }, peer) => refused.push({ code, peer }),
    onConnections: (count) => counts.push(count),
  })
  servers.push(server)
  return server
}

async function connect(): Promise<VarlinkClient> {
  const client = await VarlinkClient.connect(path)
  clients.push(client)
  return client
}

/** The server answers it as always. */
async function expectWorking(client?: VarlinkClient): Promise<void> {
  const { parameters } = await (client ?? (await connect())).call('Abort', { id: '1', workload: 'still' })
  expect(parameters).toEqual({ update: 'still' })
}

/** A client that may do everything wrong. */
class RawPeer {
  readonly #fd = connectUnix(path)
  readonly #decoder = new Decoder()
  readonly #messages: Record<string, unknown>[] = []
  /** Why it ended; undefined while it is open. */
  ended: string | undefined

  constructor() {
    clients.push(this)
  }

  /** All of it, the files with the first byte; what the other side does not take any more is dropped. */
  async write(bytes: Uint8Array, fds: readonly Fd[] = []): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      try {
        const sent = send(this.#fd, bytes.subarray(done), done === 0 ? fds : [])
        done += sent
        if (sent === 0) await sleep(1)
      } catch (error) {
        if (isLuoError(error, 'EPIPE') || isLuoError(error, 'ECONNRESET')) return
        throw error
      }
    }
  }

  request(method: string, parameters?: object, fds: readonly Fd[] = [], more: object = {}): Promise<void> {
    return this.write(encodeMessage({ method, parameters, ...more }), fds)
  }

  /** The next message; undefined at the end of the connection. */
  async next(): Promise<Record<string, unknown> | undefined> {
    await until(() => this.#read() || this.ended !== undefined, 'a message')
    return this.#messages.shift()
  }

  /** What came before the end, and the end. */
  async rest(): Promise<Record<string, unknown>[]> {
    const found: Record<string, unknown>[] = []
    for (let message = await this.next(); message; message = await this.next()) found.push(message)
    return found
  }

  close(): void {
    this.#fd.close()
  }

  #read(): boolean {
    while (this.#messages.length === 0 && this.ended === undefined) {
      try {
        const got = receive(this.#fd)
        if (!got) return false
        closeAll(got.fds)
        if (got.bytes.length === 0) this.ended = 'end'
        else this.#messages.push(...this.#decoder.push(got.bytes))
      } catch (error) {
        this.ended = isLuoError(error) ? error.code : String(error)
      }
    }
    return this.#messages.length > 0
  }
}

const memfds = (count: number): Fd[] =>
  Array.from({ length: count }, (_, index) => createMemfd(`file-${index}`, { size: index + 1 }))
const filesFor = (fds: readonly Fd[]) => ({
  id: '1',
  session: '1',
  files: fds.map((_, fd) => ({ token: String(fd), fd })),
  fds: fds.length,
})

/** Runs with room for so many more files in this process, which is both sides. */
async function withRoomFor(room: number, run: () => Promise<void>): Promise<void> {
  const { soft } = nofileLimit()
  const fillers: Fd[] = [createMemfd('filler')]
  try {
    // Fills every gap below a number that nothing here has reached, so that the limit is the lowest free one.
    while ((fillers.at(-1)?.number ?? 0) < 400) fillers.push((fillers[0] as Fd).dup())
    raiseNofile((fillers.at(-1)?.number ?? 0) + 1)
    closeAll(fillers.splice(fillers.length - room))
    await run()
  } finally {
    raiseNofile(soft)
    closeAll(fillers)
  }
}

beforeAll(() => {
  // Made once in the life of a process, and kept.
  Poller.shared()
})
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'server-'))
  path = join(directory, 'luod.sock')
  openBefore = countOpenFds()
  servers = []
  clients = []
  defects = []
  refused = []
  counts = []
})
afterEach(async () => {
  for (const client of clients) client.close()
  for (const server of servers) server.close()
  rmSync(directory, { recursive: true })
  await until(() => countOpenFds() <= openBefore, 'every descriptor closed')
  expect(countOpenFds()).toBe(openBefore)
})

describe('a call', () => {
  test('is answered with what its handler returns for its input', async () => {
    start()
    const client = await connect()
    const { parameters, fds } = await client.call('Abort', { id: '1', workload: 'é€😀\0"' })
    expect(parameters).toEqual({ update: 'é€😀\0"' })
    expect(fds).toEqual([])
    expect(defects).toEqual([])
  })

  test('knows who asks, from the kernel', async () => {
    let seen: Peer | undefined
    start({
      List: ({ peer }) => {
        seen = peer
        using pidfd = peer.pidfd()
        // Before Linux 6.5 the kernel has none to give.
        expect([undefined, { pid: ME.pid, uid: ME.uid }]).toContainEqual(pidfd && pidfdOwner(pidfd))
        return { output: { workloads: [] } }
      },
    })
    await (await connect()).call('List', {})
    expect(seen).toMatchObject(ME)
  })

  test.each(['ENOENT', 'EBUSY', 'LUO_REFUSED', 'LUO_PROTOCOL', 'LUO_INVALID_PARAMETER', 'LUO_STATE_VERSION'] as const)(
    'that is refused with %s is thrown as that, with its message, and the next one is answered',
    async (code) => {
      start({
        List: async () => {
          throw new LuoError(code, 'list "nothing"', { params: { parameter: 'a.b' } })
        },
      })
      const client = await connect()
      const error = await client.call('List', {}).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ name: 'LuoError', code, message: 'list "nothing"' })
      await expectWorking(client)
      expect([defects, refused]).toEqual([[], []])
    },
  )

  test.each([
    ['at once', () => Promise.reject(new TypeError('oops'))],
    [
      'later',
      async () => {
        await sleep(1)
        throw new TypeError('oops')
      },
    ],
    [
      'without a promise',
      () => {
        throw new TypeError('oops')
      },
    ],
  ])('whose handler has a defect is EIO without its details, and is reported (%s)', async (_when, List) => {
    start({ List })
    const client = await connect()
    const error = await client.call('List', {}).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'EIO', message: expect.not.stringContaining('oops') })
    expect(defects).toEqual([{ error: new TypeError('oops'), method: `${INTERFACE_NAME}.List` }])
    await expectWorking(client)
  })

  test('that does not fit the interface never reaches its handler', async () => {
    let called = 0
    start({
      Show: () => {
        called += 1
        throw new Error('never')
      },
    })
    const client = await connect()
    for (const input of [{}, { workload: 5 }, { workload: 'web', extra: 1 }, { workload: null }]) {
      expect(await rejectionOf(client.call('Show', input as unknown as { workload: string }))).toBe(
        'LUO_INVALID_PARAMETER',
      )
    }
    expect(called).toBe(0)
    await expectWorking(client)
  })

  test('whose answer is too long is an error, and the connection goes on', async () => {
    start({ Abort: ({ input }) => ({ output: { update: input.workload.repeat(MAX_MESSAGE_BYTES) } }) })
    const client = await connect()
    expect(await rejectionOf(client.call('Abort', { id: '1', workload: 'xx' }))).toBe('LUO_PROTOCOL')
    expect((await client.call('Abort', { id: '1', workload: '' })).parameters).toEqual({ update: '' })
  })
})

describe('a stream', () => {
  test('is all replies of the handler, and then its answer', async () => {
    start({
      Watch: async ({ reply, more }) => {
        for (const event of ['1', '2', '3']) {
          expect(reply({ event, detail: String(more) })).toBe(true)
          await sleep(1)
        }
        return { output: { event: 'last' } }
      },
    })
    const client = await connect()
    const events: unknown[] = []
    for await (const { parameters } of client.stream('Watch', {})) events.push(parameters)
    expect(events).toEqual([...['1', '2', '3'].map((event) => ({ event, detail: 'true' })), { event: 'last' }])
    await expectWorking(client)
  })

  test('of replies that came at once loses none', async () => {
    start({
      Watch: ({ reply }) => {
        for (let index = 0; index < 1000; index++) reply({ event: String(index) })
        return { output: { event: '1000' } }
      },
    })
    const events: string[] = []
    for await (const { parameters } of (await connect()).stream('Watch', {})) events.push(parameters.event)
    expect(events).toEqual(Array.from({ length: 1001 }, (_, index) => String(index)))
  })

  test('may end with an error, after the replies before it', async () => {
    start({
      Watch: ({ reply }) => {
        reply({ event: '1' })
        throw new LuoError('LUO_ABORTED', 'watch: enough')
      },
    })
    const events: string[] = []
    const follow = async () => {
      for await (const { parameters } of (await connect()).stream('Watch', {})) events.push(parameters.event)
    }
    expect(await rejectionOf(follow())).toBe('LUO_ABORTED')
    expect(events).toEqual(['1'])
  })

  test('carries files with each reply, in order', async () => {
    start({
      Supervise: ({ reply }) => {
        const fds = memfds(3)
        for (const fd of fds) reply({ event: 'start', fds: 1 }, [fd])
        closeAll(fds)
        return { output: { event: 'ended' } }
      },
    })
    const sizes: number[][] = []
    for await (const { fds } of (await connect()).stream('Supervise', { id: '1', workload: 'web' })) {
      sizes.push(fds.map(fileSize))
      closeAll(fds)
    }
    expect(sizes).toEqual([[1], [2], [3], []])
  })
})

describe('files', () => {
  test('travel with a call and are the same open files; the caller keeps theirs', async () => {
    const seen: string[] = []
    start({
      Preserve: ({ fds }) => {
        for (const fd of fds) {
          const bytes = Buffer.alloc(16)
          seen.push(bytes.toString('utf8', 0, readAt(fd, bytes, 0)))
          writeAt(fd, Buffer.from('SEEN'), 0)
        }
        return { output: {} }
      },
    })
    const [first, second] = [createMemfd('a'), createMemfd('b')]
    writeAt(first, Buffer.from('first'), 0)
    writeAt(second, Buffer.from('second'), 0)
    await (await connect()).call('Preserve', filesFor([first, second]), [first, second])
    expect(seen).toEqual(['first', 'second'])
    expect([first, second].map(fileSize)).toEqual([5, 6])
    const bytes = Buffer.alloc(5)
    readAt(first, bytes, 0)
    expect(bytes.toString()).toBe('SEENt')
    closeAll([first, second])
  })

  test('travel with an answer, which closes the ones of the handler', async () => {
    const made: Fd[] = []
    start({
      Inspect: () => {
        made.push(createMemfd('records', { size: 77 }))
        return { output: { fds: 1, records_fd: 0 }, fds: made }
      },
    })
    const { fds } = await (await connect()).call('Inspect', {})
    expect(fds.map(fileSize)).toEqual([77])
    expect(made.map(({ closed }) => closed)).toEqual([true])
    closeAll(fds)
  })

  test('may be 253 in one message, both ways, in order', async () => {
    start({
      // Taken out of the array they are the handler's, which gives them to the answer.
      Claim: ({ fds }) => ({
        output: { session: '1', files: [], total: 0, sessions: [], fds: fds.length },
        fds: fds.splice(0),
      }),
      Preserve: ({ fds }) => {
        expect(fds.map(fileSize)).toEqual(Array.from({ length: MAX_FDS }, (_, index) => index + 1))
        return { output: {} }
      },
      Retrieve: () => {
        const fds = memfds(MAX_FDS)
        return { output: { files: [], total: fds.length, fds: fds.length }, fds }
      },
    })
    const client = await connect()
    const sent = memfds(MAX_FDS)
    await client.call('Preserve', filesFor(sent), sent)
    closeAll(sent)
    const { fds } = await client.call('Retrieve', { session: '1', tokens: [] })
    expect(fds.map(fileSize)).toEqual(Array.from({ length: MAX_FDS }, (_, index) => index + 1))
    closeAll(fds)
  })

  test('that a handler takes out of the array are its own; the others are closed', async () => {
    const taken: Fd[] = []
    const left: Fd[] = []
    start({
      Preserve: ({ fds }) => {
        taken.push(...fds.splice(1, 1))
        left.push(...fds)
        return { output: {} }
      },
    })
    const fds = memfds(3)
    await (await connect()).call('Preserve', filesFor(fds), fds)
    expect(left.map(({ closed }) => closed)).toEqual([true, true])
    expect(taken.map(fileSize)).toEqual([2])
    expect(sameOpenFile(taken[0] as Fd, fds[1] as Fd)).toBe(true)
    closeAll([...taken, ...fds])
  })

  test.each<[string, string, object, Partial<Handlers>]>([
    ['a parameter is wrong', 'Preserve', { session: 5 }, {}],
    ['the method takes no files', 'List', {}, {}],
    ['the method is not known', 'Nothing', {}, {}],
    ['the handler refuses', 'Preserve', { id: '1', session: '1', files: [] }, {}],
    [
      'the handler has a defect',
      'Preserve',
      { id: '1', session: '1', files: [] },
      {
        Preserve: () => {
          throw new TypeError('oops')
        },
      },
    ],
  ])('of a request that is refused are closed: %s', async (_why, method, parameters, some) => {
    start(some)
    const raw = new RawPeer()
    const fds = memfds(5)
    const open = countOpenFds()
    await raw.request(`${INTERFACE_NAME}.${method}`, { ...parameters, fds: 5 }, fds)
    expect(await raw.next()).toHaveProperty('error')
    closeAll(fds)
    // Both ends in this process, and what the server holds for this connection.
    expect(countOpenFds()).toBeLessThanOrEqual(open - 5 + 2)
    await expectWorking()
  })
})

describe('requests of one connection', () => {
  test('are answered in their order, one after the other, however long each takes', async () => {
    let running = 0
    const order: string[] = []
    start({
      Abort: async ({ input }) => {
        expect(++running).toBe(1)
        await sleep(Number(input.workload) % 3)
        running -= 1
        order.push(input.workload)
        return { output: { update: input.workload } }
      },
    })
    const client = await connect()
    const names = Array.from({ length: 100 }, (_, index) => String(index))
    const arrived: string[] = []
    const answers = await Promise.all(
      names.map(async (workload) => {
        const { parameters } = await client.call('Abort', { id: '1', workload })
        arrived.push(parameters.update)
        return parameters.update
      }),
    )
    expect(answers).toEqual(names)
    expect(order).toEqual(names)
    expect(arrived).toEqual(names)
  })

  test('wait in the client when too many of them wait here, and none is lost', async () => {
    let release = () => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    let begun = 0
    start({
      Abort: async ({ input }) => {
        begun += 1
        await gate
        return { output: { update: input.workload } }
      },
    })
    const client = await connect()
    const text = 'x'.repeat(10_000)
    const calls = Array.from({ length: 200 }, (_, index) =>
      client.call('Abort', { id: '1', workload: `${index} ${text}` }),
    )
    await until(() => begun === 1, 'the first')
    release()
    const answers = await Promise.all(calls)
    expect(answers.map(({ parameters }) => parameters.update)).toEqual(answers.map((_, index) => `${index} ${text}`))
    expect(begun).toBe(200)
  })

  test('hold nobody else up', async () => {
    let release = () => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    start({
      List: async () => {
        await gate
        return { output: { workloads: [] } }
      },
    })
    const waiting = (await connect()).call('List', {})
    await expectWorking()
    release()
    expect((await waiting).parameters).toEqual({ workloads: [] })
  })

  test('an error of one is no error of the next', async () => {
    start()
    const client = await connect()
    const codes = await Promise.all([
      rejectionOf(client.call('List', {})),
      rejectionOf(client.call('Abort', { id: '1', workload: 'a' })),
      rejectionOf(client.call('Show', { workload: 5 as unknown as string })),
      rejectionOf(client.call('Abort', { id: '1', workload: 'b' })),
    ])
    expect(codes).toEqual(['LUO_UNSUPPORTED', undefined, 'LUO_INVALID_PARAMETER', undefined])
  })

  test('that want no answer get none', async () => {
    const seen: string[] = []
    start({
      Abort: ({ input, more }) => {
        seen.push(`${input.workload} ${more}`)
        return { output: { update: input.workload } }
      },
    })
    const raw = new RawPeer()
    const method = `${INTERFACE_NAME}.Abort`
    await raw.request(method, { id: '1', workload: 'a' }, [], { oneway: true })
    await raw.request(`${INTERFACE_NAME}.List`, {}, [], { oneway: true })
    await raw.request(method, { id: '1', workload: 'b' }, [], { more: true })
    expect(await raw.next()).toEqual({ parameters: { update: 'b' } })
    expect(seen).toEqual(['a false', 'b true'])
  })
})

describe('the interface of the standard', () => {
  const service = 'org.varlink.service'

  test('says who answers', async () => {
    start()
    const raw = new RawPeer()
    await raw.request(`${service}.GetInfo`)
    expect(await raw.next()).toEqual({
      parameters: {
        vendor: 'liveupdate',
        product: 'luod',
        version: '1.2.3',
        url: '',
        interfaces: [service, INTERFACE_NAME],
      },
    })
  })

  test('describes both interfaces, in texts that can be parsed', async () => {
    start()
    const raw = new RawPeer()
    for (const name of [service, INTERFACE_NAME]) {
      await raw.request(`${service}.GetInterfaceDescription`, { interface: name })
      const { parameters } = (await raw.next()) as { parameters: { description: string } }
      expect(parseInterface(parameters.description).name).toBe(name)
      if (name === INTERFACE_NAME) expect(parameters.description).toBe(INTERFACE_TEXT)
    }
  })

  test.each([
    [`${INTERFACE_NAME}.Nothing`, {}, 'MethodNotFound', { method: `${INTERFACE_NAME}.Nothing` }],
    [`${INTERFACE_NAME}.constructor`, {}, 'MethodNotFound', { method: `${INTERFACE_NAME}.constructor` }],
    [`${INTERFACE_NAME}.`, {}, 'MethodNotFound', { method: `${INTERFACE_NAME}.` }],
    [`${service}.Nothing`, {}, 'MethodNotFound', { method: `${service}.Nothing` }],
    ['org.example.Get', {}, 'InterfaceNotFound', { interface: 'org.example' }],
    [`${INTERFACE_NAME}.List.More`, {}, 'InterfaceNotFound', { interface: `${INTERFACE_NAME}.List` }],
    ['List', {}, 'InterfaceNotFound', { interface: '' }],
    ['', {}, 'InterfaceNotFound', { interface: '' }],
    [`${service}.GetInterfaceDescription`, { interface: 'a.b' }, 'InterfaceNotFound', { interface: 'a.b' }],
  ])('answers to "%s" %j with %s', async (method, parameters, error, expected) => {
    start()
    const raw = new RawPeer()
    await raw.request(method, parameters)
    expect(await raw.next()).toEqual({ error: `${service}.${error}`, parameters: expected })
    await raw.request(`${service}.GetInfo`)
    expect(await raw.next()).toHaveProperty('parameters.product', 'luod')
  })

  test('is no secret of a client: an unknown method is LUO_UNSUPPORTED there', async () => {
    start()
    const client = await connect()
    expect(await rejectionOf(client.call('Nothing' as 'List', {}))).toBe('LUO_UNSUPPORTED')
    await expectWorking(client)
  })
})

describe('a peer that breaks the rules', () => {
  /** It is told why, its connection ends, it is reported, and nobody else notices. */
  async function expectRefused(raw: RawPeer, other: VarlinkClient): Promise<void> {
    const last = (await raw.rest()).at(-1)
    expect(last).toEqual({
      error: `${INTERFACE_NAME}.Failed`,
      parameters: { code: 'LUO_PROTOCOL', message: expect.any(String) },
    })
    expect(refused).toEqual([{ code: 'LUO_PROTOCOL', peer: ME }])
    await expectWorking(other)
    expect(defects).toEqual([])
  }

  test.each([
    ['text', 'hello'],
    ['nothing', ''],
    ['half a message', '{"method":'],
    ['an array', '[]'],
    ['no method', '{}'],
    ['a method that is a number', '{"method":5}'],
    ['parameters that are an array', '{"method":"a.B","parameters":[]}'],
    [
      'parameters that are nested without end',
      `{"method":"a.B","parameters":{"a":${'['.repeat(4e5)}${']'.repeat(4e5)}}}`,
    ],
    ['files that are nested without end', `{"method":"a.B","parameters":{"fds":${'['.repeat(4e5)}${']'.repeat(4e5)}}}`],
    ['less than no files', '{"method":"a.B","parameters":{"fds":-1}}'],
    ['more files than go', '{"method":"a.B","parameters":{"fds":254}}'],
    ['half a file', '{"method":"a.B","parameters":{"fds":0.5}}'],
  ])('by sending %s is refused', async (_what, text) => {
    start()
    const other = await connect()
    const raw = new RawPeer()
    await raw.write(Buffer.from(`${text}\0`))
    await expectRefused(raw, other)
  })

  test('by sending a message that is too long is refused before its end', async () => {
    start()
    const other = await connect()
    const raw = new RawPeer()
    await raw.write(Buffer.alloc(MAX_MESSAGE_BYTES + 1, 32))
    await expectRefused(raw, other)
  })

  test('by sending without end is refused', async () => {
    start()
    const other = await connect()
    const raw = new RawPeer()
    await raw.write(Buffer.alloc(20 * MAX_MESSAGE_BYTES, 32))
    await expectRefused(raw, other)
  })

  test('by sending more files than it declares is refused, and they are closed', async () => {
    start({ Preserve: () => ({ output: {} }) })
    const other = await connect()
    const raw = new RawPeer()
    const fds = memfds(3)
    await raw.request(`${INTERFACE_NAME}.Preserve`, { ...filesFor(fds), fds: 2 }, fds)
    closeAll(fds)
    await expectRefused(raw, other)
  })

  test('by sending files that it does not declare at all is refused', async () => {
    start()
    const other = await connect()
    const raw = new RawPeer()
    const fds = memfds(1)
    await raw.request(`${INTERFACE_NAME}.List`, {}, fds)
    closeAll(fds)
    await expectRefused(raw, other)
  })

  test('by sending fewer files than it declares is refused, and they are closed', async () => {
    let called = 0
    start({
      Preserve: () => {
        called += 1
        return { output: {} }
      },
    })
    const other = await connect()
    const raw = new RawPeer()
    const fds = memfds(2)
    await raw.request(`${INTERFACE_NAME}.Preserve`, { ...filesFor(fds), fds: 3 }, fds)
    closeAll(fds)
    await expectRefused(raw, other)
    expect(called).toBe(0)
  })

  test('by sending files again and again with a message that never ends is refused', async () => {
    start()
    const other = await connect()
    const raw = new RawPeer()
    const fds = memfds(128)
    await raw.write(Buffer.from('{'), fds)
    await raw.write(Buffer.from(' '), fds)
    closeAll(fds)
    await expectRefused(raw, other)
  })

  test('and sends good requests before has them answered, and none after', async () => {
    const seen: string[] = []
    start({
      Abort: ({ input }) => {
        seen.push(input.workload)
        return { output: { update: input.workload } }
      },
    })
    const raw = new RawPeer()
    const good = (workload: string) =>
      encodeMessage({ method: `${INTERFACE_NAME}.Abort`, parameters: { id: '1', workload } })
    await raw.write(good('a'))
    expect(await raw.next()).toEqual({ parameters: { update: 'a' } })
    await raw.write(Buffer.concat([Buffer.from('nonsense\0'), good('b')]))
    await raw.rest()
    expect(seen).toEqual(['a'])
    expect(refused.map(({ code }) => code)).toEqual(['LUO_PROTOCOL'])
  })

  test('by a parameter whose name fills the message is not left waiting for an answer that cannot be sent', async () => {
    start()
    const raw = new RawPeer()
    await raw.request(`${INTERFACE_NAME}.List`, { ['x'.repeat(MAX_MESSAGE_BYTES * 0.6)]: 1 })
    // The end, and no answer to a later request that would be taken for the one to this.
    expect(await raw.rest()).toEqual([])
    expect(raw.ended).toBe('end')
    await expectWorking()
  })

  test('by a method whose name fills the message gets an answer', async () => {
    start()
    const raw = new RawPeer()
    const method = `${INTERFACE_NAME}.`.padEnd(MAX_MESSAGE_BYTES - '{"method":""}\0'.length, 'x')
    await raw.request(method)
    expect(await raw.next()).toHaveProperty('error')
    await expectWorking()
  })
})

describe('a message', () => {
  test('may come in single bytes, its files with the first', async () => {
    start({ Preserve: ({ fds }) => ({ output: {}, fds: fds.filter((fd) => fileSize(fd) === 0) }) })
    const raw = new RawPeer()
    const fds = memfds(2)
    const bytes = encodeMessage({ method: `${INTERFACE_NAME}.Preserve`, parameters: filesFor(fds) })
    for (let at = 0; at < bytes.length; at++) {
      await raw.write(bytes.subarray(at, at + 1), at === 0 ? fds : [])
      if (at % 10 === 0) await sleep(0)
    }
    closeAll(fds)
    expect(await raw.next()).toEqual({ parameters: {} })
  })

  test('may have its files with any of its bytes, also with several', async () => {
    const sizes: number[][] = []
    start({
      Preserve: ({ fds }) => {
        sizes.push(fds.map(fileSize))
        return { output: {} }
      },
    })
    const raw = new RawPeer()
    const fds = memfds(3)
    const bytes = encodeMessage({ method: `${INTERFACE_NAME}.Preserve`, parameters: filesFor(fds) })
    await raw.write(bytes.subarray(0, 10))
    await sleep(2)
    await raw.write(bytes.subarray(10, 20), fds.slice(0, 1))
    await raw.write(bytes.subarray(20), fds.slice(1))
    expect(await raw.next()).toEqual({ parameters: {} })
    expect(sizes).toEqual([[1, 2, 3]])
    closeAll(fds)
  })

  test('may come with others in one write, with the files of all', async () => {
    const sizes: number[][] = []
    start({
      Preserve: ({ fds }) => {
        sizes.push(fds.map(fileSize))
        return { output: {} }
      },
    })
    const raw = new RawPeer()
    const fds = memfds(3)
    const preserve = (count: number) =>
      encodeMessage({ method: `${INTERFACE_NAME}.Preserve`, parameters: filesFor(fds.slice(0, count)) })
    await raw.write(Buffer.concat([preserve(1), preserve(0), preserve(2)]), fds)
    expect([await raw.next(), await raw.next(), await raw.next()]).toEqual(Array(3).fill({ parameters: {} }))
    expect(sizes).toEqual([[1], [], [2, 3]])
    closeAll(fds)
  })

  test('may be as long as a message is, both ways', async () => {
    start()
    const client = await connect()
    const workload = 'x'.repeat(MAX_MESSAGE_BYTES - 200)
    expect((await client.call('Abort', { id: '1', workload })).parameters.update).toBe(workload)
  })
})

describe('a peer that never reads', () => {
  const detail = 'x'.repeat(60_000)

  test('gets LUO_SLOW_PEER when its queue is full, its stream ends, and nothing else is hurt', async () => {
    let replies = 0
    let disconnected = 0
    start({
      Watch: async ({ reply, peer }) => {
        peer.onDisconnect(() => {
          disconnected += 1
        })
        while (reply({ event: 'e', detail })) {
          replies += 1
          if (replies > 10_000) throw new Error('nobody stopped it')
          if (replies % 10 === 0) await sleep(0)
        }
        expect(reply({ event: 'e' })).toBe(false)
        return { output: { event: 'last' } }
      },
    })
    const other = await connect()
    const raw = new RawPeer()
    await raw.request(`${INTERFACE_NAME}.Watch`, {}, [], { more: true })
    await until(() => refused.length > 0, 'the end of the slow one')
    expect(refused).toEqual([{ code: 'LUO_SLOW_PEER', peer: ME }])
    expect(disconnected).toBe(1)
    // What it may have is bounded: the queue, and what the kernel keeps for it.
    expect(replies * detail.length).toBeLessThan(8 * 1024 * 1024)
    await expectWorking(other)
    await expectWorking()
    expect(defects).toEqual([])
  })

  test('and asks and asks is not served without end either', async () => {
    const server = start()
    const other = await connect()
    const raw = new RawPeer()
    const request = encodeMessage({
      method: 'org.varlink.service.GetInterfaceDescription',
      parameters: { interface: INTERFACE_NAME },
    })
    const many = Buffer.concat(Array(5000).fill(request))
    await raw.write(many)
    await until(() => refused.length > 0, 'the end of the slow one')
    expect(refused).toEqual([{ code: 'LUO_SLOW_PEER', peer: ME }])
    await expectWorking(other)
    expect(server.connections).toBe(1)
  })

  test.each([
    ['requests behind a stream', 10, `{"method":"${INTERFACE_NAME}.Abort","parameters":{"id":"${detail}"}}\0`],
    ['a message that does not end', 1, ' '.repeat(600_000)],
  ])(
    'and sends %s, ends when it is more than its user may have, and holds up nobody for long',
    async (_, times, text) => {
      start({ Watch: () => new Promise(() => {}) }, 100, { files: 1_000, bytes: 400_000 })
      const other = await connect()
      const raw = new RawPeer()
      await raw.request(`${INTERFACE_NAME}.Watch`, {}, [], { more: true })
      for (let count = 0; count < times && refused.length === 0; count++) await raw.write(Buffer.from(text))
      await until(() => refused.length > 0, 'the end of the greedy one')
      expect(refused).toEqual([{ code: 'LUO_LIMIT', peer: ME }])
      await expectWorking(other)
      expect(defects).toEqual([])
    },
  )

  test('leaks no file that was on its way to it', async () => {
    start({
      Supervise: async ({ reply }) => {
        using ticket = createMemfd('ticket')
        while (reply({ event: 'start', reason: detail, fds: 2 }, [ticket, ticket])) await sleep(0)
        return { output: { event: 'ended' } }
      },
    })
    const raw = new RawPeer()
    await raw.request(`${INTERFACE_NAME}.Supervise`, { id: '1', workload: 'web' }, [], { more: true })
    await until(() => refused.length > 0, 'the end of the slow one')
    expect(refused[0]?.code).toBe('LUO_SLOW_PEER')
  })

  test('but only for a while gets everything, in order', async () => {
    start({
      Watch: ({ reply }) => {
        for (let index = 0; index < 50; index++) reply({ event: String(index), detail })
        return { output: { event: 'last' } }
      },
    })
    const raw = new RawPeer()
    await raw.request(`${INTERFACE_NAME}.Watch`, {}, [], { more: true })
    await sleep(20)
    for (let index = 0; index < 50; index++) {
      expect(await raw.next()).toMatchObject({ parameters: { event: String(index) }, continues: true })
    }
    expect(await raw.next()).toEqual({ parameters: { event: 'last' } })
  })
})

describe('a peer that disconnects', () => {
  test('while its handler runs: the handler is told, its answer goes nowhere, and nothing leaks', async () => {
    let release = () => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    const heard: string[] = []
    const received: Fd[] = []
    let finished = false
    const server = start({
      Preserve: async ({ fds, peer, reply }) => {
        received.push(...fds)
        peer.onDisconnect(() => heard.push('first'))
        peer.onDisconnect(() => heard.push('second'))
        await gate
        peer.onDisconnect(() => heard.push('late'))
        expect(reply({})).toBe(false)
        expect(peer.pidfd()).toBeUndefined()
        finished = true
        return { output: {}, fds: memfds(2) }
      },
    })
    const raw = new RawPeer()
    const fds = memfds(3)
    // The second one waits, with its files, for the first.
    for (let count = 0; count < 2; count++) await raw.request(`${INTERFACE_NAME}.Preserve`, filesFor(fds), fds)
    closeAll(fds)
    await until(() => received.length === 3, 'the handler')
    raw.close()
    await until(() => server.connections === 0, 'the end of the connection')
    expect(heard).toEqual(['first', 'second'])
    // What a handler does not take before it waits is not kept for it.
    expect(received.map(({ closed }) => closed)).toEqual([true, true, true])
    release()
    await until(() => finished, 'the handler')
    await sleep(0)
    expect(heard).toEqual(['first', 'second', 'late'])
    expect(received.map(({ closed }) => closed)).toEqual([true, true, true])
    await expectWorking()
    // It is nobody's fault.
    expect([refused, defects]).toEqual([[], []])
  })

  test('in the middle of a message, with files, leaks nothing', async () => {
    const server = start()
    const raw = new RawPeer()
    const fds = memfds(3)
    await raw.write(Buffer.from('{"method":'), fds)
    closeAll(fds)
    await until(() => server.connections === 1, 'the connection')
    raw.close()
    await until(() => server.connections === 0, 'the end of the connection')
    expect(refused).toEqual([])
  })

  test('without reading its answers is no breach of any rule', async () => {
    const server = start()
    const raw = new RawPeer()
    await raw.request('org.varlink.service.GetInfo')
    await until(() => server.connections === 1, 'the connection')
    await sleep(5)
    raw.close()
    await until(() => server.connections === 0, 'the end of the connection')
    expect(refused).toEqual([])
  })

  test('with many requests unread ends, also while it is not read from', async () => {
    let release = () => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    let begun = 0
    const server = start({
      Abort: async () => {
        begun += 1
        await gate
        return { output: { update: '' } }
      },
    })
    const raw = new RawPeer()
    const workload = 'x'.repeat(2000)
    for (let count = 0; count < 40; count++) {
      await raw.request(`${INTERFACE_NAME}.Abort`, { id: '1', workload })
      if (count === 35) await sleep(5)
    }
    await until(() => begun === 1, 'the handler')
    raw.close()
    await until(() => server.connections === 0, 'the end of the connection')
    release()
    await sleep(0)
    expect(begun).toBe(1)
  })

  test('because a handler wants it to gets LUO_GONE', async () => {
    const server = start({
      List: ({ peer }) => {
        peer.disconnect()
        return { output: { workloads: [] } }
      },
    })
    const client = await connect()
    expect(await rejectionOf(client.call('List', {}))).toBe('LUO_GONE')
    expect(server.connections).toBe(0)
  })
})

describe('the connections', () => {
  test('are counted as they come and go', async () => {
    const server = start()
    const [first] = [await connect(), await connect()]
    await until(() => server.connections === 2, 'both')
    first?.close()
    await until(() => server.connections === 1, 'one')
    expect(counts).toEqual([1, 2, 1])
  })

  test('of one user are limited: LUO_LIMIT for one more, until another one ends', async () => {
    const server = start({}, 3)
    const kept = [await connect(), await connect(), await connect()]
    for (const client of kept) await expectWorking(client)
    const more = await connect()
    expect(await rejectionOf(more.call('Abort', { id: '1', workload: 'web' }))).toBe('LUO_LIMIT')
    const raw = new RawPeer()
    expect(await raw.rest()).toEqual([
      { error: `${INTERFACE_NAME}.Failed`, parameters: { code: 'LUO_LIMIT', message: expect.any(String) } },
    ])
    expect(refused).toEqual(Array(2).fill({ code: 'LUO_LIMIT', peer: ME }))
    for (const client of kept) await expectWorking(client)
    kept[0]?.close()
    await until(() => server.connections === 2, 'one less')
    await expectWorking()
  })

  test('end with the server: LUO_GONE for whoever waits, and nobody listens any more', async () => {
    const server = start({ List: () => new Promise(() => {}) })
    const client = await connect()
    const waiting = rejectionOf(client.call('List', {}))
    await until(() => server.connections === 1, 'the connection')
    await sleep(2)
    server.close()
    servers = []
    expect(await waiting).toBe('LUO_GONE')
    expect((await client.closed).code).toBe('LUO_GONE')
    expect(await rejectionOf(VarlinkClient.connect(path))).toBe('ECONNREFUSED')
  })

  test('may be two hundred at once', async () => {
    const server = start({}, 1000)
    const all = await Promise.all(Array.from({ length: 200 }, () => connect()))
    const answers = await Promise.all(
      all.map((client, index) => client.call('Abort', { id: '1', workload: `${index}` })),
    )
    expect(answers.map(({ parameters }) => parameters.update)).toEqual(all.map((_, index) => String(index)))
    expect(server.connections).toBe(200)
  })
})

describe('when the server may open no more files', () => {
  test.each(['ENFILE', 'ENOMEM'] as const)('whoever cannot even be refused waits: %s', async (code) => {
    start()
    const there = await connect()
    await expectWorking(there)
    let failing = true
    interfere((call) => (failing && call === 'accept4' ? code : undefined))
    try {
      const late = connect().then(expectWorking)
      await until(() => defects.length > 1, 'it is tried again')
      await expectWorking(there)
      failing = false
      await late
      const tries = defects.splice(0)
      expect(tries.every(({ error, method }) => method === 'accept' && isLuoError(error, code))).toBe(true)
      await expectWorking()
    } finally {
      interfere(undefined)
    }
  })

  test('whoever waits is refused, those that are there are served, and afterwards everybody is again', async () => {
    const server = start()
    const there = await connect()
    await expectWorking(there)
    await withRoomFor(3, async () => {
      // Takes all there is; the server has not seen them when the last one has come.
      const waiting = [new RawPeer(), new RawPeer(), new RawPeer()]
      await until(() => refused.length === 3, 'all are refused')
      expect(refused).toEqual(Array(3).fill({ code: 'EMFILE', peer: ME }))
      for (const raw of waiting) expect([await raw.rest(), raw.ended]).toEqual([[], 'end'])
      await expectWorking(there)
      expect(server.connections).toBe(1)
    })
    await expectWorking()
    expect(defects).toEqual([])
  })

  test('the last number goes to a client, who is served without the rest', async () => {
    start()
    await withRoomFor(2, async () => {
      const raw = new RawPeer()
      await raw.request('org.varlink.service.GetInfo')
      expect(await raw.next()).toHaveProperty('parameters.product', 'luod')
    })
    expect([refused, defects]).toEqual([[], []])
  })

  test.each([0, 2])('files that cannot be taken end their connection (room for %i of 5)', async (room) => {
    let called = 0
    start({
      Preserve: () => {
        called += 1
        return { output: {} }
      },
    })
    const there = await connect()
    await expectWorking(there)
    const fds = memfds(5)
    await withRoomFor(room, async () => {
      expect(await rejectionOf(there.call('Preserve', filesFor(fds), fds))).toBe('LUO_PROTOCOL')
    })
    closeAll(fds)
    expect(refused).toEqual([{ code: 'LUO_PROTOCOL', peer: ME }])
    expect(called).toBe(0)
    await expectWorking()
  })
})
