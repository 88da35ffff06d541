/**
 * `luoctl emulate` with a program of our own, `calls.c`: what each call answers, what crosses a kexec, and what is left
 * when luod, a notifier or a program is killed. The expected text is what Linux 7.3 answers to the same program;
 * `test/vm` compares the two in a virtual machine.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually } from '../daemon/stage.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const LIMIT_MS = 30_000
const folder = mkdtempSync(join(tmpdir(), 'luo-emulate-'))
const program = join(folder, 'calls')
const socket = join(folder, 'luod.sock')

class Luoctl {
  readonly process: ChildProcess
  output = ''
  errors = ''

  constructor(...args: string[]) {
    this.process = spawn(process.execPath, [LUOCTL, ...args], {
      env: { ...process.env, LUO_SOCKET: socket },
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: LIMIT_MS,
    })
    this.process.stdout?.on('data', (data) => {
      this.output += data
    })
    this.process.stderr?.on('data', (data) => {
      this.errors += data
    })
    // Whoever does not read it ends before it is written.
    this.process.stdin?.on('error', () => {})
  }

  says(text: string): Promise<boolean> {
    return eventually(() => this.output.includes(text), Boolean, `it does not say "${text}" but "${this.output}"`)
  }

  /** With its output at an end, too: nothing that stays behind may hold it open. */
  async ended(): Promise<{ code: number | null; output: string; errors: string }> {
    const [code] = (await once(this.process, 'close')) as [number | null]
    return { code, output: this.output, errors: this.errors }
  }
}

const luoctl = (...args: string[]) => new Luoctl(...args).ended()
const emulate = (machine: string, ...args: string[]) => luoctl('emulate', '--machine', machine, '--', program, ...args)

async function machines(): Promise<{ machine: string; programs: boolean; holds_state: boolean }[]> {
  const { code, output } = await luoctl('machines', '--json')
  return code === 0 ? JSON.parse(output).machines : []
}

async function luodPid(): Promise<number> {
  return JSON.parse((await luoctl('status', '--json')).output).pid
}

/** Of luod, which listening for this question changes by nothing. */
const openFiles = (pid: number) => readdirSync(`/proc/${pid}/fd`).length

function notifierOf(machine: string): number {
  const found = execFileSync('ps', ['-eo', 'pid,args'], { encoding: 'utf8' })
    .split('\n')
    .find((line) => line.includes('emulate/main.js') && line.includes(socket) && line.includes(`"${machine}"`))
  return Number(found?.trim().split(' ')[0])
}

beforeAll(() => {
  const source = fileURLToPath(new URL('./calls.c', import.meta.url))
  execFileSync('cc', ['-Wall', '-O1', '-o', program, source], { stdio: 'inherit' })
})

afterAll(async () => {
  for (const { machine } of await machines()) await luoctl('machines', '--end', machine)
  // Nothing is left to do for the private luod.
  await eventually(
    () => existsSync(socket),
    (there) => !there,
    'luod is still there',
  )
  rmSync(folder, { recursive: true })
})

test('every call answers what the interface says', async () => {
  const { code, output, errors } = await emulate('calls', 'calls')
  expect(errors).toBe('')
  expect(output).toBe(CALLS)
  expect(code).toBe(0)
  // What it had went with it, and so did the machine.
  await eventually(
    async () => (await machines()).map(({ machine }) => machine),
    (names) => !names.includes('calls'),
    'the machine is still there',
  )
})

test('the program returns while what it left behind keeps its sessions; a kexec ends that, and hands over', async () => {
  expect(await emulate('kexec', 'keep')).toEqual({
    code: 0,
    output: 'preserve: 0\npreserve an empty one: 0\ncreate another: 0\n',
    errors: '',
  })
  const kexec = await luoctl('kexec', '--emulated', '--machine', 'kexec')
  expect(kexec.output).toBe('kexec: kexec done, live update number 1\n')
  expect(await machines()).toContainEqual(
    expect.objectContaining({ machine: 'kexec', programs: false, holds_state: true, live_update_number: '1' }),
  )
  expect(await emulate('kexec', 'claim')).toEqual({ code: 0, output: CLAIMED, errors: '' })
  // A session that nobody has come for is still there, until the next kexec has dropped it.
  expect((await luoctl('kexec', '--emulated', '--machine', 'kexec')).output).toContain('live update number 2')
  expect((await emulate('kexec', 'claim')).output).toContain('retrieve session: ENOENT')
})

test('a kexec by the system call ends the program, once something was loaded', async () => {
  const { code, output, errors } = await emulate('reboot', 'reboot')
  expect(output).toBe('reboot, nothing loaded: EINVAL\nkexec_file_load: 0\nreboot, wrong magic: EINVAL\n')
  expect(errors).toBe('luoctl: machine reboot ended its programs, for a kexec or because it ends\n')
  expect(code).toBe(137)
  expect((await luoctl('machines', '--end', 'reboot')).code).toBe(0)
})

test('a call of another ABI ends the program, and says why', async () => {
  const { code, output, errors } = await emulate('foreign', 'foreign')
  expect(output).toBe('')
  expect(errors).toMatch(/made a system call of another ABI/)
  expect(code).toBe(137)
})

