/** Errors of luoctl itself: each is one, in the form that was asked for, with its exit code, and says what to do. */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const LONG = 'n'.repeat(64)

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-errors-'))
  writeFileSync(join(folder, 'file'), '')
})
afterAll(() => rmSync(folder, { recursive: true }))

function luoctl(args: readonly string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  const { LUO_WORKLOAD, LUO_TICKET, ...inherited } = process.env
  const env = { ...inherited, LUO_SOCKET: join(folder, 'luod.sock') }
  return new Promise((resolve) => {
    execFile(process.execPath, [LUOCTL, ...args], { env, cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: error ? error.code : 0, stdout, stderr })
    })
  })
}

const CASES: [args: string[], exit: number, code: string, says: RegExp][] = [
  [[], 2, 'LUO_INVALID_PARAMETER', /no command is given/],
  [['bogus'], 2, 'LUO_INVALID_PARAMETER', /unknown command 'bogus'/],
  [['help', 'bogus'], 2, 'LUO_INVALID_PARAMETER', /unknown command 'bogus'/],
  [['list', 'extra'], 2, 'LUO_INVALID_PARAMETER', /too many arguments for 'list'/],
  [['list', '--bogus'], 2, 'LUO_INVALID_PARAMETER', /unknown option '--bogus'/],
  [['run'], 2, 'LUO_INVALID_PARAMETER', /missing required argument 'name'/],
  [['run', 'web', 'node', 'x.js'], 2, 'LUO_INVALID_PARAMETER', /too many .* The command follows behind --/],
  [['emulate', './program'], 2, 'LUO_INVALID_PARAMETER', /too many .* The command follows behind --/],
  [['run', 'web', '--'], 2, 'LUO_INVALID_PARAMETER', /what shall be run\?/],
  [['show', ''], 2, 'LUO_INVALID_PARAMETER', /the name of a workload has 1 to 63 bytes, and this one 0: ""/],
  [['emulate', '--machine', '', '--', 'true'], 2, 'LUO_INVALID_PARAMETER', /the name of a machine has 1 to 63 bytes/],
  [['release', LONG], 2, 'LUO_INVALID_PARAMETER', /the name of a session has 1 to 63 bytes, and this one 64/],
  [['--socket', '', 'list'], 2, 'LUO_INVALID_PARAMETER', /the path of the socket is empty/],
  [['list'], 4, 'LUO_NO_DAEMON', /cannot reach luod/],
  [['run', 'web', '--', '/no/such/program'], 127, 'LUO_SPAWN', /cannot start \/no\/such\/program: no such program/],
  [['emulate', '--', './file'], 126, 'LUO_SPAWN', /cannot start \.\/file: it is not executable/],
  [
    ['run', 'web', '--socket', 'file/luod.sock', '--', 'true'],
    4,
    'LUO_NO_DAEMON',
    /cannot start a private luod: .*file.* is no directory \(EPERM\)/,
  ],
]

test('with --json an error is one JSON object on a line, whoever finds it, and nothing else is said', async () => {
  const seen = await Promise.all(CASES.map(([args]) => luoctl(['--json', ...args])))
  for (const [at, [args, exit, code, says]] of CASES.entries()) {
    const { stderr, ...rest } = seen[at] ?? { stderr: '' }
    expect({ args, ...rest }).toEqual({ args, code: exit, stdout: '' })
    expect(JSON.parse(stderr), `${args}: ${stderr}`).toEqual({ error: { code, message: expect.stringMatching(says) } })
  }
})

test('without it an error is said once, by luoctl, and followed by what to do', async () => {
  const [socket, command, file] = await Promise.all([
    luoctl(['run', 'web', '--socket', 'file/luod.sock', '--', 'true']),
    luoctl(['lst']),
    luoctl(['emulate', '--socket', 'file/luod.sock', '--', 'true']),
  ])
  for (const { stderr, code } of [socket, file]) {
    expect([code, stderr.match(/is no directory/g)]).toEqual([4, ['is no directory']])
    expect(stderr).toMatch(/^luoctl: cannot start a private luod: .*\n {2}\S.*\n$/)
  }
  expect(command.stderr).toBe(
    "luoctl: unknown command 'lst' (Did you mean list?) (LUO_INVALID_PARAMETER)\n  luoctl COMMAND --help shows examples.\n",
  )
})
