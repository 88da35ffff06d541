/**
 * The clients in C and Python against a luod that breaks every rule: each time a typed error, and no descriptor and no
 * memory left (the program in C is built with the sanitizers, which end it with an error).
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { Poller, type Registration } from '../../src/sys/poller.js'
import { acceptUnix, listenUnix, receive, send } from '../../src/sys/unix.js'
import { compile, HERE } from './build.js'

const MODE = 0o600

/** What the fake luod sends: bytes with so many files, one after the other. */
type Part = readonly [bytes: string | Buffer, files?: number]
/** `close`: and then it closes the connection. */
interface Answer {
  parts: readonly Part[]
  close?: boolean
}

const answer = (...parts: Part[]): Answer => ({ parts })
const reply = (parameters: object, files = 0): Answer => answer([`${JSON.stringify({ parameters })}\0`, files])
const JOINED = { member: '1', session: '2', origin: 'update', fds: 1, session_fd: 0 }
const SUBSCRIBED = answer([`${JSON.stringify({ parameters: { event: 'subscribed' }, continues: true })}\0`])
const joined = reply(JOINED, 1)
const claim = (parameters: object, files = 0): Answer[] => [joined, SUBSCRIBED, reply(parameters, files)]
const file = (more: object) => ({ token: '1', kind: 'memfd', compatible: 'x', ...more })
/** After the subscription, without being asked. */
const events = (...parts: Part[]): Answer[] => [joined, { parts: [...SUBSCRIBED.parts, ...parts], close: true }]

/** A luod that answers the n-th request, on whatever connection, with the n-th answer. */
class FakeLuod {
  readonly path: string
  readonly #listener: Fd
  readonly #registrations = new Map<Registration, Fd>()
  readonly #answers: Answer[]

  constructor(path: string, answers: readonly Answer[]) {
    this.path = path
    this.#answers = [...answers]
    this.#listener = listenUnix(path, MODE)
    this.#watch(this.#listener, () => this.#accept())
  }

  #watch(fd: Fd, onReadable: (stop: () => void) => void): void {
    const registration: Registration = Poller.shared().add(fd, { read: true, write: false }, () =>
      onReadable(() => this.#close(registration)),
    )
    this.#registrations.set(registration, fd)
  }

  #accept(): void {
    for (let fd = acceptUnix(this.#listener); fd; fd = acceptUnix(this.#listener)) {
      const connection = fd
      this.#watch(connection, (stop) => this.#serve(connection, stop))
    }
  }

