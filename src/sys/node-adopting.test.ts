import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent, createServer as createHttpServer, type Server as HttpServer, request } from 'node:http'
import { type AddressInfo, connect, createServer, type Server, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { codeOf, rejectionOf } from '../../test/code-of.js'
import { countOpenFds, type Fd } from './fd.js'
import { fileInfo, inodeKey, sameOpenFile } from './file-info.js'
import { createMemfd } from './memfd.js'
import {
  adoptSocket,
  dupHandle,
  duplicateNumber,
  hasHandle,
  listenOn,
  startReading,
  stopListening,
  stopReading,
} from './node.js'
import { Poller } from './poller.js'
import { connectUnix, listenUnix, receive, send, socketPair } from './unix.js'

let openAtStart: number
const endings: (() => unknown)[] = []

function own<T extends Fd | Socket | Server>(...objects: T[]): T {
  for (const object of objects) {
    endings.push(() => {
      if (object instanceof Socket) object.destroy()
      else object.close()
    })
  }
  return objects[0] as T
}

async function listening<T extends Server>(server: T): Promise<T> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return own(server)
}

const portOf = (server: Server) => (server.address() as AddressInfo).port

/** Both ends of a TCP connection, and what the client hears. */
async function connection(): Promise<{ client: Socket; server: Socket; heard: () => string; ends: () => string[] }> {
  const listener = await listening(createServer({ pauseOnConnect: true }))
  const accepted = once(listener, 'connection')
  const client = own(connect(portOf(listener), '127.0.0.1'))
  const [server] = (await accepted) as [Socket]
  own(server)
  let heard = ''
  const ends: string[] = []
  client.on('data', (data) => {
    heard += data
  })
  for (const name of ['end', 'error', 'close']) client.on(name, () => ends.push(name))
  return { client, server, heard: () => heard, ends: () => ends }
}

/** What a socket of Node reads, as text. */
function reader(socket: Socket): () => string {
  let text = ''
  socket.on('data', (data) => {
    text += data
  })
  return () => text
}

/** One request on the agent's connection: the answer, and the client's port. */
function ask(port: number, agent: Agent, path = '/'): Promise<{ text: string; port: number | undefined }> {
  return new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, agent, path }, (response) => {
      const { localPort } = response.socket
      let text = ''
      response.on('data', (data) => {
        text += data
      })
      response.on('end', () => resolve({ text, port: localPort }))
    })
    asked.on('error', reject)
    asked.end()
  })
}

beforeAll(async () => {
  Poller.shared()
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  const warm = await listening(createServer())
  warm.close()
  openAtStart = countOpenFds()
})

afterEach(() => {
  for (const end of endings.splice(0).reverse()) end()
})

describe('taking a descriptor', () => {
  test('of a socket is a copy of its own, of the same connection, which no child inherits', async () => {
    const { client, server } = await connection()
    const [a, b] = [own(dupHandle(server)), own(dupHandle(client))]
    expect(fileInfo(a)).toMatchObject({ kind: 'tcp', listening: false })
    expect(inodeKey(a)).not.toBe(inodeKey(b))
    expect(sameOpenFile(a, own(dupHandle(server)))).toBe(true)
    a.close()
    expect(hasHandle(server)).toBe(true)
  })

  test('of a server is a copy of its listening socket', async () => {
    const server = await listening(createServer())
    expect(fileInfo(own(dupHandle(server)))).toMatchObject({ kind: 'tcp', listening: true })
    const unix = own(createServer())
    await listenOn(unix, listenUnix(`@luo-take-${process.pid}`))
    expect(fileInfo(own(dupHandle(unix)))).toMatchObject({ kind: 'unix', listening: true })
  })

  test('is EBADF when there is none, or none any more', async () => {
    expect(codeOf(() => dupHandle(createServer()))).toBe('EBADF')
    expect(codeOf(() => dupHandle(new Socket()))).toBe('EBADF')
    const { server } = await connection()
    server.destroy()
    expect(hasHandle(server)).toBe(false)
    expect(codeOf(() => dupHandle(server))).toBe('EBADF')
    const closed = await listening(createServer())
    closed.close()
    expect(hasHandle(closed)).toBe(false)
    expect(codeOf(() => dupHandle(closed))).toBe('EBADF')
  })

  test('by its number leaves the number to its owner', () => {
    const file = own(createMemfd('number'))
    own(duplicateNumber(file.number)).close()
    expect(fileInfo(file).kind).toBe('memfd')
    expect(codeOf(() => duplicateNumber(2 ** 30))).toBe('EBADF')
    for (const number of [-1, 1.5, Number.NaN]) expect(codeOf(() => duplicateNumber(number))).toBe('EINVAL')
  })
})

