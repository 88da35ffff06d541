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
import { Probe } from '../fuzz/clients.js'
import { seed, tryTarget } from '../fuzz/try.js'
import { type Answer, HostileLuod, type Part } from '../hostile-luod.js'
import { compile, HERE } from './build.js'

const answer = (...parts: Part[]): Answer => ({ parts })
const reply = (parameters: object, files = 0): Answer => answer([`${JSON.stringify({ parameters })}\0`, files])
const JOINED = { member: '1', session: '2', origin: 'update', fds: 1, session_fd: 0 }
const SUBSCRIBED = answer([`${JSON.stringify({ parameters: { event: 'subscribed' }, continues: true })}\0`])
const joined = reply(JOINED, 1)
const claim = (parameters: object, files = 0): Answer[] => [joined, SUBSCRIBED, reply(parameters, files)]
const file = (more: object) => ({ token: '1', kind: 'memfd', compatible: 'x', ...more })
/** After the subscription, without being asked. */
const events = (...parts: Part[]): Answer[] => [joined, { parts: [...SUBSCRIBED.parts, ...parts], close: true }]

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
let luod: HostileLuod | undefined
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-hostile-'))
})
afterEach(() => luod?.close())
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** Of made-up scripts. */
const RUNS = 100

describe.each([
  ['C', () => [compile(join(HERE, 'probe.c'), folder, 'probe')]],
  ['Python', () => ['python3', join(HERE, 'probe.py')]],
])('the client in %s, and a luod that sends', (client, prepare) => {
  let command: string[]
  let probe: ChildProcess
  let lines: AsyncIterator<string>
  let complaints = ''
  beforeAll(() => {
    command = prepare()
    const [program = '', ...args] = command
    probe = spawn(program, args, { stdio: 'pipe' })
    probe.stderr?.on('data', (data) => {
      complaints += data
    })
    if (probe.stdout) lines = createInterface({ input: probe.stdout })[Symbol.asyncIterator]()
  })
  afterAll(() => void probe.kill('SIGKILL'))

  test.each(CASES)('%s', async (_, what, answers, code) => {
    luod = new HostileLuod(join(folder, `${process.hrtime.bigint()}.sock`), answers)
    probe.stdin?.write(`${luod.path} ${what}\n`)
    expect({ ...(await lines.next()), complaints }).toEqual({ done: false, value: `${code}, 0 left`, complaints: '' })
  })

  test('nothing at all, and then the program ends without a leak', async () => {
    probe.stdin?.end(`${join(folder, 'nobody.sock')} call\n`)
    expect((await lines.next()).value).toBe('LUO_NO_DAEMON, 0 left')
    expect(await once(probe, 'exit')).toEqual([0, null])
    expect(complaints).toBe('')
  })

  test(`anything at all (seed ${seed})`, async () => {
    await using target = new Probe(command)
    await tryTarget(client.toLowerCase(), target, RUNS)
  })
})