  /** Requests are short: each comes as a whole. */
  #serve(fd: Fd, stop: () => void): void {
    try {
      const got = receive(fd)
      if (!got) return
      closeAll(got.fds)
      if (got.bytes.length === 0) return stop()
      const next = this.#answers.shift()
      for (const part of next?.parts ?? []) sendPart(fd, part)
      if (next?.close) stop()
    } catch {
      // It has closed, with good reason.
      stop()
    }
  }

  #close(registration: Registration): void {
    registration.close()
    this.#registrations.get(registration)?.close()
    this.#registrations.delete(registration)
  }

  close(): void {
    for (const registration of [...this.#registrations.keys()]) this.#close(registration)
  }
}

function sendPart(fd: Fd, [bytes, files = 0]: Part): void {
  const data = Buffer.from(bytes)
  const memory = createMemfd('hostile', { size: 1 })
  try {
    let sent = send(fd, data, Array(files).fill(memory))
    // The client has a large buffer or reads; else it has closed.
    for (let tries = 0; sent < data.length && tries < 1_000; tries++) {
      const more = send(fd, data.subarray(sent), [])
      if (more === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
      sent += more
    }
  } finally {
    memory.close()
  }
}

const MIB = 1024 * 1024
const broken = 'LUO_PROTOCOL'

const CASES: readonly [title: string, what: string, answers: readonly Answer[], code: string][] = [
  ['no JSON', 'call', [answer(['this is not JSON\0'])], broken],
  ['nothing but its end', 'call', [answer(['\0'])], broken],
  ['half an object', 'call', [answer(['{"parameters":{"a":[1,2\0'])], broken],
  ['an object and more', 'call', [answer(['{} {}\0'])], broken],
  ['a list', 'call', [answer(['[1]\0'])], broken],
  ['lists in lists without end', 'call', [answer([`{"parameters":{"a":${'['.repeat(500_000)}\0`])], broken],
  ['objects in objects', 'call', [answer([`{"parameters":${'{"a":'.repeat(150_000)}\0`])], broken],
  ['a string without end', 'call', [answer(['{"parameters":{"a":"b\0'])], broken],
  ['an escape that is none', 'call', [answer(['{"parameters":{"a":"\\x"}}\0'])], broken],
  ['half a surrogate pair', 'call', [answer(['{"parameters":{"a":"\\ud83d"}}\0'])], broken],
  ['bytes that are no UTF-8', 'call', [answer([Buffer.from('7b2261223a22c328227d00', 'hex')])], broken],
  ['a number with two points', 'call', [answer(['{"parameters":{"a":1.2.3}}\0'])], broken],
  ['a number that is none', 'call', [answer(['{"parameters":{"a":NaN}}\0'])], broken],
  ['a number of files with 300 digits', 'call', [answer([`{"parameters":{"fds":${'9'.repeat(300)}}}\0`])], broken],
  ['parameters that are a list', 'call', [answer(['{"parameters":[]}\0'])], broken],
  ['an error that is a number', 'call', [answer(['{"error":1}\0'])], broken],
  ['an error without a code', 'call', [answer(['{"error":"x.Y","parameters":{"code":7}}\0'])], 'LUO_UNSUPPORTED'],
  [
    'a code that is none',
    'call',
    [answer(['{"error":"x.Y","parameters":{"code":"rm -rf","message":""}}\0'])],
    'LUO_UNSUPPORTED',
  ],
  ['a message without end', 'call', [answer(['{"parameters":{"a":"'], ['b'.repeat(3 * MIB)])], broken],
  ['a message that is too long', 'call', [answer([`{"parameters":{"a":"${'b'.repeat(MIB)}"}}\0`])], broken],
  ['files declared that do not come', 'call', [reply({ fds: 1 })], broken],
  ['fewer files than declared', 'call', [reply({ fds: 3 }, 2)], broken],
  ['files that nobody declared', 'call', [reply({}, 2)], broken],
  ['more files than declared', 'call', [reply({ fds: 1 }, 2)], broken],
  ['a negative number of files', 'call', [reply({ fds: -1 }, 1)], broken],
  ['files as text', 'call', [reply({ fds: '1' }, 1)], broken],
  ['half a file', 'call', [reply({ fds: 0.5 }, 1)], broken],
  ['files without end', 'call', [answer(['{', 253], ['"a":', 253], ['1}\0'])], broken],
  ['many files in an unfinished message', 'call', [{ parts: [['{', 253]], close: true }], 'LUO_GONE'],
  ['a connection that ends', 'call', [{ parts: [], close: true }], 'LUO_GONE'],
  ['a connection that ends in a message', 'call', [{ parts: [['{"parameters":']], close: true }], 'LUO_GONE'],
  ['no answer', 'late', [answer()], 'LUO_DEADLINE'],
  ['half an answer', 'late', [answer(['{"parameters":{', 5])], 'LUO_DEADLINE'],
  ['a join without a session', 'join', [reply({ ...JOINED, session: undefined }, 1)], broken],
  ['a join without a descriptor', 'join', [reply({ ...JOINED, fds: 0 })], broken],
  ['a join whose descriptor is another one', 'join', [reply({ ...JOINED, session_fd: 7 }, 1)], broken],
  ['a join without a member', 'join', [reply({ ...JOINED, member: 5 }, 1)], broken],
  ['an origin that is none', 'join', [reply({ ...JOINED, origin: 'heaven' }, 1)], broken],
  ['a subscription that ends', 'join', [joined, reply({ event: 'subscribed' })], broken],
  [
    'a subscription that is refused',
    'join',
    [joined, answer(['{"error":"a.B","parameters":{"code":"EPERM","message":"no"}}\0'])],
    'EPERM',
  ],
  ['a claim of nothing', 'claim', claim({ session: '2', files: [], total: 0, sessions: [], fds: 0 }), 'fine'],
  ['a token that is negative', 'claim', claim({ session: '2', files: [file({ token: '-1' })], fds: 1 }, 1), broken],
  [
    'a token of 65 bits',
    'claim',
    claim({ session: '2', files: [file({ token: '18446744073709551616' })], fds: 1 }, 1),
    broken,
  ],
  ['a token that is a number', 'claim', claim({ session: '2', files: [file({ token: 1 })], fds: 1 }, 1), broken],
  ['a file that is a text', 'claim', claim({ session: '2', files: ['x'], fds: 1 }, 1), broken],
  ['a session that is a number', 'claim', claim({ session: '2', files: [], sessions: [3], fds: 0 }), broken],
  [
    'prepare',
    'events',
    events(['{"parameters":{"event":"prepare","update":"1","deadline_ms":5},"continues":true}\0']),
    'event 1',
  ],
  [
    'prepare in one go with the subscription, and then nothing',
    'events',
    [
      joined,
      answer([
        [{ event: 'subscribed' }, { event: 'prepare', update: '1' }]
          .map((parameters) => `${JSON.stringify({ parameters, continues: true })}\0`)
          .join(''),
      ]),
    ],
    'event 1',
  ],
  [
    'an event that is not known, then release',
    'events',
    events(['{"parameters":{"event":"wobble"},"continues":true}\0'], ['{"parameters":{"event":"release"}}\0']),
    'event 3',
  ],
  [
    'events without end that mean nothing',
    'events',
    events(['{"parameters":{"event":"wobble"},"continues":true}\0'.repeat(5_000)]),
    broken,
  ],
  ['prepare for no update', 'events', events(['{"parameters":{"event":"prepare"},"continues":true}\0']), broken],
  ['an event without a name', 'events', events(['{"parameters":{}}\0']), broken],
  ['an event with files', 'events', events(['{"parameters":{"event":"resume","fds":3}}\0', 3]), 'event 2'],
  ['an error as an event', 'events', events(['{"error":"a.B"}\0']), broken],
  ['no more events', 'events', events(), 'event 4'],
]

let folder: string
let luod: FakeLuod | undefined
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-hostile-'))
  Poller.shared().ref()
})
afterEach(() => luod?.close())
afterAll(() => {
  Poller.shared().unref()
  rmSync(folder, { recursive: true, force: true })
})