describe('an adopted socket', () => {
  test('reads nothing before somebody asks: what comes stays in the kernel', async () => {
    const [a, b] = socketPair()
    own(a)
    const copy = own(b.dup())
    const socket = own(adoptSocket(b, { allowHalfOpen: false }))
    send(a, Buffer.from('early'))
    await sleep(30)
    expect([socket.bytesRead, socket.readableLength]).toEqual([0, 0])
    // Whoever else has the connection reads it whole.
    expect(Buffer.from(receive(copy)?.bytes ?? []).toString()).toBe('early')
  })

  test('of TCP reads nothing either, nor what had come before', async () => {
    const { client, server } = await connection()
    client.write('before ')
    await sleep(10)
    const copy = dupHandle(server)
    server.destroy()
    const another = own(copy.dup())
    const idle = adoptSocket(copy, { allowHalfOpen: false })
    client.write('after')
    await sleep(30)
    expect(idle.bytesRead).toBe(0)
    idle.destroy()
    const socket = own(adoptSocket(another, { allowHalfOpen: false }))
    const text = reader(socket)
    startReading(socket)
    await vi.waitFor(() => expect(text()).toBe('before after'))
  })

  test('begins to read when somebody listens for data, resumes it, starts reading, or iterates', async () => {
    for (const begin of [() => {}, (socket: Socket) => void socket.resume(), startReading]) {
      const [a, b] = socketPair()
      own(a)
      const socket = own(adoptSocket(b, { allowHalfOpen: false }))
      const text = reader(socket)
      begin(socket)
      send(a, Buffer.from('later'))
      await vi.waitFor(() => expect(text()).toBe('later'))
    }
    const [a, b] = socketPair()
    const socket = own(adoptSocket(b, { allowHalfOpen: false }))
    send(a, Buffer.from('all'))
    a.close()
    let text = ''
    for await (const chunk of socket) text += chunk
    expect(text).toBe('all')
  })

  test('writes at once, and owns its descriptor', async () => {
    const [a, b] = socketPair()
    own(a)
    const socket = own(adoptSocket(b, { allowHalfOpen: false }))
    expect(b.closed).toBe(true)
    socket.write('hello')
    expect(Buffer.from(receive(a)?.bytes ?? []).toString()).toBe('hello')
    socket.destroy()
    await once(socket, 'close')
    expect(receive(a)?.bytes).toHaveLength(0)
  })

  test('goes on writing after the end of the other side only when it may be half open', async () => {
    for (const allowHalfOpen of [true, false]) {
      const { client, server } = await connection()
      const socket = own(adoptSocket(dupHandle(server), { allowHalfOpen }))
      server.destroy()
      startReading(socket)
      client.end()
      await once(socket, 'end')
      await sleep(5)
      expect([allowHalfOpen, socket.writable]).toEqual([allowHalfOpen, allowHalfOpen])
    }
  })

  test('of what is no socket is an error, and the file is closed', () => {
    const before = countOpenFds()
    const file = createMemfd('no socket')
    expect(codeOf(() => adoptSocket(file, { allowHalfOpen: false }))).toMatchObject({ code: 'ERR_INVALID_FD_TYPE' })
    expect([file.closed, countOpenFds()]).toEqual([true, before])
    expect(codeOf(() => adoptSocket(file, { allowHalfOpen: false }))).toBe('EBADF')
  })
})

