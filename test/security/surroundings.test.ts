/** luod and luoctl, started with surroundings that are meant to hurt. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { VarlinkClient } from '../../src/wire/client.js'
import { eventually } from '../daemon/stage.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const NODE = process.execPath
const isRoot = process.getuid?.() === 0
const folders: string[] = []
const children: ChildProcess[] = []
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'luo-around-'))
  folders.push(made)
  return made
}

interface Ended {
  code: number
  stdout: string
  stderr: string
}

function run(program: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const { LUO_SOCKET, ...rest } = process.env
  return new Promise((resolve) => {
    execFile(program, args, { env: { ...rest, ...env }, timeout: 20_000 }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr })
    })
  })
}

/** Starts luod by a shell that does `how` first; the shell becomes it. */
function shell(how: string, socket: string, env: NodeJS.ProcessEnv = {}): ChildProcess {
  const child = spawn('sh', ['-c', `${how}; exec "$0" "$@"`, NODE, LUOD, '--socket', socket, '--verbose'], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  return child
}

function status(socket: string) {
  const ask = async () => {
    const client = await VarlinkClient.connect(socket)
    try {
      return (await client.call('Status', {})).parameters
    } finally {
      client.close()
    }
  }
  return eventually(ask, Boolean, 'luod does not answer')
}

test('without standard input, output and error nothing of luod gets their numbers', async () => {
  const socket = join(folder(), 's')
  shell('exec <&- >&- 2>&-', socket)
  const { pid } = await status(socket)
  expect([0, 1, 2].map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))).toEqual(Array(3).fill('/dev/null'))
})

test('a log that nobody reads holds up nobody', async () => {
  const base = folder()
  const socket = join(base, 's')
  const fifo = join(base, 'log')
  await run('mkfifo', [fifo])
  // A pipe that is nearly full; that luod can read from it too keeps it open.
  const luod = shell(`exec 2<>'${fifo}'; head -c 65000 /dev/zero >&2`, socket)
  await status(socket)
  for (let count = 0; count < 30; count++) {
    const client = connect(socket)
    // Refused, with a line of the log for it.
    client.end('no message\0')
    client.resume()
    await once(client, 'close')
  }
  expect((await status(socket)).pid).toBe(luod.pid)
})

test.each(['0', '0777'])('with the umask %s its files are as private as ever', async (umask) => {
  const base = join(folder(), 'luod')
  const socket = join(base, 's')
  shell(`umask ${umask}`, socket)
  await status(socket)
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)
  expect([mode(base), mode(socket), mode(`${socket}.lock`)]).toEqual(
    isRoot ? ['755', '666', '600'] : ['700', '600', '600'],
  )
})

test.runIf(isRoot)('without /proc luod does not start, and says what is missing', async () => {
  const socket = join(folder(), 's')
  const script = 'mount -t tmpfs none /proc && exec "$0" "$@"'
  const { code, stderr } = await run('unshare', ['-m', 'sh', '-c', script, NODE, LUOD, '--socket', socket])
  expect([code, stderr]).toEqual([1, expect.stringContaining('without /proc')])
  expect(existsSync(socket)).toBe(false)
})

test('what LUO_SOCKET names and is no socket is left as it is', async () => {
  const base = folder()
  const at = (name: string) => join(base, name)
  writeFileSync(at('file'), 'precious')
  symlinkSync(at('elsewhere'), at('link'))
  mkdirSync(at('directory'))
  await run('mkfifo', [at('fifo')])
  for (const name of ['file', 'link', 'directory', 'fifo']) {
    const luod = await run(NODE, [LUOD], { LUO_SOCKET: at(name) })
    expect([name, luod.code, luod.stderr]).toEqual([name, 1, expect.stringContaining('is no socket')])
    const luoctl = await run(NODE, [LUOCTL, 'list'], { LUO_SOCKET: at(name) })
    expect([name, luoctl.code, luoctl.stderr]).toEqual([name, 4, expect.stringContaining('LUO_NO_DAEMON')])
  }
  expect(readFileSync(at('file'), 'utf8')).toBe('precious')
  expect(
    readdirSync(base)
      .filter((name) => !name.endsWith('.lock'))
      .sort(),
  ).toEqual(['directory', 'fifo', 'file', 'link'])
  const long = await run(NODE, [LUOCTL, 'list'], { LUO_SOCKET: `/tmp/${'x'.repeat(200)}` })
  expect([long.code, long.stderr]).toEqual([1, expect.stringContaining('ENAMETOOLONG')])
})

test('arguments that are junk, very long or no text are refused, and nothing is started with others', async () => {
  const socket = join(folder(), 's')
  for (const args of [
    ['\x1b[2J'],
    ['x'.repeat(100_000)],
    ['--'],
    ['update', '\x1b]0;x\x07'],
    ['history', 'x'.repeat(100_000)],
  ]) {
    const { code, stderr } = await run(NODE, [LUOCTL, '--socket', socket, ...args])
    expect([args[0]?.slice(0, 10), code > 0 && code < 5]).toEqual([args[0]?.slice(0, 10), true])
    expect(stderr.length).toBeGreaterThan(0)
  }
  expect((await run(NODE, [LUOD, '--socket', socket, '--limit', `files=${'9'.repeat(10_000)}`])).code).toBe(2)
  const script = 'exec "$0" "$@" "$(printf "a\\377b")"'
  const not = await run('sh', ['-c', script, NODE, LUOCTL, '--socket', socket, 'run', 'web', '--', 'echo'])
  expect([not.code, not.stdout, not.stderr]).toEqual([2, '', expect.stringContaining('not UTF-8')])
})

test("a private luod runs nothing of its starter's NODE_OPTIONS, and serves no ticket of it", async () => {
  const base = folder()
  const marks = join(base, 'marks')
  const hook = join(base, 'hook.mjs')
  writeFileSync(
    hook,
    `import { appendFileSync } from 'node:fs'\nappendFileSync(${JSON.stringify(marks)}, process.argv[1] + '\\n')\n`,
  )
  const env = { NODE_OPTIONS: `--import=${hook}`, NODE_DEBUG: 'net', LUO_TICKET: '99', NOTIFY_SOCKET: '' }
  const { code } = await run(NODE, [LUOCTL, '--socket', join(base, 's'), 'run', 'web', '--', 'true'], env)
  expect(code).toBe(0)
  const ran = readFileSync(marks, 'utf8').split('\n')
  expect(ran).toContain(LUOCTL)
  expect(ran).not.toContain(LUOD)
})
