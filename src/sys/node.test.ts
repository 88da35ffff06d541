import { once } from 'node:events'
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, unlinkSync, watch, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { closeAll, Fd } from './fd.js'
import { fileInfo, inodeKey, sameOpenFile } from './file-info.js'
import { createMemfd } from './memfd.js'
import { adoptSocket, dupHandle, hasHandle, listenOn, startReading, stopListening, stopReading } from './node.js'
import { openPidfd } from './pidfd.js'
import { receive, send, socketPair } from './unix.js'

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** A TCP connection: its client, and the server's side. */
async function connection(): Promise<{ client: Socket; server: Socket; close(): void }> {
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const accepted = once(listener, 'connection')
  const client = connect((listener.address() as AddressInfo).port, '127.0.0.1')
  const [server] = (await accepted) as [Socket]
  return {
    client,
    server,
    close: () => {
      client.destroy()
      server.destroy()
      listener.close()
    },
  }
}

test('a listener goes on after the server has stopped, and a second server takes it up', async () => {
  const first = createServer((socket) => socket.end('first')).listen(0, '127.0.0.1')
  await once(first, 'listening')
  const { port } = first.address() as AddressInfo
  const copy = dupHandle(first)
  stopListening(first)
  expect(hasHandle(first)).toBe(false)
  // Nobody accepts now, and nobody is refused.
  const waiting = connect(port, '127.0.0.1')
  await once(waiting, 'connect')
  const second = createServer((socket) => socket.end('second'))
  await listenOn(second, copy)
  const [data] = await once(waiting, 'data')
  expect(String(data)).toBe('second')
  waiting.destroy()
  second.close()
})

test('a connection that was passed on stays open when the one who passed it lets go', async () => {
  const { client, server, close } = await connection()
  const copy = dupHandle(server)
  let ended = false
  client.on('end', () => {
    ended = true
  })
  server.destroy()
  await sleep(30)
  expect(ended).toBe(false)
  const adopted = adoptSocket(copy, { allowHalfOpen: true })
  client.write('hello')
  const [data] = await once(adopted, 'data')
  expect(String(data)).toBe('hello')
  adopted.end('bye')
  const [answer] = await once(client, 'data')
  expect(String(answer)).toBe('bye')
  adopted.destroy()
  close()
})

test('while reading is stopped, what comes stays in the kernel, for whoever reads next', async () => {
  const { client, server, close } = await connection()
  server.on('data', () => {})
  await sleep(10)
  stopReading(server)
  const copy = dupHandle(server)
  client.write('kept')
  await sleep(30)
  expect(server.bytesRead).toBe(0)
  server.destroy()
  const adopted = adoptSocket(copy, { allowHalfOpen: true })
  const [data] = await once(adopted, 'data')
  expect(String(data)).toBe('kept')
  adopted.destroy()
  close()
})

test('reading goes on where it was stopped', async () => {
  const { client, server, close } = await connection()
  let received = ''
  server.on('data', (data) => {
    received += data
  })
  stopReading(server)
  client.write('later')
  await sleep(20)
  expect(received).toBe('')
  startReading(server)
  await expect.poll(() => received).toBe('later')
  close()
})

test('a socket without a handle has no descriptor to take', async () => {
  const { server, close } = await connection()
  server.destroy()
  let error: unknown
  try {
    dupHandle(server)
  } catch (thrown) {
    error = thrown
  }
  expect(isLuoError(error, 'EBADF')).toBe(true)
  close()
})

test('kinds of files are told apart by what the kernel says, not by their names', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-kinds-'))
  const path = join(folder, 'memfd:not one')
  writeFileSync(path, '')
  const open = (name: string, flags = 'r') => Fd.adopt(openSync(name, flags))
  const kinds: [string, Fd][] = [
    ['file', open(path)],
    ['directory', open(folder)],
    ['character', open('/dev/null')],
    ['memfd', createMemfd('one')],
    ['pidfd', openPidfd(process.pid)],
    ['unix', socketPair()[0]],
  ]
  if (existsSync('/dev/shm')) {
    const shm = `/dev/shm/luo-kinds-${process.pid}`
    kinds.push(['file', open(shm, 'w+')])
    const unlinked = open(shm, 'r+')
    unlinkSync(shm)
    // Both are the same file, and now memory that no name leads to.
    kinds[kinds.length - 1] = ['shmem', unlinked]
  }
  for (const [kind, fd] of kinds) expect(fileInfo(fd).kind).toBe(kind)
  const { client, server, close } = await connection()
  const tcp = dupHandle(server)
  expect(fileInfo(tcp)).toMatchObject({ kind: 'tcp', listening: false })
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const listening = dupHandle(listener)
  expect(fileInfo(listening)).toMatchObject({ kind: 'tcp', listening: true })
  closeAll([tcp, listening, ...kinds.map(([, fd]) => fd)])
  client.destroy()
  listener.close()
  close()
  rmSync(folder, { recursive: true })
})

test('anonymous files are known with and without brackets around their names', () => {
  // Node has an epoll and eventfds of its own; watching a folder makes an inotify.
  const watcher = watch(tmpdir())
  const kinds = new Set<string>()
  for (let number = 3; number < 64; number++) {
    try {
      const fd = Fd.adopt(number)
      kinds.add(fileInfo(fd).kind)
      fd.release()
    } catch {
      // Not open.
    }
  }
  watcher.close()
  expect([...kinds]).toEqual(expect.arrayContaining(['epoll', 'eventfd', 'inotify']))
})

test('two descriptors are one open file, or two of one inode', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-same-'))
  const path = join(folder, 'file')
  writeFileSync(path, '')
  const a = Fd.adopt(openSync(path, 'r'))
  const again = Fd.adopt(openSync(path, 'r'))
  const copy = a.dup()
  expect(sameOpenFile(a, copy)).toBe(true)
  expect(sameOpenFile(a, again)).toBe(false)
  expect(inodeKey(a)).toBe(inodeKey(again))
  closeAll([a, again, copy])
  rmSync(folder, { recursive: true })
})

test('a file that arrives is close-on-exec', () => {
  const [a, b] = socketPair()
  using file = createMemfd('secret')
  send(a, Buffer.from('x'), [file])
  const got = receive(b)
  const flags = readFileSync(`/proc/self/fdinfo/${got?.fds[0]?.number}`, 'utf8')
  // O_CLOEXEC, in octal.
  expect(/flags:\s+0?2\d{6}$/m.test(flags)).toBe(true)
  closeAll([a, b, ...(got?.fds ?? [])])
})
