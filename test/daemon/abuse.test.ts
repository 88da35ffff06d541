/**
 * Clients that break the rules, from outside: after each, luod answers others and has no descriptor more than before.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { isLuoError } from '../../src/errors.js'
import { INTERFACE_NAME as METHOD } from '../../src/protocol/interface.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { MESSAGE_FAULTS } from '../faults/table.js'
import { eventually, Stage } from './stage.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))

/** The listener's queue may be full for a moment. */
async function connected(path: string): Promise<Socket> {
  const socket = connect(path)
  await once(socket, 'connect')
  return socket
}

/** A raw connection, and what came back on it. */
async function raw(stage: Stage): Promise<{ socket: Socket; text(): string; closed: Promise<unknown> }> {
  const socket = await eventually(() => connected(stage.socket), Boolean, 'luod does not accept')
  let received = ''
  socket.on('data', (data) => {
    received += data
  })
  socket.on('error', () => {})
  const closed = new Promise((resolve) => socket.once('close', resolve))
  return { socket, text: () => received, closed }
}

/** Luod is there, and back to what it had. */
async function unharmed(stage: Stage, before: { open_fds: number; connections: number }): Promise<void> {
  await eventually(
    () => stage.call('Status', {}),
    ({ open_fds, connections }) => open_fds === before.open_fds && connections === before.connections,
    `luod had ${before.open_fds} descriptors and ${before.connections} connections`,
  )
}

test.each(MESSAGE_FAULTS)(
  'fault $number: $title ends the connection, or is an error, and hurts nobody',
  async ({ parts }) => {
    await using stage = await Stage.start()
    const before = await stage.atRest()
    const { socket, text, closed } = await raw(stage)
    for (const part of parts) socket.write(part)
    await Promise.race([closed, eventually(text, (seen) => seen.includes('"error"'), 'no error comes')])
    socket.destroy()
    await unharmed(stage, before)
  },
)

test('a request that comes byte by byte is answered', async () => {
  await using stage = await Stage.start()
  const { socket, text } = await raw(stage)
  for (const byte of `{"method":"${METHOD}.List","parameters":{}}\0`) {
    socket.write(byte)
    await new Promise((resolve) => setImmediate(resolve))
  }
  await eventually(text, (seen) => seen.includes('"workloads":[]'), 'no answer')
  socket.destroy()
})

test('wrong parameters are named, and the connection goes on', async () => {
  await using stage = await Stage.start()
  const { socket, text } = await raw(stage)
  const ask = async (request: string, answer: string) => {
    const length = text().length
    socket.write(`${request}\0`)
    await eventually(
      () => text().slice(length),
      (seen) => seen.includes(answer),
      `no ${answer}`,
    )
  }
  await ask(`{"method":"${METHOD}.Show","parameters":{"workload":5}}`, 'org.varlink.service.InvalidParameter')
  await ask(`{"method":"${METHOD}.Show","parameters":{"workload":"a","extra":1}}`, 'extra')
  await ask(`{"method":"${METHOD}.Nothing","parameters":{}}`, 'org.varlink.service.MethodNotFound')
  await ask(`{"method":"org.other.Thing","parameters":{}}`, 'org.varlink.service.InterfaceNotFound')
  await ask(`{"method":"${METHOD}.List"}`, '"workloads":[]')
  socket.destroy()
})

test('a client that asks and never reads is cut off, and others are served meanwhile', async () => {
  await using stage = await Stage.start()
  const before = await stage.atRest()
  const { socket, closed } = await raw(stage)
  socket.pause()
  const request = `{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"${METHOD}"}}\0`
  let ended = false
  void closed.then(() => {
    ended = true
  })
  for (let round = 0; round < 2_000 && !ended; round++) {
    socket.write(request.repeat(10))
    if (round % 50 === 0) {
      const startedAt = performance.now()
      await stage.call('List', {})
      expect(performance.now() - startedAt).toBeLessThan(2_000)
    }
  }
  socket.destroy()
  await unharmed(stage, before)
})

