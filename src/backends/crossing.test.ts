import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { LuoError } from '../errors.js'
import { recreate } from '../handlers/by-value.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { createEventfd, eventfdState } from '../sys/eventfd.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { createMemfd, readAt, writeAt } from '../sys/memfd.js'
import { socketPair } from '../sys/unix.js'
import type { LiveDevice } from './contract.js'
import { handOver, IncomingSessions, MANIFEST_SESSION, SESSION_PREFIX, takeBack, VERSION_SESSION } from './crossing.js'
import { type Device, Generation } from './generation.js'

vi.mock('../handlers/by-value.js', async (original) => {
  const real = await original<typeof import('../handlers/by-value.js')>()
  return { ...real, recreate: vi.fn(real.recreate) }
})
const recreating = vi.mocked(recreate)

const records = Buffer.from('records')
let openBefore: number
let owned: { close(): void }[]
beforeEach(() => {
  openBefore = countOpenFds()
  owned = []
})
afterEach(() => {
  for (const thing of owned.reverse()) thing.close()
  expect(countOpenFds()).toBe(openBefore)
})

function own<T extends { close(): void }>(thing: T): T {
  owned.push(thing)
  return thing
}

function begin(before?: Generation): { generation: Generation; device: Device } {
  const handover = before ? { handover: before.kexec() } : {}
  const generation = own(Generation.begin({ register: registerReferenceHandlers, ...handover }))
  return { generation, device: own(generation.open()) }
}

function memory(text: string): Fd {
  const fd = own(createMemfd('store', { size: 4096 }))
  writeAt(fd, Buffer.from(text), 0)
  return fd
}

const file = (key: string, token: string, fd: Fd) => ({ key, token, file: { fd, info: fileInfo(fd) } })

function content() {
  const event = own(createEventfd({ counter: 5n, semaphore: true }))
  const sessions = [
    { session: '1', name: 'web', files: [file('1', '7', memory('in web')), file('2', '8', event)] },
    {
      session: '2',
      name: 'by value only',
      files: [file('3', '0', own(createEventfd({ counter: 2n, semaphore: false })))],
    },
    { session: '3', name: 'empty', files: [] },
  ]
  return { luod: '1', sessions, records }
}

function textOf(fd: Fd | undefined): string {
  const bytes = new Uint8Array(16)
  if (fd) readAt(fd, bytes, 0)
  return Buffer.from(bytes).toString().replace(/\0.*$/s, '')
}

test('memory, values, records and times come back, once', () => {
  const first = begin()
  const handed = own(handOver(first.device, content()))
  handed.note({ frozen: 17 })
  const { device } = begin(first.generation)
  const taken = takeBack(new IncomingSessions(device))
  owned.push({ close: () => closeAll(taken?.files.values() ?? []) })
  expect(taken?.lost).toEqual([])
  expect(taken?.records).toEqual(new Uint8Array(records))
  expect(taken?.crossing.times).toEqual({ frozen: 17 })
  expect(taken?.crossing.sessions.map(({ name }) => name)).toEqual([`${SESSION_PREFIX}1`, undefined, undefined])
  expect(textOf(taken?.files.get('1'))).toBe('in web')
  expect(eventfdState(taken?.files.get('2') as Fd)).toMatchObject({ counter: 5n, semaphore: true })
  expect(eventfdState(taken?.files.get('3') as Fd)).toMatchObject({ counter: 2n, semaphore: false })
  taken?.finish()
  expect(takeBack(new IncomingSessions(device))).toBeUndefined()
})

test('what was handed over is undone by closing it, and can be handed over again', () => {
  const { device } = begin()
  const all = content()
  handOver(device, all).close()
  handOver(device, all).close()
  expect(codeOf(() => device.createSession(MANIFEST_SESSION).close())).toBeUndefined()
})

test('what cannot cross is named, and nothing stays preserved', () => {
  const { device } = begin()
  const all = content()
  const [a, b] = socketPair()
  all.sessions.push({ session: '4', name: 'bad', files: [file('4', '9', own(a))] })
  own(b)
  expect(() => handOver(device, all)).toThrow(/file 9 of session bad/)
  all.sessions.pop()
  handOver(device, all).close()
})

test('a device that fails in the middle leaves nothing behind', () => {
  const { device } = begin()
  const failing: LiveDevice = {
    createSession: (name) => device.createSession(name === MANIFEST_SESSION ? '' : name),
    retrieveSession: (name) => device.retrieveSession(name),
    close: () => {},
    [Symbol.dispose]: () => {},
  }
  const all = content()
  expect(codeOf(() => handOver(failing, all))).toBe('EINVAL')
  handOver(device, all).close()
})

