/** A luod in this process, at a socket in a folder of its own, that answers as a test says. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { LuoError } from '../src/errors.js'
import { parseInterface } from '../src/protocol/idl.js'
import { INTERFACE_TEXT } from '../src/protocol/interface.js'
import type { Methods } from '../src/protocol/types.js'
import { createMemfd } from '../src/sys/memfd.js'
import { listenUnix } from '../src/sys/unix.js'
import { type Handlers, Server } from '../src/wire/server.js'

export interface FakeLuod extends Disposable {
  socket: string
}

const STATUS: Methods['Status']['output'] = {
  ...{ pid: process.pid, version: '1.2.3', uid: 0, workloads: 0, sessions: 0, files: 0 },
  ...{ connections: 1, nofile: 1_024, open_fds: 10, limits: {}, usage: [] },
  ...{ protection: { kind: 'none', ready: false, lost: 0 }, backend: 'userspace' },
}

type Event = Methods['Subscribe']['output']

/** A member that joins for the first time, and what it is told once it has subscribed. */
export function fakeMember() {
  let say: ((event: Event) => void) | undefined
  const handlers: Pick<Handlers, 'Join' | 'Subscribe'> = {
    Join: () => ({
      output: { member: 'm', session: 's', origin: 'new', fds: 1, session_fd: 0 },
      fds: [createMemfd('lifetime')],
    }),
    Subscribe: ({ reply }) => {
      say = (event) => void reply(event)
      say({ event: 'subscribed' })
      return new Promise(() => {})
    },
  }
  return { handlers, say: (event: Event) => say?.(event), subscribed: () => say !== undefined }
}

/**
 * Methods that are not among `handlers` fail with LUO_UNSUPPORTED, but for what luoctl asks first. `socket`: of one
 * before, which has ended.
 */
export function fakeLuod(
  handlers: Partial<Handlers>,
  socket = join(mkdtempSync(join(tmpdir(), 'fake-luod-')), 's'),
): FakeLuod {
  const folder = dirname(socket)
  mkdirSync(folder, { recursive: true })
  const others = [...parseInterface(INTERFACE_TEXT).methods.keys()].map((name) => [
    name,
    () => {
      throw new LuoError('LUO_UNSUPPORTED', `${name} is not under test`)
    },
  ])
  const server = new Server({
    listener: listenUnix(socket),
    handlers: {
      ...(Object.fromEntries(others) as unknown as Handlers),
      Status: () => ({ output: STATUS }),
      ...handlers,
    },
    version: '1.2.3',
    maxConnections: 100,
    maxUnderWay: { files: 1_000, bytes: 16 * 2 ** 20 },
    onDefect: (error) => {
      throw error
    },
    onRefused: () => {},
  })
  return {
    socket,
    [Symbol.dispose]: () => {
      server.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