describe.each([
  ['C', () => [compile(join(HERE, 'probe.c'), folder, 'probe')]],
  ['Python', () => ['python3', join(HERE, 'probe.py')]],
])('the client in %s, and a luod that sends', (_, command) => {
  let probe: ChildProcess
  let lines: AsyncIterator<string>
  let complaints = ''
  beforeAll(() => {
    const [program = '', ...args] = command()
    probe = spawn(program, args, { stdio: 'pipe' })
    probe.stderr?.on('data', (data) => {
      complaints += data
    })
    if (probe.stdout) lines = createInterface({ input: probe.stdout })[Symbol.asyncIterator]()
  })
  afterAll(() => void probe.kill('SIGKILL'))

  test.each(CASES)('%s', async (_, what, answers, code) => {
    luod = new FakeLuod(join(folder, `${process.hrtime.bigint()}.sock`), answers)
    probe.stdin?.write(`${luod.path} ${what}\n`)
    expect({ ...(await lines.next()), complaints }).toEqual({ done: false, value: `${code}, 0 left`, complaints: '' })
  })

  test('nothing at all, and then the program ends without a leak', async () => {
    probe.stdin?.end(`${join(folder, 'nobody.sock')} call\n`)
    expect((await lines.next()).value).toBe('LUO_NO_DAEMON, 0 left')
    expect(await once(probe, 'exit')).toEqual([0, null])
    expect(complaints).toBe('')
  })
})
