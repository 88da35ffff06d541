/** Files that are meant to hurt: each costs luod no wait, and no descriptor that others need. */

import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { INTERFACE_NAME } from '../../src/protocol/interface.js'
import type { Fd } from '../../src/sys/fd.js'
import { libc } from '../../src/sys/ffi.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { dupHandle } from '../../src/sys/node.js'
import { connectUnix, send } from '../../src/sys/unix.js'
import { eventually, failure, Stage } from '../daemon/stage.js'

const MANY = 253
/** Of one user, in each direction, at the most; and a message that is just being received. */
const MOST_UNDER_WAY = 2 * (1_024 + 2 * MANY)
const opened: Fd[] = []
afterEach(() => {
  for (const fd of opened.splice(0)) fd.close()
})

function memory(): Fd {
  const fd = createMemfd('hostile')
  opened.push(fd)
  return fd
}

test('files of requests that wait behind a stream fill no table, and hold nobody up for long', async () => {
  await using stage = await Stage.start()
  const { open_fds: before } = await stage.atRest()
  const files = Array.from({ length: MANY }, memory)
  const ended: string[] = []
  for (let count = 0; count < 8; count++) {
    const client = await stage.client()
    client
      .stream('Watch', {})
      .next()
      .catch(({ code }) => ended.push(code))
    for (let message = 0; message < 4; message++) {
      const input = { id: `${count} ${message}`, session: 'none', files: [], fds: MANY }
      client.call('Preserve', input, files).catch(() => {})
    }
  }
  const { open_fds } = await stage.call('Status', {})
  expect(open_fds - before).toBeLessThan(MOST_UNDER_WAY)
  await eventually(
    () => ended,
    (codes) => codes.includes('LUO_LIMIT'),
    'none of them ends',
  )
})

test('answers with files that nobody reads fill no table', async () => {
  await using stage = await Stage.start()
  const client = await stage.client()
  const { session } = (await client.call('CreateSession', { id: 'c', name: 'many' })).parameters
  const files = Array.from({ length: MANY }, memory)
  const input = { id: 'p', session: session.session, files: files.map((_, fd) => ({ token: `${fd}`, fd })), fds: MANY }
  await client.call('Preserve', input, files)
  const { open_fds: before } = await stage.atRest()
  const request = { method: `${INTERFACE_NAME}.Retrieve`, parameters: { session: session.session, offset: 0 } }
  const bytes = Buffer.from(`${JSON.stringify(request)}\0`)
  for (let count = 0; count < 4; count++) {
    const raw = connectUnix(stage.socket)
    opened.push(raw)
    for (let message = 0; message < 60; message++) send(raw, bytes)
  }
  const { open_fds } = await stage.call('Status', {})
  expect(open_fds - before).toBeLessThan(MOST_UNDER_WAY)
})

test('a connection that would linger for an hour is closed at once', async () => {
  await using stage = await Stage.start()
  const { open_fds: before } = await stage.atRest()
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const socket = connect((server.address() as { port: number }).port, '127.0.0.1')
  const [theirs] = await accepted
  await once(socket, 'connect')
  const fd = dupHandle(socket)
  opened.push(fd)
  const [SOL_SOCKET, SO_LINGER] = [1, 13]
  const hour = Int32Array.of(1, 3_600)
  expect(libc('setsockopt', fd.number, SOL_SOCKET, SO_LINGER, hour, hour.byteLength)).toBe(0)
  // More than goes: the rest waits for a reader that never comes.
  socket.write(Buffer.alloc(16 * 2 ** 20))
  await new Promise((resolve) => setTimeout(resolve, 50))
  const client = await stage.client()
  const refused = client.call('Preserve', { id: 'p', session: 'none', files: [], fds: 1 }, [fd])
  fd.close()
  socket.destroy()
  expect(await failure(refused)).toBe('LUO_NOT_FOUND')
  client.close()
  await eventually(
    () => stage.call('Status', {}),
    ({ open_fds }) => open_fds === before,
    'it is open still',
  )
  theirs.destroy()
  server.close()
})

test('a memory file of 8 EiB is more than a user may have, and changes nothing', async () => {
  await using stage = await Stage.start()
  const client = await stage.client()
  const { session } = (await client.call('CreateSession', { id: 'c', name: 'huge' })).parameters
  const huge = memory()
  expect(libc('ftruncate', huge.number, 2n ** 63n - 4096n)).toBe(0)
  const input = { id: 'p', session: session.session, files: [{ token: '1', fd: 0 }], fds: 1 }
  expect(await failure(client.call('Preserve', input, [huge]))).toBe('LUO_LIMIT')
  const { usage } = await stage.call('Status', {})
  expect(usage[0]).toMatchObject({ files: 0, bytes: 0 })
})

test("a connection to luod, sent through itself, is refused, and is no descriptor of luod's afterwards", async () => {
  await using stage = await Stage.start()
  const client = await stage.client()
  const { session } = (await client.call('CreateSession', { id: 'c', name: 'cycle' })).parameters
  const { open_fds: before } = await stage.atRest()
  const own = connectUnix(stage.socket)
  const input = { id: 'p', session: session.session, files: [{ token: '1', fd: 0 }], fds: 1 }
  expect(await failure(client.call('Preserve', input, [own]))).toBe('ENOENT')
  const message = Buffer.from(`${JSON.stringify({ method: `${INTERFACE_NAME}.Preserve`, parameters: input })}\0`)
  send(own, message, [own])
  own.close()
  await eventually(
    () => stage.call('Status', {}),
    ({ open_fds }) => open_fds === before,
    'it is open still',
  )
})
