import { createServer, type Server } from 'node:http'
import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { fakeLuod, fakeMember } from '../../test/fake-luod.js'
import { createMemfd } from '../sys/memfd.js'
import { fakeLive, updateInTest } from '../testing/index.js'
import {
  adoptSession,
  join,
  type Live,
  type MemoryOptions,
  openSession,
  type SessionOptions,
  type Token,
} from './index.js'
import { checkNumbers } from './numbers.js'

const MOST_MS = 2 ** 31 - 1
const WAITS = ['reconnectMs', 'kexecWaitMs', 'drainMs', 'settleMs', 'longMs', 'timeoutMs']
const COUNTS = ['keepMs', 'size', 'max', 'offset', 'length', 'port', 'backlog', 'fd', 'deadlineMs']

test('a wait is what it is, and at most what a timer takes', () => {
  expect(checkNumbers({ reconnectMs: 0, kexecWaitMs: Number.POSITIVE_INFINITY, drainMs: MOST_MS + 1 })).toEqual({
    reconnectMs: 0,
    kexecWaitMs: MOST_MS,
    drainMs: MOST_MS,
  })
  const options = { accepts: ['store/1'], settleMs: 1.5, keepMs: 0, port: '8080', size: undefined }
  expect(checkNumbers(options)).toEqual(options)
})

test.each([Number.NaN, -2, Number.NEGATIVE_INFINITY, '', 'x', null, 1n])('%s is no number of anything', (wrong) => {
  for (const name of [...WAITS, ...COUNTS]) {
    if (typeof wrong === 'string' && ['port', 'backlog'].includes(name)) continue
    expect(() => checkNumbers({ [name]: wrong }), name).toThrow(new RegExp(`^${name} is ${wrong}: `))
    expect(codeOf(() => checkNumbers({ [name]: wrong }))).toBe('LUO_INVALID_PARAMETER')
  }
})

test('what is counted is whole, and not endless', () => {
  for (const name of COUNTS) {
    for (const wrong of [Number.POSITIVE_INFINITY, 1.5, 2 ** 54]) {
      expect(
        codeOf(() => checkNumbers({ [name]: wrong })),
        name,
      ).toBe('LUO_INVALID_PARAMETER')
    }
  }
  expect(codeOf(() => checkNumbers({ port: 65_536 }))).toBe('LUO_INVALID_PARAMETER')
})

test('an option that is undefined is one that was not given, in the types too', async () => {
  const none = undefined
  const live = await join({ workload: none, socket: none, accepts: none, after: none, keepMs: none, drainMs: none })
  const memory = await live.memory('store', { size: 10, max: none, format: none })
  expect([memory.size, memory.format]).toEqual([10, undefined])
  const server = createServer()
  await live.serve(server, { port: none, host: none, path: none, settleMs: none, longMs: none, movable: none })
  expect(server.listening).toBe(true)
  server.close()
})

test('a hook that is none, or for what never comes, is refused', async () => {
  const live = await join()
  const on = live.on.bind(live) as (name: string, hook: unknown) => Live
  expect(codeOf(() => on('prepared', () => {}))).toBe('LUO_INVALID_PARAMETER')
  expect(codeOf(() => on('constructor', () => {}))).toBe('LUO_INVALID_PARAMETER')
  expect(codeOf(() => on('prepare', undefined))).toBe('LUO_INVALID_PARAMETER')
  expect(() => on('prepared', () => {})).toThrow('for one of prepare, freeze, resume, released')
})

/** What `join` answers, and what stands for it in a test. */
interface AnyLive {
  memory(name: string, options: MemoryOptions): Promise<AnyMemory>
  replace(name: string, options: MemoryOptions): Promise<unknown>
  session(name: string, options?: SessionOptions): Promise<AnySession>
  serve(server: Server, options: { port?: number; settleMs?: number; longMs?: number; backlog?: number }): Promise<void>
  file(name: string, file: number | { readonly fd: number }): Promise<unknown>
  ready(): Promise<void>
  close(): Promise<void>
}

interface AnyMemory {
  grow(size: number): unknown
  window(offset: number, length: number): unknown
}

interface AnySession {
  preserve(token: Token, file: number | { readonly fd: number }): Promise<void>
  unpreserve(...tokens: Token[]): Promise<void>
  retrieve(token: Token): Promise<unknown>
}

