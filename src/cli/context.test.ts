import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type FakeLuod, fakeLuod } from '../../test/fake-luod.js'
import { isLuoError, LuoError } from '../errors.js'
import { socketPath } from '../wire/socket-path.js'
import { connect, EXIT, exitCodeOf, reportError } from './context.js'
import { listCommand } from './list.js'
import { updateCommand, updateExitCode } from './update.js'
import { logicalDirectory, startWorkload, workloadEnvironment } from './workload-process.js'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luoctl-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const fakeOptions = () => ({ workload: 'web', socket: join(folder, 's'), directory: folder })

test('the socket path is the option, else LUO_SOCKET, else one that fits the user', () => {
  expect(socketPath('/a/b', { LUO_SOCKET: '/c' }, 5)).toBe('/a/b')
  expect(socketPath(undefined, { LUO_SOCKET: '/c' }, 5)).toBe('/c')
  expect(socketPath(undefined, {}, 0)).toBe('/run/luod/liveupdate.sock')
  expect(socketPath(undefined, { XDG_RUNTIME_DIR: '/run/user/5' }, 5)).toBe('/run/user/5/luod/liveupdate.sock')
  expect(socketPath(undefined, {}, 5)).toBe('/tmp/luod-5/liveupdate.sock')
  expect(socketPath('x.sock', {}, 5)).toBe(join(process.cwd(), 'x.sock'))
})

test('an empty path is no socket, and not the usual one', () => {
  expect(() => socketPath('', { LUO_SOCKET: '/c' }, 5)).toThrow(/is empty/)
  expect(socketPath(undefined, { LUO_SOCKET: '' }, 5)).toBe('/tmp/luod-5/liveupdate.sock')
})

test('a socket path of more than 107 bytes is refused by name', () => {
  expect(() => socketPath(`/${'é'.repeat(60)}`, {}, 5)).toThrow(/121 bytes/)
})

test('exit codes follow the kind of failure', () => {
  expect(exitCodeOf(new LuoError('LUO_NO_DAEMON', 'x'))).toBe(EXIT.NO_DAEMON)
  expect(exitCodeOf(new LuoError('LUO_INVALID_PARAMETER', 'x'))).toBe(EXIT.USAGE)
  expect(exitCodeOf(new LuoError('LUO_UPDATING', 'x'))).toBe(EXIT.FAILED)
  expect(exitCodeOf(new Error('x'))).toBe(EXIT.FAILED)
  expect((['committed', 'checked', 'rolledBack', 'orphaned'] as const).map(updateExitCode)).toEqual([0, 0, 3, 3])
})

test('with --json an error is one line of JSON', () => {
  const lines: string[] = []
  reportError(new LuoError('LUO_GONE', 'gone'), true, (line) => lines.push(line))
  expect(lines.map((line) => JSON.parse(line))).toEqual([{ error: { code: 'LUO_GONE', message: 'gone' } }])
})

test('a luod that ends for good is LUO_NO_DAEMON, a process that it says has ended is not', async () => {
  const phase = { phase: 'starting', at_ms: 1 } as const
  const says = async (end: (luod: FakeLuod) => unknown, update = false) => {
    const luod: FakeLuod = fakeLuod({
      List: () => end(luod) as never,
      Update: ({ reply }) => {
        reply({ update: 'u', phase })
        return end(luod) as never
      },
    })
    const context = { json: true, socket: luod.socket, reconnectMs: 0, out: () => {}, err: () => {} }
    try {
      const asked = update ? updateCommand(context, { workload: 'web' }) : listCommand(context)
      return await asked.catch((error: LuoError) => `${error.code} ${error.message}`)
    } finally {
      luod[Symbol.dispose]()
    }
  }
  const ends = (luod: FakeLuod) => {
    luod[Symbol.dispose]()
    return new Promise(() => {})
  }
  const refuses = () => {
    throw new LuoError('LUO_GONE', 'the old version has ended')
  }
  expect(await says(ends)).toMatch(/^LUO_NO_DAEMON List: the connection to luod has ended/)
  expect(await says(ends, true)).toMatch(/^LUO_NO_DAEMON update web: luod has ended, and did not say how .*one version/)
  expect(await says(refuses)).toBe('LUO_GONE the old version has ended')
  expect(await says(refuses, true)).toBe('LUO_GONE the old version has ended')
})

test('nobody at the socket is LUO_NO_DAEMON', async () => {
  const error = await connect(join(folder, 'none.sock')).catch((e: unknown) => e)
  expect(isLuoError(error, 'LUO_NO_DAEMON')).toBe(true)
})

test('the working directory keeps its symlink when PWD names it, and only then', () => {
  mkdirSync(join(folder, 'v1'))
  symlinkSync('v1', join(folder, 'current'))
  const real = join(folder, 'v1')
  expect(logicalDirectory({ PWD: join(folder, 'current') }, real)).toBe(join(folder, 'current'))
  expect(logicalDirectory({ PWD: '/' }, real)).toBe(real)
  expect(logicalDirectory({ PWD: 'current' }, real)).toBe(real)
  expect(logicalDirectory({}, real)).toBe(real)
})

test('a workload gets its name, socket and directory, and neither NOTIFY_SOCKET nor a stale ticket', () => {
  const base = { NOTIFY_SOCKET: '/n', LUO_TICKET: '9', HOME: '/h' }
  const options = { workload: 'web', socket: '/s', directory: '/d' }
  const expected = { HOME: '/h', LUO_WORKLOAD: 'web', LUO_SOCKET: '/s', PWD: '/d' }
  expect(workloadEnvironment(base, options, false)).toEqual(expected)
  expect(workloadEnvironment(base, options, true)).toEqual({ ...expected, LUO_TICKET: '3' })
})

test.each([
  ['no-such-program-here', 127, 'no such program'],
  ['/dev/null/x', 127, 'no such program'],
  ['', 127, 'cannot start "": no such program'],
  ['./plain-file', 126, 'not executable'],
  ['/', 126, 'it is no file'],
])('starting %s fails with %d', (program, code, message) => {
  writeFileSync(join(folder, 'plain-file'), '', { mode: 0o644 })
  try {
    startWorkload([program], fakeOptions(), () => {})
    expect.unreachable()
  } catch (error) {
    expect(isLuoError(error, 'LUO_SPAWN') && error.params.exitCode).toBe(code)
    expect(String(error)).toContain(message)
  }
})

test('starting in a directory that is gone says so', () => {
  const options = { ...fakeOptions(), directory: join(folder, 'gone') }
  expect(() => startWorkload(['true'], options, () => {})).toThrow(/working directory .*gone is gone/)
})
