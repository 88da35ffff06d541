/** What a workload does when a kexec asks it to let go, against a luod that only notes down what it is told. */
import { fstatSync } from 'node:fs'
import { Agent, createServer, request } from 'node:http'
import { afterEach, describe, expect, test } from 'vitest'
import { fakeLuod, fakeMember } from '../../test/fake-luod.js'
import { until } from '../../test/until.js'
import type { FileIn, Methods } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { createMemfd, getSeals } from '../sys/memfd.js'
import { type JoinOptions, join, Refusal, type UpdateInfo } from './index.js'

type Event = Methods['Subscribe']['output']

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

/** A running workload with a server, its luod, and a client with one connection. */
async function running(
  prepare: (info: UpdateInfo) => unknown = () => {},
  wait: Pick<JoinOptions, 'reconnectMs' | 'kexecWaitMs'> = { reconnectMs: 0 },
) {
  const { handlers, say } = fakeMember()
  const told: { method: string; files: readonly FileIn[]; tokens: readonly string[]; reason: string }[] = []
  const note = (method: string, input: { files?: FileIn[]; tokens?: string[]; reason?: string }) => {
    told.push({ method, files: input.files ?? [], tokens: input.tokens ?? [], reason: input.reason ?? '' })
    return { output: {} }
  }
  const luod = fakeLuod({
    ...handlers,
    Preserve: ({ input, fds }) => {
      for (const { fd, until } of input.files) {
        const { number } = fds[fd] as Fd
        if (until === undefined && fstatSync(number).isFile()) sealed.push(getSeals(fds[fd] as Fd).has('exec'))
      }
      return note('Preserve', input)
    },
    Unpreserve: ({ input }) => note('Unpreserve', input),
    Commit: () => ({ output: { released: 'none' } }),
    Ready: ({ input }) => note('Ready', { files: input.files ?? [] }),
    Refuse: ({ input }) => note('Refuse', input),
  })
  const sealed: boolean[] = []
  closing.push(() => luod[Symbol.dispose]())
  const live = await join({ workload: 'web', socket: luod.socket, exitWhenReleased: false, ...wait })
  closing.push(() => live.close())
  const heard: string[] = []
  live.on('prepare', prepare)
  live.on('freeze', ({ purpose }) => heard.push(`freeze for ${purpose}`))
  live.on('resume', () => heard.push('resume'))
  const memory = await live.memory('store', { size: 4096 })
  using scratch = createMemfd('scratch')
  await live.file('scratch', scratch.number, { until: 'update' })
  const server = createServer((_, response) => response.end('hello'))
  await live.serve(server, { port: 0, host: '127.0.0.1' })
  await live.ready()
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  closing.push(() => agent.destroy())
  const { port } = server.address() as { port: number }
  const ask = () =>
    new Promise<{ body: string; reused: boolean }>((resolve, reject) => {
      const asked = request({ port, host: '127.0.0.1', agent }, (response) => {
        let body = ''
        response.on('data', (data) => {
          body += data
        })
        response.on('end', () => resolve({ body, reused: asked.reusedSocket }))
      })
      asked.once('error', reject).end()
    })
  const last = (method: string) => told.findLast((one) => one.method === method)
  return { luod, say, told, last, heard, memory, ask, sealed }
}

const prepare = (update: string, purpose?: 'update' | 'kexec'): Event => ({
  event: 'prepare',
  update,
  deadline_ms: 5_000,
  ...(purpose ? { purpose } : {}),
})

test('for a kexec no connection is handed over, and after its undo each goes on where it was', async () => {
  const { say, last, heard, memory, ask } = await running()
  expect(await ask()).toEqual({ body: 'hello', reused: false })
  say(prepare('k', 'kexec'))
  await until(() => last('Ready') !== undefined, 'ready')
  expect(last('Ready')?.files).toEqual([])
  expect(heard).toEqual(['freeze for kexec'])
  // Held still, and answered when it goes on: on the same connection.
  const waiting = ask()
  new Uint8Array(memory.buffer)[0] = 9
  say({ event: 'resume', update: 'k', reason: 'a dry run' })
  expect(await waiting).toEqual({ body: 'hello', reused: true })
  expect(heard).toEqual(['freeze for kexec', 'resume'])
  // What is written while it is frozen vanishes, as in an update.
  expect(new Uint8Array(memory.buffer)[0]).toBe(0)
})

test('an update says that its connections are for updates only; what it left in luod goes before a kexec', async () => {
  const { say, told, last, ask } = await running()
  await ask()
  say(prepare('u'))
  await until(() => last('Ready') !== undefined, 'ready')
  const [connection, ...others] = last('Ready')?.files ?? []
  expect([connection?.until, others]).toEqual(['update', []])
  say({ event: 'resume', update: 'u', reason: 'rolled back' })
  // At once: whichever comes first takes the connection back, and once.
  say(prepare('k', 'kexec'))
  await until(() => told.filter(({ method }) => method === 'Ready').length === 2, 'ready once more')
  const order = told
    .slice(told.findIndex(({ method }) => method === 'Ready'))
    .map(({ method, tokens }) => [method, tokens])
  expect(order).toEqual([
    ['Ready', []],
    ['Unpreserve', [connection?.token]],
    ['Ready', []],
  ])
  expect(last('Ready')?.files).toEqual([])
})

test('a hook learns the purpose, and can refuse a kexec alone', async () => {
  const { say, last } = await running(({ purpose }) => {
    if (purpose === 'kexec') throw new Refusal('not on this machine')
  })
  say(prepare('u', 'update'))
  await until(() => last('Ready') !== undefined, 'ready')
  say({ event: 'resume', update: 'u', reason: 'rolled back' })
  say(prepare('k', 'kexec'))
  await until(() => last('Refuse') !== undefined, 'a refusal')
  expect(last('Refuse')?.reason).toBe('not on this machine')
})

test('a file may be for updates only; memory and the manifest are such that a kernel gives them back writable', async () => {
  const { told, sealed } = await running()
  const files = told.flatMap(({ method, files }) => (method === 'Preserve' ? files : []))
  expect(files.filter(({ until }) => until === 'update')).toHaveLength(1)
  expect(sealed).toEqual([false, false])
})

describe('luod ends when it has the word for a kexec', () => {
  const frozen = async (wait: Pick<JoinOptions, 'reconnectMs' | 'kexecWaitMs'>) => {
    const workload = await running(() => {}, wait)
    workload.say(prepare('k', 'kexec'))
    await until(() => workload.last('Ready') !== undefined, 'ready')
    workload.luod[Symbol.dispose]()
    return workload
  }

  test('nothing goes on while it is away, and all of it when another one knows of no kexec', async () => {
    const { luod, heard } = await frozen({ reconnectMs: 20 })
    // Long after an update would have been given up.
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(heard).toEqual(['freeze for kexec'])
    const next = fakeLuod({}, luod.socket)
    closing.push(() => next[Symbol.dispose]())
    await until(() => heard.includes('resume'), 'it goes on')
  })

  test('nothing goes on as long as it is away, where that is said', async () => {
    const { heard } = await frozen({ reconnectMs: 0, kexecWaitMs: Number.POSITIVE_INFINITY })
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(heard).toEqual(['freeze for kexec'])
  })

  test('it goes on alone when its time is over', async () => {
    const { heard } = await frozen({ reconnectMs: 0, kexecWaitMs: 50 })
    await until(() => heard.includes('resume'), 'it goes on')
  })
})
