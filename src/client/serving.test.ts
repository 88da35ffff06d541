import { once } from 'node:events'
import { createServer, type Server as HttpServer, type RequestListener } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { type AddressInfo, connect, createServer as createNetServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, connect as tlsConnect } from 'node:tls'
import { afterEach, expect, test } from 'vitest'
import { until } from '../../test/until.js'
import { isLuoError } from '../errors.js'
import { Serving } from './serving.js'
import type { ServeOptions } from './types.js'

const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

const never = () => new AbortController().signal
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function listening(server: Server, options: ServeOptions = {}): Promise<{ serving: Serving; port: number }> {
  const serving = new Serving('test', server, options)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  serving.began()
  closing.push(() => {
    server.close()
    if ('closeAllConnections' in server) (server as HttpServer).closeAllConnections()
  })
  return { serving, port: (server.address() as AddressInfo).port }
}

/** What the new version does at its commit. */
async function takeOver(old: Serving, server: Server, options: ServeOptions = {}): Promise<Serving> {
  const serving = new Serving('test', server, options)
  closing.push(() => {
    server.close()
    if ('closeAllConnections' in server) (server as HttpServer).closeAllConnections()
  })
  serving.adopt(old.still())
  await serving.listen(old.listener.dup())
  serving.serveAdopted()
  return serving
}

class Client {
  readonly socket: Socket
  received = ''
  ended = false

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1')
    this.socket.on('data', (data) => {
      this.received += data
    })
    this.socket.on('end', () => {
      this.ended = true
    })
    this.socket.on('error', () => {
      this.ended = true
    })
    closing.push(() => this.socket.destroy())
  }

  send(text: string): void {
    this.socket.write(text)
  }

  async sees(text: string): Promise<void> {
    await until(() => this.received.includes(text), `${text} in what was received: ${this.received}`)
  }
}

/** Resolves when the server has read something. */
async function firstBytes(server: Server): Promise<void> {
  const [socket] = (await once(server, 'connection')) as [Socket]
  await until(() => socket.bytesRead > 0, 'bytes of a request')
}