describe('a connection that was passed on', () => {
  test('goes on when the one who passed it lets go with destroy(), and the client hears nothing of it', async () => {
    const { client, server, heard, ends } = await connection()
    const copy = dupHandle(server)
    server.destroy()
    await once(server, 'close')
    await sleep(20)
    const socket = own(adoptSocket(copy, { allowHalfOpen: false }))
    const text = reader(socket)
    startReading(socket)
    client.write('hello')
    await vi.waitFor(() => expect(text()).toBe('hello'))
    socket.write('answer')
    await vi.waitFor(() => expect(heard()).toBe('answer'))
    expect(ends()).toEqual([])
  })

  test('is ended for both by end(), which is why nobody may call that', async () => {
    const { server, ends } = await connection()
    const copy = own(dupHandle(server))
    server.end()
    await vi.waitFor(() => expect(ends()).toContain('end'))
    expect(fileInfo(copy).kind).toBe('tcp')
  })
})

describe('reading', () => {
  test('that is stopped leaves all that comes to whoever takes the connection', async () => {
    const { client, server } = await connection()
    const text = reader(server)
    startReading(server)
    client.write('one ')
    await vi.waitFor(() => expect(text()).toBe('one '))
    stopReading(server)
    stopReading(server)
    const before = server.bytesRead
    client.write('two')
    await sleep(30)
    expect([text(), server.bytesRead, server.readableLength]).toEqual(['one ', before, 0])
    const socket = own(adoptSocket(dupHandle(server), { allowHalfOpen: false }))
    const rest = reader(socket)
    startReading(socket)
    await vi.waitFor(() => expect(rest()).toBe('two'))
  })

  test('can be stopped and started again, and loses nothing', async () => {
    const { client, server } = await connection()
    const text = reader(server)
    for (let round = 0; round < 20; round++) {
      startReading(server)
      client.write(`${round} `)
      stopReading(server)
      if (round % 3 === 0) await sleep(1)
    }
    startReading(server)
    await vi.waitFor(() => expect(text()).toBe([...Array(20).keys(), ''].join(' ')))
  })

  test('of a closed socket is stopped and started without an error', async () => {
    const { server } = await connection()
    server.destroy()
    stopReading(server)
    startReading(server)
    expect(hasHandle(server)).toBe(false)
  })

  test('is stopped also where an HTTP parser reads the connection itself', async () => {
    const paths: (string | undefined)[] = []
    const http = await listening(
      createHttpServer(({ url }, response) => {
        paths.push(url)
        response.end('answer')
      }),
    )
    const connections: Socket[] = []
    http.on('connection', (socket: Socket) => connections.push(socket))
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    endings.push(() => agent.destroy())
    await ask(portOf(http), agent, '/first')
    const [socket] = connections as [Socket]
    stopReading(socket)
    const second = ask(portOf(http), agent, '/second')
    await sleep(30)
    expect(paths).toEqual(['/first'])
    startReading(socket)
    expect((await second).text).toBe('answer')
    expect([paths, connections.length]).toEqual([['/first', '/second'], 1])
  })
})

