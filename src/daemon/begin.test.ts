import { expect, test, vi } from 'vitest'
import type { LiveDevice, LiveSession } from '../backends/contract.js'
import { VERSION_SESSION } from '../backends/crossing.js'
import { Generation } from '../backends/generation.js'
import { LuoError } from '../errors.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd, writeAt } from '../sys/memfd.js'
import { socketPair } from '../sys/unix.js'
import { Beginning } from './backend.js'
import { beginAtLast } from './begin.js'
import { MACHINE } from './kexec-system.js'
import { userLimits } from './user-limits.js'

const without = vi.hoisted(() => ({ descriptors: false }))
vi.mock('../wire/server.js', async (original) => {
  const real = await original<typeof import('../wire/server.js')>()
  class Server extends real.Server {
    constructor(options: ConstructorParameters<typeof real.Server>[0]) {
      if (without.descriptors) throw new LuoError('EMFILE', 'make a pair of sockets')
      super(options)
    }
  }
  return { ...real, Server }
})

/** Sessions that cost a descriptor, as the kernel's do. */
function withDescriptor(session: LiveSession, closed: string[]): LiveSession {
  const descriptor = createMemfd('session')
  const close = () => {
    closed.push(session.name)
    descriptor.close()
    session.close()
  }
  return Object.assign(Object.create(session) as LiveSession, {
    retrieve: (token: string) => session.retrieve(token),
    close,
    [Symbol.dispose]: close,
  })
}

test('a luod that cannot begin with what came over closes all that it has taken of it, once', async () => {
  const register = registerReferenceHandlers
  const openBefore = countOpenFds()
  const before = Generation.begin({ register })
  const first = before.open()
  const session = first.createSession(VERSION_SESSION)
  {
    using text = createMemfd('version', { size: 4096 })
    writeAt(text, Buffer.from('9.9 7.0.0'), 0)
    session.preserve('0', text)
  }
  const generation = Generation.begin({ register, handover: before.kexec() })
  const device = generation.open()
  const closed: string[] = []
  const kernel: LiveDevice = {
    createSession: (name) => device.createSession(name),
    retrieveSession: (name) => withDescriptor(device.retrieveSession(name), closed),
    close: () => {
      closed.push('device')
      device.close()
    },
    [Symbol.dispose]: () => device.close(),
  }
  const adoptSession = () => session
  const beginning = new Beginning({ device: kernel, adoptSession, system: MACHINE })
  const [listener, other] = socketPair()
  other.close()
  const received = { entries: new Map(), others: [], outdated: [] }
  const options = {} as Parameters<typeof beginAtLast>[0]['options']
  await expect(beginAtLast({ beginning, listener, options, received, env: {} })).rejects.toMatchObject({
    code: 'LUO_RECORDS_VERSION',
  })
  expect(closed).toEqual([VERSION_SESSION, 'device'])
  listener.close()
  generation.close()
  before.close()
  expect(countOpenFds()).toBe(openBefore)
})

test('a luod that waits without descriptors to answer anybody with loses none by each attempt', async () => {
  const openBefore = countOpenFds()
  const [listener, other] = socketPair()
  const open: number[] = []
  const begun = { daemon: {}, arrived: true, finish: () => [] } as unknown as ReturnType<Beginning['begin']>
  const beginning = {
    holds: [{ name: VERSION_SESSION }],
    begin: (fd: Fd) => {
      fd.close()
      if (open.push(countOpenFds()) === 4) return begun
      throw new LuoError('EMFILE', 'take back what came over')
    },
  } as unknown as Beginning
  const log: string[] = []
  const options = {
    ...{ version: '1', nofile: 1000, limits: userLimits({}, { nofile: 1000, shared: true, memory: 2 ** 30 }) },
    log: (_: string, message: string) => log.push(message),
  } as unknown as Parameters<typeof beginAtLast>[0]['options']
  without.descriptors = true
  const received = { entries: new Map(), others: [], outdated: [] }
  try {
    expect(await beginAtLast({ beginning, listener, options, received, firstRetryMs: 1, env: {} })).toBe(begun)
  } finally {
    without.descriptors = false
  }
  expect(log.filter((line) => line.includes('answer in the meantime: '))).toHaveLength(3)
  expect(open).toEqual(open.map(() => open[0]))
  listener.close()
  other.close()
  expect(countOpenFds()).toBe(openBefore)
})