const GET = (path = '/') => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`
const says =
  (text: string): RequestListener =>
  (request, response) => {
    request.resume()
    response.end(`${text} ${request.url}`)
  }

test('an idle connection moves: the client asks on, and another version answers', async () => {
  const { serving, port } = await listening(createServer(says('old')))
  const client = new Client(port)
  client.send(GET('/1'))
  await client.sees('old /1')
  await serving.quiesce(1_000, never())
  await takeOver(serving, createServer(says('new')))
  void serving.release(1_000)
  client.send(GET('/2'))
  await client.sees('new /2')
  expect(client.ended).toBe(false)
})

test('a connection that has not asked yet moves too', async () => {
  const server = createServer(says('old'))
  const accepted = once(server, 'connection')
  const { serving, port } = await listening(server)
  new Client(port)
  await accepted
  await serving.quiesce(1_000, never())
  expect(serving.still()).toHaveLength(1)
})

test('a request under way is answered first, then its connection moves', async () => {
  let answer: (() => void) | undefined
  const { serving, port } = await listening(
    createServer((request, response) => {
      answer = () => response.end(`old ${request.url}`)
    }),
  )
  const client = new Client(port)
  client.send(GET('/slow'))
  await until(() => answer !== undefined, 'the request')
  const quiet = serving.quiesce(5_000, never())
  await sleep(30)
  expect(serving.still()).toHaveLength(0)
  answer?.()
  await quiet
  await client.sees('old /slow')
  await takeOver(serving, createServer(says('new')))
  client.send(GET('/2'))
  await client.sees('new /2')
})

test('pipelined requests are all answered by one version or the other, in order', async () => {
  const asked: string[] = []
  const { serving, port } = await listening(
    createServer((request, response) => {
      asked.push(String(request.url))
      setTimeout(() => response.end(`old ${request.url};`), 20)
    }),
  )
  const client = new Client(port)
  client.send(GET('/1') + GET('/2') + GET('/3'))
  await until(() => asked.length > 0, 'the first request')
  await serving.quiesce(5_000, never())
  await takeOver(
    serving,
    createServer((request, response) => response.end(`new ${request.url};`)),
  )
  client.send(GET('/4'))
  await client.sees('/4;')
  expect(client.received.match(/(old|new) \/\d/g)).toEqual(['old /1', 'old /2', 'old /3', 'new /4'])
})

test('what arrives while nobody serves is read by the new version', async () => {
  const { serving, port } = await listening(createServer(says('old')))
  const client = new Client(port)
  client.send(GET('/1'))
  await client.sees('old /1')
  await serving.quiesce(1_000, never())
  client.send(GET('/2'))
  await sleep(30)
  expect(client.received).not.toContain('/2')
  await takeOver(serving, createServer(says('new')))
  await client.sees('new /2')
})

test('a version that adopts connections and must drop them again has read nothing from them', async () => {
  const { serving, port } = await listening(createServer(says('old')))
  const client = new Client(port)
  client.send(GET('/1'))
  await client.sees('old /1')
  await serving.quiesce(1_000, never())
  const failing = new Serving('test', createServer(says('failing')), {})
  failing.adopt(serving.still())
  client.send(GET('/2'))
  await sleep(50)
  failing.dropAdopted()
  await sleep(20)
  await serving.resume()
  await client.sees('old /2')
  expect(client.ended).toBe(false)
})

test('connections that come while nobody serves wait for the new version', async () => {
  const { serving, port } = await listening(createServer(says('old')))
  await serving.quiesce(1_000, never())
  const client = new Client(port)
  client.send(GET('/1'))
  await sleep(30)
  await takeOver(serving, createServer(says('new')))
  await client.sees('new /1')
})

test('after a rollback the old version goes on, on old and new connections', async () => {
  const { serving, port } = await listening(createServer(says('old')))
  const client = new Client(port)
  client.send(GET('/1'))
  await client.sees('old /1')
  for (let round = 0; round < 3; round++) {
    await serving.quiesce(1_000, never())
    client.send(GET(`/held${round}`))
    await sleep(10)
    await serving.resume()
    await client.sees(`old /held${round}`)
  }
  const another = new Client(port)
  another.send(GET('/2'))
  await another.sees('old /2')
})

test('a request received in part is forwarded to the new version', async () => {
  const server = createServer(says('old'))
  const part = firstBytes(server)
  const { serving, port } = await listening(server)
  const client = new Client(port)
  client.send('POST /late HTTP/1.1\r\nHost: te')
  await part
  await serving.quiesce(100, never())
  expect(serving.still()).toHaveLength(0)
  await takeOver(
    serving,
    createServer((request, response) => {
      let body = ''
      request.on('data', (data) => {
        body += data
      })
      request.on('end', () => response.end(`new ${request.url} ${body}`))
    }),
  )
  const released = serving.release(5_000)
  client.send('st\r\nContent-Length: 5\r\n\r\nhello')
  await client.sees('new /late hello')
  // Told to come again on a new connection, which is the new version's.
  expect(client.received.toLowerCase()).toContain('connection: close')
  await released
})

test('a request received in part before and whole after a freeze is served here when the update is rolled back', async () => {
  const server = createServer(says('old'))
  const part = firstBytes(server)
  const { serving, port } = await listening(server)
  const client = new Client(port)
  client.send('GET /late HTTP/1.1\r\nHost: te')
  await part
  await serving.quiesce(50, never())
  client.send('st\r\n\r\n')
  await sleep(30)
  expect(client.received).toBe('')
  await serving.resume()
  await client.sees('old /late')
})

test('a request that may change state and is not answered in time refuses the update', async () => {
  const server = createServer(() => {})
  const asked = once(server, 'request')
  const { serving, port } = await listening(server)
  const client = new Client(port)
  client.send('PUT /account HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n')
  await asked
  const refused = await serving.quiesce(50, never()).catch((error: unknown) => error)
  expect(isLuoError(refused, 'LUO_REFUSED')).toBe(true)
  expect((refused as Error).message).toContain('PUT /account')
})

test('after a refusal a connection whose answer came too late for the update is served on', async () => {
  let answer: (() => void) | undefined
  const { serving, port } = await listening(
    createServer((request, response) => {
      request.resume()
      if (request.method === 'PUT') answer = () => response.end('put')
      else response.end(`old ${request.url}`)
    }),
  )
  const client = new Client(port)
  client.send('PUT /account HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n')
  await until(() => answer !== undefined, 'the request')
  expect(isLuoError(await serving.quiesce(30, never()).catch((error: unknown) => error), 'LUO_REFUSED')).toBe(true)
  answer?.()
  await client.sees('put')
  await serving.resume()
  client.send(GET('/2'))
  await client.sees('old /2')
})

test('a long answer that ends between the freeze and the release keeps its connection alive', async () => {
  let finish = () => {}
  const { serving, port } = await listening(
    createServer((_, response) => {
      response.write('begun ')
      finish = () => response.end('ended by old')
    }),
  )
  const client = new Client(port)
  client.send(GET('/events'))
  await client.sees('begun')
  await serving.quiesce(50, never())
  finish()
  await client.sees('ended by old')
  await takeOver(serving, createServer(says('new')))
  const released = serving.release(3_000)
  client.send(GET('/next'))
  await client.sees('new /next')
  client.socket.destroy()
  await released
})

test('a long answer to a safe request stays, and ends where it began', async () => {
  let finish = () => {}
  const { serving, port } = await listening(
    createServer((_, response) => {
      response.write('begun ')
      finish = () => response.end('ended by old')
    }),
  )
  const client = new Client(port)
  client.send(GET('/events'))
  await client.sees('begun')
  await serving.quiesce(50, never())
  expect(serving.still()).toHaveLength(0)
  await takeOver(serving, createServer(says('new')))
  const released = serving.release(5_000)
  await sleep(20)
  finish()
  await client.sees('ended by old')
  // The next request on this connection is the new version's already.
  client.send(GET('/next'))
  await client.sees('new /next')
  client.socket.destroy()
  await released
})

test.each([
  ['a long answer to a safe request', GET('/events')],
  ['a safe request that is not answered for long', GET('/silent')],
  ['a part of a request', 'POST /late HTTP/1.1\r\nHost: te'],
])('%s keeps nobody waiting', async (_, sent) => {
  const server = createServer((request, response) => {
    if (request.url === '/events') response.write('begun ')
  })
  const part = firstBytes(server)
  const { serving, port } = await listening(server, { longMs: 1 })
  const client = new Client(port)
  client.send(sent)
  await part
  // Longer than a test may take.
  await serving.quiesce(3_600_000, never())
  expect(serving.still()).toHaveLength(0)
})

test.each([
  ['a request that may change state', 'PUT /1 HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n', undefined],
  ['in a kexec, where nothing drains, every request', GET('/1'), Number.POSITIVE_INFINITY],
])('%s is waited for, however long it is', async (_, sent, longMs) => {
  let answer: (() => void) | undefined
  const { serving, port } = await listening(
    createServer((request, response) => {
      request.resume()
      answer = () => response.end('answered')
    }),
    { longMs: 1 },
  )
  const client = new Client(port)
  client.send(sent)
  await until(() => answer !== undefined, 'the request')
  const quiet = serving.quiesce(3_600_000, never(), longMs)
  await sleep(30)
  answer?.()
  await quiet
  await client.sees('answered')
  expect(serving.still()).toHaveLength(1)
})

test('an answer that the client reads slowly is sent whole before its connection moves', async () => {
  const body = 'x'.repeat(8 * 2 ** 20)
  const server = createServer((_, response) => response.end(body))
  const asked = once(server, 'request')
  const { serving, port } = await listening(server, { longMs: 3_600_000 })
  const client = new Client(port)
  client.socket.pause()
  client.send(GET('/large'))
  await asked
  const quiet = serving.quiesce(20_000, never())
  await sleep(50)
  expect(serving.still()).toHaveLength(0)
  client.socket.resume()
  await quiet
  expect(serving.still()).toHaveLength(1)
  await takeOver(serving, createServer(says('new')))
  client.send(GET('/2'))
  await client.sees('new /2')
  expect(client.received.length).toBeGreaterThan(body.length)
})

test('an upgraded connection drains, and is ended at the limit', async () => {
  const server = createServer(says('old'))
  server.on('upgrade', (_, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n')
    socket.pipe(socket)
  })
  const { serving, port } = await listening(server)
  const client = new Client(port)
  client.send('GET / HTTP/1.1\r\nHost: test\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n')
  await client.sees('101')
  await serving.quiesce(1_000, never())
  expect(serving.still()).toHaveLength(0)
  const released = serving.release(1_000)
  client.send('still here')
  await client.sees('still here')
  await released
  await until(() => client.ended, 'the end of the connection')
})

test('connections of a server that is not HTTP drain, but for those that the application says may move', async () => {
  const movable = new Set<Socket>()
  const echo = () =>
    createNetServer((socket) => {
      socket.on('data', (data) => {
        if (String(data) === 'idle') movable.add(socket)
        socket.write(`${data}!`)
      })
    })
  const { serving, port } = await listening(echo(), { movable: (socket) => movable.has(socket) })
  const [idle, busy] = [new Client(port), new Client(port)]
  idle.send('idle')
  busy.send('busy')
  await idle.sees('idle!')
  await busy.sees('busy!')
  await serving.quiesce(100, never())
  expect(serving.still()).toHaveLength(1)
  const next = createNetServer((socket) => socket.on('data', (data) => socket.write(`new ${data}`)))
  await takeOver(serving, next, { movable: () => true })
  void serving.release(100)
  idle.send('a')
  await idle.sees('new a')
})

test('TLS: the listener moves, a connection drains', async () => {
  const psk = { psk: Buffer.alloc(32, 7), identity: 'test' }
  const options = { ciphers: 'PSK', pskCallback: () => psk.psk }
  const { serving, port } = await listening(createTlsServer(options, (socket) => socket.pipe(socket)))
  const client = tlsConnect({
    port,
    host: '127.0.0.1',
    ciphers: 'PSK',
    minVersion: 'TLSv1.2',
    maxVersion: 'TLSv1.2',
    pskCallback: () => psk,
    checkServerIdentity: () => undefined,
  })
  closing.push(() => client.destroy())
  let received = ''
  client.on('data', (data) => {
    received += data
  })
  await new Promise<void>((resolve) => client.once('secureConnect', () => resolve()))
  await serving.quiesce(100, never())
  expect(serving.still()).toHaveLength(0)
  client.write('drains')
  await expect.poll(() => received).toBe('drains')
})

test('HTTP/2: the listener moves, a connection drains', async () => {
  const server = createHttp2Server()
  const part = firstBytes(server)
  const { serving, port } = await listening(server)
  const client = new Client(port)
  client.send('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
  await part
  await serving.quiesce(100, never())
  expect(serving.still()).toHaveLength(0)
})

test('waiting for requests ends when the update is ended', async () => {
  const server = createServer(() => {})
  const asked = once(server, 'request')
  const { serving, port } = await listening(server)
  const client = new Client(port)
  client.send(GET('/hangs'))
  await asked
  const abort = new AbortController()
  const quiet = serving.quiesce(60_000, abort.signal).catch(() => 'aborted')
  abort.abort()
  expect(await quiet).toBe('aborted')
})

test('under load, no request is lost over many moves between two versions', async () => {
  const answered = { count: 0, failed: 0 }
  let stop = false
  const { serving, port } = await listening(createServer(says('v0')))
  const clients = Array.from({ length: 20 }, async (_, id) => {
    const client = new Client(port)
    for (let n = 0; !stop; n++) {
      client.send(GET(`/${id}.${n}.`))
      await client.sees(`/${id}.${n}.`).then(
        () => {
          answered.count += 1
        },
        () => {
          answered.failed += 1
        },
      )
      client.received = ''
      if (client.ended) answered.failed += 1
    }
    return client
  })
  let current = serving
  for (let round = 1; round <= 10; round++) {
    // Each version answers some.
    const before = answered.count
    await until(() => answered.count >= before + clients.length, `answers in round ${round}`)
    await current.quiesce(20_000, never())
    const next = await takeOver(current, createServer(says(`v${round}`)))
    void current.release(500)
    current = next
  }
  stop = true
  const all = await Promise.all(clients)
  expect(answered.failed).toBe(0)
  expect(all.every((client) => !client.ended)).toBe(true)
})