describe('listening', () => {
  test('that is stopped leaves the listener to whoever has another descriptor of it', async () => {
    const first = await listening(createServer((socket) => socket.end('first')))
    const port = portOf(first)
    const copy = dupHandle(first)
    stopListening(first)
    stopListening(first)
    expect(hasHandle(first)).toBe(false)
    // Nobody accepts, and nobody is refused.
    const waiting = own(connect(port, '127.0.0.1'))
    await once(waiting, 'connect')
    const text = reader(waiting)
    const second = own(createServer((socket) => socket.end('second')))
    await listenOn(second, copy)
    expect(copy.closed).toBe(true)
    expect(portOf(second)).toBe(port)
    await vi.waitFor(() => expect(text()).toBe('second'))
  })

  test('that is stopped keeps connections, and can begin again in the same server', async () => {
    const server = own(createServer((socket) => socket.pipe(socket)))
    const name = `@luo-again-${process.pid}`
    const listener = own(listenUnix(name))
    await listenOn(server, listener.dup())
    const early = own(adoptSocket(connectUnix(name), { allowHalfOpen: false }))
    const text = reader(early)
    startReading(early)
    early.write('one ')
    await vi.waitFor(() => expect(text()).toBe('one '))
    stopListening(server)
    early.write('two')
    await vi.waitFor(() => expect(text()).toBe('one two'))
    const late = own(adoptSocket(connectUnix(name), { allowHalfOpen: false }))
    const answer = reader(late)
    startReading(late)
    late.write('later')
    await sleep(20)
    expect(answer()).toBe('')
    await listenOn(server, listener.dup())
    await vi.waitFor(() => expect(answer()).toBe('later'))
  })

  test('that is stopped keeps idle HTTP connections, which close() would end, and says nothing of an end', async () => {
    const http = await listening(createHttpServer((_, response) => response.end('answer')))
    const events: string[] = []
    http.on('close', () => events.push('server'))
    http.on('connection', (socket: Socket) => socket.on('close', () => events.push('connection')))
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    endings.push(() => agent.destroy())
    const port = portOf(http)
    const first = await ask(port, agent)
    const copy = dupHandle(http)
    stopListening(http)
    await sleep(20)
    expect(events).toEqual([])
    expect(await ask(port, agent)).toEqual(first)
    await listenOn(http, copy)
    expect(await ask(port, agent)).toEqual(first)
  })

  test('takes up who connected, and wrote, before anybody listened', async () => {
    const name = `@luo-backlog-${process.pid}`
    const listener = own(listenUnix(name))
    const client = own(connectUnix(name))
    send(client, Buffer.from('sent before anybody listened'))
    const server = own(createServer())
    const heard = once(server, 'connection').then(([socket]) => once(own(socket as Socket), 'data'))
    await listenOn(server, listener.dup())
    expect(String(await heard)).toBe('sent before anybody listened')
  })

  test('on what does not listen is an error, and the file is closed', async () => {
    const server = own(createServer())
    const before = countOpenFds()
    expect(await rejectionOf(listenOn(server, createMemfd('no socket')))).toBe('EINVAL')
    const [a, b] = socketPair()
    expect(await rejectionOf(listenOn(server, a))).toBe('EINVAL')
    b.close()
    expect([a.closed, countOpenFds(), hasHandle(server)]).toEqual([true, before, false])
    // And the server can still be used.
    await listenOn(server, listenUnix(`@luo-after-${process.pid}`))
    expect(hasHandle(server)).toBe(true)
  })

  test('with a server that listens already is an error, and the file is closed', async () => {
    const server = await listening(createServer())
    const before = countOpenFds()
    const listener = listenUnix(`@luo-twice-${process.pid}`)
    expect(await rejectionOf(listenOn(server, listener))).toBe('EINVAL')
    expect([listener.closed, countOpenFds(), server.listenerCount('error')]).toEqual([true, before, 0])
  })

  test('leaves the file of a Unix socket where it is, for the next', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'luo-listen-'))
    endings.push(() => rmSync(folder, { recursive: true }))
    const path = join(folder, 'socket')
    const first = createServer()
    const listener = own(listenUnix(path))
    await listenOn(first, listener.dup())
    stopListening(first)
    own(connectUnix(path))
  })
})

describe('an idle HTTP connection', () => {
  test('moves between two servers again and again, and the client never notices', async () => {
    const served: string[] = []
    const make = (name: string): HttpServer =>
      own(
        createHttpServer((_, response) => {
          served.push(name)
          response.end(name)
        }),
      )
    const servers = [await listening(make('a')), make('b')] as const
    const port = portOf(servers[0])
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    endings.push(() => agent.destroy())
    const accepted = once(servers[0], 'connection')
    const ports = new Set([(await ask(port, agent)).port])
    let [socket] = (await accepted) as [Socket]
    for (let move = 1; move <= 10; move++) {
      stopReading(socket)
      const passed = dupHandle(socket)
      socket.destroy()
      socket = adoptSocket(passed, { allowHalfOpen: true })
      // Asked while nobody reads: it waits for the new one.
      const answer = ask(port, agent)
      await sleep(2)
      servers[move % 2 === 0 ? 0 : 1].emit('connection', socket)
      startReading(socket)
      const { text, port: from } = await answer
      ports.add(from)
      expect(text).toBe(move % 2 === 0 ? 'a' : 'b')
    }
    expect([ports.size, served.length]).toEqual([1, 11])
    own(socket)
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
