/**
 * What stays open of a workload that has left, in a process that goes on, and what a luod that misbehaves can leave.
 */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { crc32 } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { codeOf, rejectionOf } from '../../test/code-of.js'
import { type FakeLuod, fakeLuod, fakeMember } from '../../test/fake-luod.js'
import { until } from '../../test/until.js'
import type { File } from '../protocol/types.js'
import { countOpenFds, Fd } from '../sys/fd.js'
import { createMemfd, writeAt } from '../sys/memfd.js'
import type { Handlers } from '../wire/server.js'
import { join, openSession } from './index.js'
import { Manifest } from './manifest.js'

let luod: FakeLuod
let before: number

beforeEach(async () => {
  // The poller, and what Node.js keeps once it listens, are there from here on.
  begin({})
  const live = await joined()
  const server = createServer()
  await live.serve(server, { port: 0, host: '127.0.0.1' }).catch(() => {})
  await live.close()
  server.close()
  luod[Symbol.dispose]()
  before = countOpenFds()
})
afterEach(async () => {
  luod[Symbol.dispose]()
  await until(() => countOpenFds() <= before, 'nothing is open any more')
})

function begin(handlers: Partial<Handlers>): void {
  luod = fakeLuod({
    ...fakeMember().handlers,
    Preserve: () => ({ output: {} }),
    Unpreserve: () => ({ output: {} }),
    Commit: () => ({ output: { released: 'none' } }),
    Show: () => ({ output: { workload: WORKLOAD, sessions: [] } }),
    ...handlers,
  })
}

const WORKLOAD = {
  ...{ name: 'web', uid: 0, state: 'running' as const, supervised: false, generation: 1 },
  ...{ keep_ms: 0, formats: [], sessions: 1, files: 0, bytes: '0' },
}
const joined = () => join({ workload: 'web', socket: luod.socket, reconnectMs: 0, exitWhenReleased: false })

test.each(['leave', 'close'] as const)('after %s a server that is closed does not listen any more', async (how) => {
  begin({})
  const live = await joined()
  const server = createServer()
  await live.serve(server, { port: 0, host: '127.0.0.1' })
  await live.ready()
  const { port } = server.address() as { port: number }
  await live[how]()
  server.close()
  const client = connect(port, '127.0.0.1')
  const [error] = await once(client, 'error')
  expect(error.code).toBe('ECONNREFUSED')
})

const file = (token: string): File => ({ token, kind: 'memfd', compatible: 'memfd/1' })

function claimed(tokens: string[], manifest: unknown): Partial<Handlers> {
  const json = Buffer.from(JSON.stringify(manifest))
  const header = Buffer.alloc(16)
  header.writeUInt32LE(1, 0)
  header.writeUInt32LE(json.length, 4)
  header.writeUInt32LE(crc32(json), 8)
  return {
    Join: () => ({
      output: { member: 'm', session: 's', origin: 'update', fds: 1, session_fd: 0 },
      fds: [createMemfd('lifetime')],
    }),
    Claim: () => {
      const fds = tokens.map((token) => createMemfd(`token ${token}`, { size: 1 }))
      const [first] = fds
      if (first) writeAt(first, Buffer.concat([header, json]), 0)
      const files = tokens.map(file)
      return { output: { session: 's', files, total: files.length, sessions: [], fds: fds.length }, fds }
    },
  }
}

const resource = { name: 'a', token: '1', kind: 'file' }

test('what was handed over and never asked for is closed', async () => {
  begin(claimed(['0', '1', '2'], { version: 1, resources: [resource, { ...resource, name: 'b', token: '2' }] }))
  const live = await joined()
  Fd.adopt((await live.file('a')) ?? -1).close()
  await live.close()
})

test('two files at one token are LUO_PROTOCOL, and are closed', async () => {
  begin(claimed(['0', '1', '1'], { version: 1, resources: [resource] }))
  const live = await joined()
  expect(await rejectionOf(live.file('a'))).toBe('LUO_PROTOCOL')
  await live.close()
})

describe('a manifest of another program, with a good checksum', () => {
  test.each([
    null,
    [],
    { version: 1 },
    { version: 1, resources: {} },
    { version: 1, resources: [null] },
    { version: 1, resources: [{ ...resource, token: 'x' }] },
    { version: 1, resources: [{ ...resource, token: 1 }] },
    { version: 1, resources: [{ ...resource, max: -1 }] },
    { version: 1, resources: [{ ...resource, of: 5 }] },
  ])('%j is refused', async (manifest) => {
    begin(claimed(['0', '1'], manifest))
    const live = await joined()
    expect(['LUO_RECORDS', 'LUO_STATE_VERSION']).toContain(await rejectionOf(live.file('a')))
    await live.close()
  })

  test('that is no JSON is LUO_RECORDS', () => {
    const text = Buffer.from('{')
    const header = Buffer.alloc(16)
    header.writeUInt32LE(1, 0)
    header.writeUInt32LE(text.length, 4)
    header.writeUInt32LE(crc32(text), 8)
    using fd = createMemfd('manifest')
    writeAt(fd, Buffer.concat([header, text]), 0)
    expect(codeOf(() => Manifest.open(fd))).toBe('LUO_RECORDS')
  })
})

describe('a session', () => {
  const session = {
    ...{ session: '5', name: 'a', uid: 0, custody: 'held' as const, files: 1, bytes: '0' },
    ...{ keep_ms: 0, age_ms: 1 },
  }
  const created = () => ({ output: { session, fds: 1, session_fd: 0 }, fds: [createMemfd('lifetime')] })

  test('has files more than were asked for: they are closed', async () => {
    const fds = () => [createMemfd('one'), createMemfd('two'), createMemfd('three')]
    begin({
      CreateSession: () => ({ output: { session, fds: 3, session_fd: 0 }, fds: fds() }),
      Retrieve: () => ({
        output: { files: [{ token: '1', fd: 0, kind: 'memfd' }], total: 1, fds: 3 },
        fds: fds(),
      }),
    })
    const opened = await openSession('a', { socket: luod.socket })
    Fd.adopt(await opened.retrieve(1)).close()
    opened.close()
  })

  test('has a token that is none, or tokens without end: LUO_PROTOCOL', async () => {
    let token = 'x'
    begin({
      CreateSession: created,
      Files: () => ({ output: { files: Array(1_000).fill(file(token)), total: Number.MAX_SAFE_INTEGER } }),
    })
    const opened = await openSession('a', { socket: luod.socket })
    expect(await rejectionOf(opened.tokens())).toBe('LUO_PROTOCOL')
    token = '1'
    expect(await rejectionOf(opened.tokens())).toBe('LUO_PROTOCOL')
    opened.close()
  })
})
