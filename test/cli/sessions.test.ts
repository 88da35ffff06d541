/** `luoctl sessions` and `luoctl release`, with a terminal and without one. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { eventually, type Puppet, Stage } from '../daemon/stage.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
/** Two interpreters start for each answer, which takes long on a machine that has much else to do. */
const SIX_TERMINALS_MS = 150_000
/** Runs the rest of its arguments on a terminal, and types the first one when it is asked. */
const TERMINAL = `
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[2], sys.argv[2:])
seen = b''
while b'[y/N]' not in seen: seen += os.read(terminal, 1000)
os.write(terminal, sys.argv[1].encode() + b'\\n')
try:
    while True: seen += os.read(terminal, 1000)
except OSError: pass
print(seen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`

function execute(program: string, args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(program, args, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr })
    })
  })
}

const luoctl = (stage: Stage, args: string[]) => execute(process.execPath, [LUOCTL, '--socket', stage.socket, ...args])

const onTerminal = (stage: Stage, answer: string, args: string[]) =>
  execute('python3', ['-c', TERMINAL, answer, process.execPath, LUOCTL, '--socket', stage.socket, ...args])

async function make(puppet: Puppet, name: string, keepMs: number): Promise<string> {
  const request = { id: `create ${name}`, name, keep_ms: keepMs }
  const { session } = (await puppet.call('CreateSession', request, { keep: [name] })).session
  await puppet.do('memfd', { name: 'file', size: 2 ** 20 })
  const files = [{ token: '0', fd: 0 }]
  await puppet.call('Preserve', { id: `preserve ${name}`, session, files, fds: 1 }, { send: ['file'] })
  return session
}

async function orphaned(stage: Stage, name: string): Promise<string> {
  const puppet = await stage.puppet()
  const session = await make(puppet, name, 60_000)
  puppet.kill()
  await eventually(
    async () => (await stage.call('Sessions', {})).sessions.find((found) => found.name === name)?.custody,
    (custody) => custody === 'orphaned',
    'it does not wait',
  )
  return session
}

test('sessions shows what there is, for people and for programs', async () => {
  await using stage = await Stage.start()
  expect((await luoctl(stage, ['sessions'])).stdout).toBe('No sessions.\n')
  const puppet = await stage.puppet()
  const session = await make(puppet, 'cache', 0)
  const { stdout } = await luoctl(stage, ['sessions'])
  expect(stdout).toMatch(new RegExp(`${session} +cache +- +held +${puppet.pid} +1 +1 MiB`))
  const { sessions } = JSON.parse((await luoctl(stage, ['--json', 'sessions'])).stdout)
  expect(sessions).toEqual(
    (await stage.call('Sessions', {})).sessions.map((one) => ({ ...one, age_ms: expect.anything() })),
  )
})

test('show pages through the files of every session of a workload', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const { session } = await puppet.join('web')
  await puppet.do('preserveMany', { session, count: 1_010 })
  const shown = JSON.parse((await luoctl(stage, ['--json', 'show', 'web'])).stdout)
  expect(shown.sessions[0].files).toHaveLength(1_010)
  expect((await luoctl(stage, ['show', 'web'])).stdout).toMatch(
    /session web: held, 1010 files, 1010 B\n[\s\S]*\n +1009 /,
  )
})

test('release without a terminal wants --yes, and with it says what went', async () => {
  await using stage = await Stage.start()
  const session = await orphaned(stage, 'cache')
  const refused = await luoctl(stage, ['release', 'cache'])
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('holds 1 file, 1 MiB')])
  expect(refused.stderr).toContain('--yes')
  expect((await luoctl(stage, ['release', session, '--yes'])).stdout).toBe('cache: 1 file released\n')
  expect((await luoctl(stage, ['release', 'cache', '--yes'])).stderr).toContain('LUO_NOT_FOUND')
})

test('release of what is held wants --force', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  await make(puppet, 'cache', 0)
  const refused = await luoctl(stage, ['release', 'cache', '--yes'])
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('EBUSY')])
  expect((await luoctl(stage, ['release', 'cache', '--yes', '--force'])).code).toBe(0)
  expect((await stage.call('Sessions', {})).total).toBe(0)
})

const CTRL_C = '\x03'
const CTRL_D = '\x04'

test(
  'release on a terminal asks, and only yes is a yes',
  async () => {
    await using stage = await Stage.start()
    await orphaned(stage, 'cache')
    for (const answer of ['', 'n', 'yes please', CTRL_C, CTRL_D]) {
      const { code, stdout } = await onTerminal(stage, answer, ['release', 'cache'])
      expect([code, stdout]).toEqual([1, expect.stringContaining('holds 1 file, 1 MiB; release? [y/N]')])
      expect(stdout).toContain('\nluoctl: cache: nothing was released')
    }
    expect((await stage.call('Sessions', {})).total).toBe(1)
    expect((await onTerminal(stage, 'y', ['release', 'cache'])).code).toBe(0)
    expect((await stage.call('Sessions', {})).total).toBe(0)
  },
  SIX_TERMINALS_MS,
)