/** Every call with a number that is none, by what the error has to begin with. */
function badCalls(live: AnyLive, memory: AnyMemory, session: AnySession): [string, () => unknown][] {
  const bad = Number.NaN
  return [
    ['size is', () => live.memory('new', { size: bad })],
    ['size is', () => live.memory('new', { size: 0 })],
    ['size is', () => live.memory('new', { size: 2 ** 46 })],
    ['size is', () => live.memory('forgotten', {} as { size: number })],
    ['max is', () => live.memory('store', { size: 1, max: bad })],
    ['max is', () => live.memory('store', { size: 2, max: 1 })],
    ['size is', () => live.replace('store', { size: Number.POSITIVE_INFINITY })],
    ['max is', () => live.replace('store', { size: 2, max: 1 })],
    ['keepMs is', () => live.session('cache', { keepMs: bad })],
    ['port is', () => live.serve(createServer(), { port: bad })],
    ['settleMs is', () => live.serve(createServer(), { port: 0, settleMs: bad })],
    ['longMs is', () => live.serve(createServer(), { port: 0, longMs: bad })],
    ['backlog is', () => live.serve(createServer(), { port: 0, backlog: -1 })],
    ['fd is', () => live.file('log', bad)],
    ['fd is', () => live.file('log', { fd: 1.5 })],
    ['size is', async () => memory.grow(bad)],
    ['size is', async () => memory.grow(0)],
    ['offset is', async () => memory.window(bad, 1)],
    ['length is', async () => memory.window(0, -1)],
    ['fd is', () => session.preserve(1, bad)],
    ['fd is', () => session.preserve(1, { fd: -2 })],
    ['the token 1.5 is', () => session.preserve(1.5, 0)],
    ['the token -1 is', () => session.unpreserve(-1n)],
    ['the token x is', () => session.retrieve('x')],
  ]
}

test.each(['a workload', 'no workload', 'a fake'])(
  'every call of %s names the number that is none, and luod is asked nothing',
  async (who) => {
    const asked: string[] = []
    const { handlers } = fakeMember()
    using luod = fakeLuod({
      ...handlers,
      Commit: () => ({ output: { released: 'none' } }),
      Preserve: ({ input }) => {
        asked.push(...input.files.map(({ token }) => token))
        return { output: {} }
      },
      CreateSession: ({ input: { name } }) => ({
        output: {
          session: { session: '1', name, uid: 0, custody: 'held', files: 0, bytes: '0', keep_ms: 0, age_ms: 0 },
          ...{ fds: 1, session_fd: 0 },
        },
        fds: [createMemfd('lifetime')],
      }),
    })
    const { socket } = luod
    const workload = who === 'a workload' ? 'web' : ''
    const live: AnyLive =
      who === 'a fake' ? fakeLive() : await join({ socket, workload, exitWhenReleased: false, keepMs: 0 })
    try {
      await live.ready()
      const memory = await live.memory('store', { size: 4096 })
      const session = await live.session('other')
      const before = asked.length
      for (const [begin, call] of badCalls(live, memory, session)) {
        const code = begin.startsWith('the token') ? 'EINVAL' : 'LUO_INVALID_PARAMETER'
        const failed = expect(call(), `${begin} in ${call}`).rejects
        await failed.toMatchObject({ code, message: expect.stringMatching(`^${begin} `) })
      }
      expect(asked).toHaveLength(before)
    } finally {
      await live.close()
    }
  },
)

test('so does whoever opens a session, joins, or tests an update', async () => {
  const socket = '/nonexistent/luod.sock'
  const bad = Number.NaN
  const calls: [string, () => Promise<unknown>][] = [
    ['keepMs', () => join({ socket, workload: 'web', keepMs: bad })],
    ['keepMs', () => join({ socket, workload: 'web', keepMs: Number.POSITIVE_INFINITY })],
    ['kexecWaitMs', () => join({ kexecWaitMs: bad })],
    ['keepMs', () => openSession('web', { socket, keepMs: bad })],
    ['reconnectMs', () => openSession('web', { socket, reconnectMs: -1 })],
    ['reconnectMs', () => adoptSession({ name: 'web' }, { socket, reconnectMs: bad })],
    ['fd', () => adoptSession({ fd: bad }, { socket })],
    ['deadlineMs', () => updateInTest({ from: ['false'], to: ['false'], deadlineMs: bad })],
    ['timeoutMs', () => updateInTest({ from: ['false'], to: ['false'], timeoutMs: bad })],
  ]
  for (const [name, call] of calls) {
    const failed = expect(call(), name).rejects
    await failed.toMatchObject({ code: 'LUO_INVALID_PARAMETER', message: expect.stringMatching(`^${name} is `) })
  }
})