test('a supervisor that comes and goes all the time is waited for with one descriptor', async () => {
  await using stage = await Stage.start()
  const before = await stage.atRest()
  const request = `{"method":"${METHOD}.Supervise","parameters":{"id":"1","workload":"web"},"more":true}\0`
  for (let round = 0; round < 50; round++) {
    const { socket, text } = await raw(stage)
    socket.write(request)
    await eventually(text, (seen) => seen.includes('supervising'), 'no supervisor')
    socket.destroy()
  }
  // The one that waits, and the last connection, if luod has not seen its end.
  expect((await stage.call('Status', {})).open_fds).toBeLessThanOrEqual(before.open_fds + 2)
  await unharmed(stage, before)
})

test('many connections that come and go leave nothing behind', async () => {
  await using stage = await Stage.start()
  const before = await stage.atRest()
  for (let round = 0; round < 20; round++) {
    const all = await Promise.all(Array.from({ length: 25 }, () => raw(stage)))
    for (const { socket } of all) {
      socket.write('{"method":"org.varlink.service.GetInfo"')
      socket.destroy()
    }
  }
  await unharmed(stage, before)
})

test('a user has as many connections as the limit says; the next one is told why', async () => {
  await using stage = await Stage.start()
  const { limits } = await stage.call('Status', {})
  const clients: VarlinkClient[] = []
  for (let count = 0; count < (limits.connections ?? 0); count++)
    clients.push(await VarlinkClient.connect(stage.socket))
  await clients.at(-1)?.call('List', {})
  const error = await stage.call('List', {}).catch((reason: unknown) => reason)
  expect(isLuoError(error, 'LUO_LIMIT')).toBe(true)
  for (const client of clients) client.close()
  await eventually(
    () => stage.call('Status', {}),
    ({ connections }) => connections === 1,
    'connections stay',
  )
})

test('luod with few descriptors refuses what does not fit, and goes on with what it has', async () => {
  await using stage = await Stage.start()
  const socket = join(stage.directory, 'small.sock')
  const luod = spawn('sh', ['-c', `ulimit -n 120 && exec "${process.execPath}" "${LUOD}" --socket "${socket}"`], {
    stdio: ['ignore', 'inherit', 'pipe'],
  })
  try {
    await eventually(
      async () => (await VarlinkClient.connect(socket)).close(),
      () => true,
      'it does not start',
    )
    const puppet = await stage.puppet()
    // The puppet's default connection goes to the stage's luod; this one to the small one.
    await puppet.do('connect', { on: 'small', path: socket })
    const on = 'small'
    const { session } = await puppet.call('Join', { id: '1', workload: 'w', accepts: [] }, { on, keep: ['session'] })
    const names = Array.from({ length: 200 }, (_, index) => `f${index}`)
    for (const name of names) await puppet.do('memfd', { name, size: 1 })
    const preserve = (id: string, send: string[], from = 0) =>
      puppet
        .call(
          'Preserve',
          { id, session, files: send.map((_, fd) => ({ token: String(from + fd), fd })), fds: send.length },
          { on, send },
        )
        .then(
          () => 'done',
          (error: { code: string }) => error.code,
        )
    expect(await preserve('2', names.slice(0, 30))).toBe('done')
    expect(await preserve('3', names.slice(30, 70), 30)).toBe('LUO_LIMIT')
    // More than it can even receive: the files are cut off on the way, which is seen and told.
    expect(['LUO_PROTOCOL', 'LUO_GONE', 'ECONNRESET']).toContain(await preserve('4', names, 30))
    const client = await VarlinkClient.connect(socket)
    const { parameters } = await client.call('Status', {})
    expect(parameters.workloads).toBe(1)
    expect(parameters.files).toBe(30)
    client.close()
  } finally {
    luod.kill('SIGKILL')
    await once(luod, 'exit')
  }
})

test('luod answers GetInfo to a plain Varlink client in another language', async () => {
  await using stage = await Stage.start()
  const script = `
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"method":"org.varlink.service.GetInfo"}\\0')
data = b''
while not data.endswith(b'\\0'): data += s.recv(65536)
print(data[:-1].decode())
`
  const answer = await new Promise<string>((resolve, reject) => {
    execFile('python3', ['-c', script, stage.socket], (error, stdout) => (error ? reject(error) : resolve(stdout)))
  })
  expect(JSON.parse(answer).parameters).toMatchObject({ product: 'luod', vendor: 'liveupdate' })
})