test('--fail makes the operations fail that it names', async () => {
  const fail = (...faults: string[]) =>
    luoctl('emulate', '--machine', 'fail', ...faults.flatMap((fault) => ['--fail', fault]), '--', program, 'keep')
  expect((await fail('preserve:ENOMEM@1', 'preserve:EIO@token=2')).output).toBe(
    'preserve: ENOMEM\npreserve an empty one: EIO\ncreate another: 0\n',
  )
  expect((await luoctl('machines', '--end', 'fail')).code).toBe(0)
  await fail('freeze:EBUSY@token=2')
  const { code, errors } = await luoctl('kexec', '--emulated', '--machine', 'fail')
  expect(code).toBe(1)
  expect(errors).toContain('EBUSY')
  // Nothing has changed: the program is still there.
  expect(await machines()).toContainEqual(expect.objectContaining({ machine: 'fail', programs: true }))
  expect((await luoctl('machines', '--end', 'fail')).code).toBe(0)
  expect((await fail('preserve:NONSENSE')).errors).toContain('preserve:NONSENSE')
})

test.each([
  ['no such program', ['./no-such-program'], 127],
  ['an exit code', ['sh', '-c', 'exit 41'], 41],
  ['a signal', ['sh', '-c', 'kill -15 $$'], 143],
])('%s is the exit code of luoctl', async (_, command, expected) => {
  expect((await luoctl('emulate', '--machine', 'codes', '--', ...command)).code).toBe(expected)
})

test('programs killed in the middle of their calls leave nothing in luod', async () => {
  const keeper = new Luoctl('emulate', '--machine', 'keeper', '--', program, 'hold')
  await keeper.says('preserve: 0')
  const pid = await luodPid()
  const before = openFiles(pid)
  for (let round = 0; round < 4; round++) {
    const run = new Luoctl('emulate', '--machine', 'storm', '--', program, 'hold', 'more')
    await run.says('preserve: 0')
    run.process.stdin?.write('x'.repeat(50_000))
    await run.says('create: ')
    run.process.kill('SIGTERM')
    expect((await run.ended()).code).toBe(143)
  }
  await eventually(
    () => openFiles(pid),
    (count) => count === before,
    `luod had ${before} open files`,
  )
  keeper.process.kill('SIGTERM')
  await keeper.ended()
})

test('without its notifier a program gets ENOSYS, and luod lets go of what it had', async () => {
  const run = new Luoctl('emulate', '--machine', 'orphan', '--', program, 'hold', 'tick')
  await run.says('preserve: 0')
  const pid = Number(/^pid (\d+)$/m.exec(run.output)?.[1])
  try {
    process.kill(notifierOf('orphan'), 'SIGKILL')
    await run.says('create: ENOSYS')
    await eventually(
      async () => (await machines()).map(({ machine }) => machine),
      (names) => !names.includes('orphan'),
      'the machine is still there',
    )
  } finally {
    process.kill(pid, 'SIGKILL')
  }
  const { code, errors } = await run.ended()
  expect(code).toBe(1)
  expect(errors).toContain('LUO_GONE')
})

test('when luod dies, calls fail with ENODEV, and the program goes on', async () => {
  const run = new Luoctl('emulate', '--machine', 'alone', '--', program, 'hold', 'more')
  await run.says('preserve: 0')
  process.kill(await luodPid(), 'SIGKILL')
  await eventually(luoctlFails, Boolean, 'luod still answers')
  run.process.stdin?.write('x')
  await run.says('create: ENODEV')
  run.process.kill('SIGTERM')
  expect((await run.ended()).code).toBe(143)
  // A new luod takes over the socket that the dead one left.
  expect((await emulate('alone', 'hold-nothing')).code).toBe(0)
})

async function luoctlFails(): Promise<boolean> {
  return (await luoctl('status')).code === 4
}

const CALLS = `open: 0
open again: EBUSY
close-on-exec of the device: 0
open while a copy is there: EBUSY
open after the last close: 0
close-on-exec when asked for: 1
chdir: 0
open by a way round: 0
a name of 0 bytes: EINVAL
a name of 1 byte: 0
a name of 63 bytes: 0
get name: 0
the name has 63 bytes
get name, reserved 1: EINVAL
a name of 64 bytes: EINVAL
a name that is not UTF-8: 0
it is the same
create a: 0
close-on-exec of a session: 1
create a again: EEXIST
retrieve session a: ENOENT
a size too small: EINVAL
a larger struct, zeros behind: 0
a larger struct, not zero: E2BIG
a bad pointer: EFAULT
a pointer to nothing, unknown command: EINVAL
an unknown command: EINVAL
other bits: ENOTTY
other bits, a bad pointer: EFAULT
wrong direction, a size too small: EINVAL
a session's command on the device: EINVAL
a device's command on a session: EINVAL
preserve: 0
preserve the same token: EEXIST
preserve the same file: EBUSY
preserve it in another session: EBUSY
preserve fd -1: EBADF
preserve fd 999: EBADF
preserve O_PATH: EBADF
preserve a pipe: ENOENT
preserve /dev/null: ENOENT
preserve the session: ENOENT
the largest token: 0
retrieve of an outgoing session: EINVAL
finish an outgoing session: EINVAL
preserve by a copy: 0
create a while it is there: EEXIST
create a after its last close: 0
preserve what it had: 0
create what a killed process had: 0
a session outlives its device: 0
`

const CLAIMED = `open: 0
create kept, outgoing: 0
retrieve a session that is not: ENOENT
retrieve session: 0
retrieve it again: EINVAL
preserve in it: EINVAL
retrieve: 0
close-on-exec: 1
position 3, seals 2
size 8
the same open file: yes
contents: contents
retrieve what is not: ENOENT
preserve what was retrieved: EBUSY
finish, reserved 1: EINVAL
finish: 0
finish again: 0
retrieve after finish: ENOENT
retrieve the finished session: EINVAL
retrieve the closed session: ENOENT
preserve what was finished: 0
`
