/** luoctl with a luod that is stopped: every command says so, and ends. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { Stage } from '../daemon/stage.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
/** Ends a luoctl that waits for ever, so that its test fails. */
const HANGS_MS = 15_000
const COMMANDS = [
  ['list'],
  ['status'],
  ['inspect'],
  ['watch'],
  ['update', 'web'],
  ['update', 'web', 'db'],
  // Others are told at once that it is for root.
  ...(process.geteuid?.() === 0 ? [['kexec', '--dry-run']] : []),
  ['upgrade'],
  ['emulate', '--', 'true'],
  ['run', 'web', '--', 'true'],
]

function luoctl(stage: Stage, args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const all = [LUOCTL, '--socket', stage.socket, '--reconnect', '300ms', '--json', ...args]
    execFile(process.execPath, all, { timeout: HANGS_MS }, (error, stdout, stderr) => {
      resolve({ code: error ? (error.code ?? error.signal) : 0, stdout, stderr })
    })
  })
}

/** Runs `work` while luod is stopped. */
async function whileStopped(stage: Stage, work: (pid: number) => Promise<void>): Promise<void> {
  const pid = stage.luod.pid as number
  process.kill(pid, 'SIGSTOP')
  try {
    await work(pid)
  } finally {
    process.kill(pid, 'SIGCONT')
  }
}

test('each command ends with code 4 and names the process, and nothing that it would ask is done later', async () => {
  await using stage = await Stage.start()
  await whileStopped(stage, async (pid) => {
    const message = `luod (pid ${pid}) does not answer at ${stage.socket} for 0.3 s: it is stopped or hangs`
    const error = { code: 'LUO_NO_DAEMON', message }
    for (const command of COMMANDS) {
      const { code, stdout, stderr } = await luoctl(stage, command)
      // Before it, kexec warns that no kernel is loaded.
      const said = JSON.parse(stderr.trimEnd().split('\n').at(-1) ?? '')
      expect([command, code, stdout, said]).toEqual([command, 4, '', { error }])
    }
  })
  expect(await stage.call('List', {})).toEqual({ workloads: [] })
  expect((await stage.call('Status', {})).pid).toBe(stage.luod.pid)
}, 120_000)

test('doctor shows it as a failed check, among its others', async () => {
  await using stage = await Stage.start()
  const look = async () => {
    const { code, stdout } = await luoctl(stage, ['doctor'])
    return { code, checks: JSON.parse(stdout).checks as { name: string; status: string; message: string }[] }
  }
  const before = await look()
  await whileStopped(stage, async (pid) => {
    const { code, checks } = await look()
    expect(code).toBe(1)
    expect(checks.map(({ name }) => name)).toEqual(before.checks.map(({ name }) => name))
    const luod = checks.find(({ name }) => name === 'luod')
    expect(luod).toMatchObject({
      status: 'fail',
      message: expect.stringContaining(`luod (pid ${pid}) does not answer`),
    })
  })
  expect((await look()).checks.find(({ name }) => name === 'luod')?.status).toBe('ok')
}, 60_000)
