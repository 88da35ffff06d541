/**
 * `luoctl emulate`: what crosses a kexec, errors on purpose, and what is left when luod, a notifier or a program is
 * killed. What each call answers is in `test/conformance`.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually } from '../daemon/stage.js'
import { EmulationStage, openFiles } from './stage.js'

const REBOOT = 'reboot 0xfee1dead 0x28121969 0x45584543'

const NOBODY = 65_534

let stage: EmulationStage

beforeAll(() => {
  stage = new EmulationStage()
})

afterAll(() => stage.dispose())

const KEPT = `open d
create s d "kept"
memfd m text="contents"
preserve s m 1
create t d "unclaimed"
close d
kexec
open d
retrieve-session s d "kept"
retrieve m s 1
pread m 0 20
close d
kexec
open d
retrieve-session s d "kept"
retrieve-session s d "unclaimed"
`

test('the program returns while what it left behind keeps its sessions; a kexec ends that, and hands over', async () => {
  const { code, errors, output } = await stage.part('kexec', KEPT, 0)
  expect({ code, errors }).toEqual({ code: 0, errors: '' })
  expect(output).toContain('preserve s m 1 -> ok\n')
  expect(await stage.machines()).toContainEqual(expect.objectContaining({ machine: 'kexec', programs: true }))
  const kexec = await stage.run('kexec', '--emulated', '--machine', 'kexec')
  expect(kexec.output).toBe('kexec: kexec done, live update number 1\n')
  expect(await stage.machines()).toContainEqual(
    expect.objectContaining({ machine: 'kexec', programs: false, holds_state: true, live_update_number: '1' }),
  )
  expect((await stage.part('kexec', KEPT, 1)).output).toContain('pread m 0 20 -> ok "contents"\n')
  // A session that nobody has come for is still there, until the next kexec has dropped it.
  expect((await stage.run('kexec', '--emulated', '--machine', 'kexec')).output).toContain('live update number 2')
  expect((await stage.part('kexec', KEPT, 2)).output).toBe(
    'open d -> ok\nretrieve-session s d "kept" -> ENOENT\nretrieve-session s d "unclaimed" -> ENOENT\n',
  )
  // What it had went with it, and so did the machine.
  await stage.machineIsGone('kexec')
})

test('a kexec by the system call ends the program, once something was loaded', async () => {
  const run = stage.driver('reboot')
  expect(await run.ask(REBOOT)).toBe('EINVAL')
  expect(await run.ask('kexec-file-load -1 0')).toBe('ok')
  expect(await run.ask('reboot 1 0x28121969 0x45584543')).toBe('EINVAL')
  expect(await run.ask('kexec-file-load -1 1')).toBe('ok')
  expect(await run.ask(REBOOT)).toBe('EINVAL')
  expect(await run.ask('kexec-file-load -1 0')).toBe('ok')
  run.tell(REBOOT)
  const { code, errors } = await run.ended()
  expect(errors).toBe('luoctl: machine reboot ended its programs, for a kexec or because it ends\n')
  expect(code).toBe(137)
  expect((await stage.run('machines', '--end', 'reboot')).code).toBe(0)
})

test('--every-open finds the device opened as libraries are', async () => {
  const open = 'open d /dev/liveupdate rdonly,cloexec'
  const few = stage.driver('few')
  expect(await few.ask(open)).toBe('ENOENT')
  await few.ended()
  const every = stage.driver('every', '--every-open')
  expect(await every.ask(open)).toBe('ok')
  expect(await every.ask('create s d "a"')).toBe('ok')
  expect(await every.ask('open e /dev/liveupdate rdonly,noctty')).toBe('EBUSY')
  await every.ended()
})

test('with all handlers, what stands for a device or a session is no file to be kept', async () => {
  const run = stage.driver('self', '--handlers', 'all')
  expect(await run.ask('open d')).toBe('ok')
  expect(await run.ask('create s d "a"')).toBe('ok')
  expect(await run.ask('preserve s d 1')).toBe('ENOENT')
  expect(await run.ask('preserve s s 2')).toBe('ENOENT')
  await run.ended()
  await stage.machineIsGone('self')
})

// As somebody who may not: a mistake here would end the machine that tests.
test.runIf(process.getuid?.() === 0)('a reboot that is no kexec does not reach the machine', async () => {
  // This luod has to be there until that user comes, who could not start one here.
  const other = stage.driver('other')
  expect(await other.ask('open d')).toBe('ok')
  const run = stage.startAs(NOBODY, 'emulate', '--machine', 'end', '--trace', '--', stage.program)
  expect(await run.ask('reboot 0xfee1dead 0x28121969 0x1234567')).toBe('EPERM')
  expect((await run.ended()).errors).toContain('reboot(LINUX_REBOOT_CMD_RESTART) = -1 EPERM')
  await other.ended()
})

test('--trace shows a name as it was given, and what is not UTF-8 in it by its number', async () => {
  const run = stage.driver('trace', '--trace')
  run.tell('open d', 'create s d "a\\xff\\xc3\\xa9"')
  const { errors } = await run.ended()
  expect(errors).toMatch(/open\("\/dev\/liveupdate", O_RDWR\) = \d/)
  expect(errors).toContain('createSession, "a\\xffé") = 0')
})

test('--fail makes the operations fail that it names', async () => {
  const fail = (...faults: string[]) => stage.driver('fail', ...faults.flatMap((fault) => ['--fail', fault]))
  const first = fail('preserve:ENOMEM@1', 'preserve:EIO@token=2')
  first.tell('open d', 'create s d "a"', 'memfd m text="x"')
  expect(await first.ask('preserve s m 1')).toBe('ENOMEM')
  expect(await first.ask('preserve s m 2')).toBe('EIO')
  expect(await first.ask('preserve s m 1')).toBe('ok')
  await first.ended()
  const second = fail('freeze:EBUSY@token=2')
  second.tell('open d', 'create s d "a"', 'memfd m text="x"')
  expect(await second.ask('preserve s m 2')).toBe('ok')
  const { code, errors } = await stage.run('kexec', '--emulated', '--machine', 'fail')
  expect(code).toBe(1)
  expect(errors).toContain('EBUSY')
  // The same from inside, and nothing has changed.
  await second.ask('kexec-file-load -1 0')
  expect(await second.ask(REBOOT)).toBe('EBUSY')
  expect(await second.ask('name s')).toBe('ok "a"')
  expect(await second.ask('preserve s m 3')).toBe('EBUSY')
  await second.ended()
  expect((await fail('preserve:NONSENSE').ended()).errors).toContain('preserve:NONSENSE')
})

test('a file that cannot be retrieved fails so for good, and a session that cannot be finished stays', async () => {
  await stage.part('sticky', KEPT, 0)
  await stage.run('kexec', '--emulated', '--machine', 'sticky')
  const run = stage.driver('sticky', '--fail', 'retrieve:EIO@1', '--fail', 'finish:EBUSY')
  expect(await run.ask('open d')).toBe('ok')
  expect(await run.ask('retrieve-session s d "kept"')).toBe('ok')
  expect(await run.ask('retrieve m s 1')).toBe('EIO')
  expect(await run.ask('retrieve m s 1')).toBe('EIO')
  expect(await run.ask('finish s')).toBe('EBUSY')
  expect(await run.ask('retrieve m s 1')).toBe('EIO')
  expect(await run.ask('close s')).toBe('ok')
  expect(await run.ask('retrieve-session t d "kept"')).toBe('EINVAL')
  expect((await run.ended()).code).toBe(0)
  await stage.run('machines', '--end', 'sticky')
})

test('when what came in cannot be read, each open is EIO', async () => {
  await stage.part('unreadable', KEPT, 0)
  await stage.run('kexec', '--emulated', '--machine', 'unreadable')
  const run = stage.driver('unreadable', '--fail', 'deserialize:ENOMEM')
  expect(await run.ask('open d')).toBe('EIO')
  expect(await run.ask('open d')).toBe('EIO')
  await run.ended()
  await stage.run('machines', '--end', 'unreadable')
})

test.each([
  ['no such program', ['./no-such-program'], 127],
  ['an exit code', ['sh', '-c', 'exit 41'], 41],
  ['a signal', ['sh', '-c', 'kill -15 $$'], 143],
])('%s is the exit code of luoctl', async (_, command, expected) => {
  expect((await stage.run('emulate', '--machine', 'codes', '--', ...command)).code).toBe(expected)
})

test('without its notifier a program gets ENOSYS, and luod lets go of what it had', async () => {
  const run = stage.driver('orphan')
  expect(await run.ask('open d')).toBe('ok')
  expect(await run.ask('create s d "a"')).toBe('ok')
  process.kill(stage.notifierOf('orphan'), 'SIGKILL')
  await eventually(
    () => run.ask('create t d "b"'),
    (answer) => answer === 'ENOSYS',
    'its calls are answered',
  )
  await stage.machineIsGone('orphan')
  const { code, errors } = await run.ended()
  expect(code).toBe(1)
  expect(errors).toContain('LUO_GONE')
})

test('when luod dies, calls fail with ENODEV, and the program goes on', async () => {
  const run = stage.driver('alone')
  const other = stage.driver('other')
  for (const each of [run, other]) {
    expect(await each.ask('open d')).toBe('ok')
    expect(await each.ask('create s d "a"')).toBe('ok')
    expect(await each.ask('memfd m text="x"')).toBe('ok')
  }
  // One of them is in the middle of a call, or between two.
  other.tell('flood d "more"')
  process.kill(await stage.luodPid(), 'SIGKILL')
  await other.says('flood d "more" -> ENODEV')
  expect(await run.ask('create t d "b"')).toBe('ENODEV')
  expect(await run.ask('preserve s m 1')).toBe('ENODEV')
  expect(await run.ask('retrieve n s 1')).toBe('ENODEV')
  expect(await run.ask('open e')).toBe('ENODEV')
  expect(await run.ask('open e /dev/null')).toBe('ok')
  expect((await run.ended()).code).toBe(0)
  expect((await other.ended()).code).toBe(0)
  // A new luod takes over the socket that the dead one left.
  const next = stage.driver('alone')
  expect(await next.ask('open d')).toBe('ok')
  expect((await next.ended()).code).toBe(0)
})

test('programs killed in the middle of their calls leave nothing in luod', async () => {
  const keeper = stage.driver('keeper')
  expect(await keeper.ask('open d')).toBe('ok')
  const pid = await stage.luodPid()
  const before = openFiles(pid)
  for (let round = 0; round < 2; round++) {
    const run = stage.driver('storm')
    expect(await run.ask('open d')).toBe('ok')
    expect(await run.ask('create s d "a"')).toBe('ok')
    run.tell('flood d "more"')
    run.process.kill('SIGTERM')
    expect((await run.ended()).code).toBe(143)
  }
  await eventually(
    () => openFiles(pid),
    (count) => count === before,
    `luod had ${before} open files`,
  )
  await keeper.ended()
})