test('a session that is missing costs its memory only', () => {
  const first = begin()
  const handed = own(handOver(first.device, content()))
  handed.sessions[0]?.close()
  const { device } = begin(first.generation)
  const taken = takeBack(new IncomingSessions(device))
  owned.push({ close: () => closeAll(taken?.files.values() ?? []) })
  expect(taken?.lost.map(({ key, error }) => [key, error.code])).toEqual([['1', 'ENOENT']])
  expect([...(taken?.files.keys() ?? [])]).toEqual(['2', '3'])
  taken?.finish()
})

test('nothing comes back where nobody handed anything over', () => {
  expect(takeBack(new IncomingSessions(begin().device))).toBeUndefined()
})

test('another version is refused, and its manifest and its sessions are left to whoever knows it', () => {
  const first = begin()
  const handed = own(handOver(first.device, content()))
  for (const session of handed.sessions.slice(-2)) session.close()
  own(first.device.createSession(VERSION_SESSION)).preserve('0', memory('9.9 7.0.0'))
  own(first.device.createSession('luod-internal-9.9')).preserve('0', memory('what only 7.0.0 knows'))
  const { device } = begin(first.generation)
  expect(() => takeBack(new IncomingSessions(device))).toThrow(/luod 7\.0\.0 .* version 9\.9, /)
  expect(textOf(own(own(device.retrieveSession('luod-internal-9.9')).retrieve('0')))).toBe('what only 7.0.0 ')
  expect(textOf(own(own(device.retrieveSession(`${SESSION_PREFIX}1`)).retrieve('7')))).toBe('in web')
})

/** The device, and what retrieving a session throws for once. */
function failingOnce(device: Device, name: string, error: LuoError): LiveDevice {
  const errors = [error]
  return {
    createSession: (session) => device.createSession(session),
    retrieveSession: (session) => {
      const failure = session === name ? errors.pop() : undefined
      if (failure) throw failure
      return device.retrieveSession(session)
    },
    close: () => {},
    [Symbol.dispose]: () => {},
  }
}

test('want of memory or of descriptors costs no session, and no file that is made again: all of it can be tried again', () => {
  for (const code of ['ENOMEM', 'EMFILE', 'ENFILE'] as const) {
    const first = begin()
    own(handOver(first.device, content()))
    const { device } = begin(first.generation)
    const failing = failingOnce(device, `${SESSION_PREFIX}1`, new LuoError(code, 'take a session'))
    const incoming = own(new IncomingSessions(failing))
    expect(codeOf(() => takeBack(incoming))).toBe(code)
    for (const failed of [code, 'ENOBUFS'] as const) {
      recreating.mockImplementationOnce(() => {
        throw new LuoError(failed, 'make a file of kind eventfd again')
      })
      expect(codeOf(() => takeBack(incoming))).toBe(failed)
    }
    const taken = takeBack(incoming)
    owned.push({ close: () => closeAll(taken?.files.values() ?? []) })
    expect(taken?.lost).toEqual([])
    expect([...(taken?.files.keys() ?? [])]).toEqual(['1', '2', '3'])
    taken?.finish()
  }
})

test.each(['ENOMEM', 'ENFILE'] as const)(
  'what the kernel once failed to make of memory is lost: it says %s for ever',
  (code) => {
    const first = begin()
    own(handOver(first.device, content()))
    const { device } = begin(first.generation)
    const web = device.retrieveSession(`${SESSION_PREFIX}1`)
    const retrieve = () => {
      throw new LuoError(code, 'retrieve file 7')
    }
    const incoming = own(new IncomingSessions(device, [Object.assign(web, { retrieve })]))
    const taken = takeBack(incoming)
    owned.push({ close: () => closeAll(taken?.files.values() ?? []) })
    expect(taken?.lost.map(({ key, error }) => [key, error.code])).toEqual([['1', code]])
  },
)

test('what says what came over may have to wait for a descriptor; that the kernel has lost it is final', () => {
  const first = begin()
  own(handOver(first.device, content()))
  const { device } = begin(first.generation)
  const manifest = device.retrieveSession(MANIFEST_SESSION)
  const retrieve = manifest.retrieve.bind(manifest)
  const failing = (code: 'EMFILE' | 'ENFILE' | 'ENOMEM') => () => {
    throw new LuoError(code, 'retrieve file 0')
  }
  const incoming = own(new IncomingSessions(device, [Object.assign(manifest, { retrieve: failing('EMFILE') })]))
  expect(codeOf(() => takeBack(incoming))).toBe('EMFILE')
  for (const code of ['ENFILE', 'ENOMEM'] as const) {
    manifest.retrieve = failing(code)
    expect(() => takeBack(incoming)).toThrow(/for as long as it runs: retrieve file 0/)
    expect(codeOf(() => takeBack(incoming))).toBe('LUO_RECORDS')
    expect(incoming.taken).toContain(manifest)
  }
  manifest.retrieve = retrieve
  const taken = takeBack(incoming)
  owned.push({ close: () => closeAll(taken?.files.values() ?? []) })
  expect(taken?.lost).toEqual([])
  taken?.finish()
})
