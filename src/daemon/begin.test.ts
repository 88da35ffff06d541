import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { LiveDevice, LiveSession } from '../backends/contract.js'
import { handOver, VERSION_SESSION } from '../backends/crossing.js'
import { Generation } from '../backends/generation.js'
import { LuoError } from '../errors.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd, writeAt } from '../sys/memfd.js'
import { socketPair } from '../sys/unix.js'
import { Beginning } from './backend.js'
import { beginAtLast, endArrival } from './begin.js'
import { MACHINE } from './kexec-system.js'
import { OtherVersionNote } from './other-version.js'
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

describe('what is of another version', () => {
  const register = registerReferenceHandlers
  const about = { adoptSession: () => expect.unreachable(), system: MACHINE }
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'luo-begin-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  /** A kernel into which a luod 7.0.0 has handed over. */
  function crossed(): Generation {
    const before = Generation.begin({ register })
    const device = before.open()
    for (const [name, text] of [
      [VERSION_SESSION, '9.9 7.0.0'],
      ['luod-internal-9.9', 'what only 7.0.0 knows'],
    ] as const) {
      using file = createMemfd('version', { size: 4096 })
      writeAt(file, Buffer.from(text), 0)
      device.createSession(name).preserve('0', file)
    }
    const generation = Generation.begin({ register, handover: before.kexec() })
    before.close()
    return generation
  }

  /** The error of a luod that begins, and ends with it. */
  function begin(generation: Generation, note: OtherVersionNote): LuoError {
    const beginning = new Beginning({ device: generation.open(), ...about }, [], note)
    const [listener, other] = socketPair()
    other.close()
    try {
      beginning.begin(listener, {} as Parameters<Beginning['begin']>[1])
      return expect.unreachable()
    } catch (error) {
      return error as LuoError
    } finally {
      beginning.close()
    }
  }

  test('is refused each time that luod is started, until the note is removed', () => {
    const generation = crossed()
    const note = new OtherVersionNote(join(folder, 'luod.sock'))
    const first = begin(generation, note)
    expect(first).toMatchObject({ code: 'LUO_RECORDS_VERSION', message: expect.stringMatching(/start luod 7\.0\.0/) })
    for (const _ of ['again', 'and again']) {
      const { code, message } = begin(generation, note)
      expect([code, message]).toEqual([first.code, expect.stringContaining(`${first.message}, as a luod before`)])
      expect(message).toContain(`remove ${folder}/luod.sock.other-version`)
    }
    // Under another kernel it says nothing, and nor does one that others could have made.
    expect(new OtherVersionNote(join(folder, 'luod.sock'), () => 'another').read()).toBeUndefined()
    note.remove()
    symlinkSync('/proc/self/mounts', note.path)
    expect(note.read()).toBeUndefined()
    generation.close()
  })

  test('is refused by a luod that can leave no note too, and it says what that means', () => {
    const generation = crossed()
    const note = new OtherVersionNote(join(folder, 'nowhere/luod.sock'))
    expect(begin(generation, note)).toMatchObject({
      code: 'LUO_RECORDS_VERSION',
      message: expect.stringMatching(/start luod 7\.0\.0.*Do not start this one again.*ENOENT/),
    })
    generation.close()
  })

  test('is no matter any more once a luod has taken it back', () => {
    const note = new OtherVersionNote(join(folder, 'luod.sock'))
    note.write('another one')
    const before = Generation.begin({ register })
    const records = Buffer.from('records')
    using _handed = handOver(before.open(), { luod: '1', sessions: [], records })
    const generation = Generation.begin({ register, handover: before.kexec() })
    // It cannot begin with these records; that it could read them is enough.
    expect(begin(generation, note).message).not.toContain('another one')
    expect(note.read()).toBeUndefined()
    generation.close()
    before.close()
  })
})

test('the sessions of the kernel stay when the store may not have what was in them', () => {
  const finish = vi.fn(() => [new LuoError('EIO', 'finish one')])
  const log: string[] = []
  endArrival({ arrived: true, finish }, true, (level, message) => log.push(`${level}: ${message}`))
  expect(finish).not.toHaveBeenCalled()
  expect(log.splice(0)).toEqual([expect.stringMatching(/^error: keep the kernel's sessions/)])
  endArrival({ arrived: true, finish }, false, (level, message) => log.push(`${level}: ${message}`))
  expect(finish).toHaveBeenCalledOnce()
  expect(log).toEqual(['warning: finish one (EIO)'])
})

test.each([
  ['EMFILE', /nothing is lost as long as it runs, and it tries again in 0\.001 s$/],
  ['LUO_RECORDS', /that does not pass in this kernel: luod keeps what it has until it is given up/],
] as const)('a luod that stays says what of, and whether that may pass: %s', async (code, words) => {
  const [listener, other] = socketPair()
  const begun = { daemon: {}, arrived: true, finish: () => [] } as unknown as ReturnType<Beginning['begin']>
  let attempts = 0
  const begin = (fd: Fd) => {
    fd.close()
    if (attempts++ > 0) return begun
    throw new LuoError(code, 'take back what came over')
  }
  const beginning = { holds: [{ name: VERSION_SESSION }], begin } as unknown as Beginning
  const log: string[] = []
  const options = {
    ...{ version: '1', nofile: 1000, limits: userLimits({}, { nofile: 1000, shared: true, memory: 2 ** 30 }) },
    log: (_: string, message: string) => log.push(message),
  } as unknown as Parameters<typeof beginAtLast>[0]['options']
  const received = { entries: new Map(), others: [], outdated: [] }
  without.descriptors = true
  try {
    expect(await beginAtLast({ beginning, listener, options, received, firstRetryMs: 1, env: {} })).toBe(begun)
  } finally {
    without.descriptors = false
  }
  expect(log[0]).toMatch(words)
  listener.close()
  other.close()
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
