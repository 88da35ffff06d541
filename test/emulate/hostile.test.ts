/**
 * Programs that mean no good, or have no luck: what they do harms nobody but themselves, and nothing stays of it. No
 * luod of these tests may log a defect (`Stage`).
 */
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually, NOBODY, Stage } from '../daemon/stage.js'
import { ioctlsOn } from '../fuzz/ioctls.js'
import { seed, tryTarget } from '../fuzz/try.js'
import { EmulationStage, openFiles } from './stage.js'

const isRoot = process.getuid?.() === 0
const SOMEBODY = 65_533
/** Of luod: the machine, with what one program holds, is within it. */
const MAX_FILES = 24

let luod: Stage
let stage: EmulationStage

beforeAll(async () => {
  luod = await Stage.start({ args: ['--limit', `files=${MAX_FILES}`] })
  stage = new EmulationStage(luod.socket)
})

afterAll(async () => {
  await stage.dispose()
  await luod[Symbol.asyncDispose]()
})

test('processes that are killed in the middle of their calls leave nothing, neither in luod nor in their notifier', async () => {
  const run = stage.driver('storm')
  expect(await run.ask('open d')).toBe('ok')
  expect(await run.ask('create s d "first"')).toBe('ok')
  expect(await run.ask('close s')).toBe('ok')
  const pids = [Number(luod.luod.pid), stage.notifierOf('storm')]
  const before = pids.map(openFiles)
  expect(await run.ask('kill-storm d 60')).toBe('ok')
  // All that they had is free again.
  for (let index = 0; index < 5; index++) expect(await run.ask(`create s${index} d "storm ${index}"`)).toBe('ok')
  for (let index = 0; index < 5; index++) expect(await run.ask(`close s${index}`)).toBe('ok')
  await eventually(
    () => pids.map(openFiles),
    (after) => after.join() === before.join(),
    `luod and the notifier had ${before} open files`,
  )
  expect((await run.ended()).code).toBe(0)
})

test('memory that changes while it is looked at gets an answer that its calls have', async () => {
  const run = stage.driver('flip')
  expect(await run.ask('open d')).toBe('ok')
  expect(await run.ask('flip-create d 300')).toBe('ok')
  // The notifier is well: it answers on.
  expect(await run.ask('name d')).toBe('EINVAL')
  expect((await run.ended()).code).toBe(0)
})

test(`calls that are made up get answers that a kernel has, and leave nothing (seed ${seed})`, async () => {
  await using target = await ioctlsOn(stage)
  await tryTarget('ioctls', target, 40)
})

test('a flood of calls on one machine does not stop those of another', async () => {
  const flooding = stage.driver('flood')
  const other = stage.driver('calm')
  expect(await flooding.ask('open d')).toBe('ok')
  expect(await other.ask('open d')).toBe('ok')
  flooding.tell('flood d "again and again"')
  for (let index = 0; index < 20; index++) {
    expect(await other.ask(`create s${index} d "calm"`)).toBe('ok')
    expect(await other.ask(`close s${index}`)).toBe('ok')
  }
  expect(flooding.output).not.toContain('flood')
  flooding.process.kill('SIGTERM')
  expect((await flooding.ended()).code).toBe(143)
  expect((await other.ended()).code).toBe(0)
})

test('a program gets ENOSPC where its user has too much, and goes on when it has less', async () => {
  const run = stage.driver('limits')
  expect(await run.ask('open d')).toBe('ok')
  let sessions = 0
  while ((await run.ask(`create s${sessions} d "${sessions}"`)) === 'ok') sessions += 1
  expect(sessions).toBe(MAX_FILES - 1)
  expect(run.output).toContain(`create s${sessions} d "${sessions}" -> ENOSPC\n`)
  expect(await run.ask('memfd m text="x"')).toBe('ok')
  expect(await run.ask('preserve s0 m 1')).toBe('ENOSPC')
  expect(await run.ask('name s0')).toBe('ok "0"')
  // Of another machine too: it is the same user.
  const other = stage.driver('limits-too')
  expect(await other.ask('open d')).toBe('ENOSPC')
  expect(await run.ask('close s1')).toBe('ok')
  expect(await run.ask('preserve s0 m 1')).toBe('ok')
  expect((await run.ended()).code).toBe(0)
  await stage.machineIsGone('limits')
  expect(await other.ask('open d')).toBe('ok')
  expect((await other.ended()).code).toBe(0)
})

test('what a program writes to its device and reads from it comes to nothing', async () => {
  const run = stage.driver('write')
  expect(await run.ask('open d')).toBe('ok')
  expect(await run.ask('create s d "a"')).toBe('ok')
  for (let index = 0; index < 20; index++) await run.ask(`write s "${'x'.repeat(1000)}"`)
  expect(await run.ask('name s')).toBe('ok "a"')
  expect(await run.ask('close s')).toBe('ok')
  expect(await run.ask('create s d "a"')).toBe('ok')
  expect((await run.ended()).code).toBe(0)
})

test('a call of x32 ends the program, and says why', async () => {
  const run = stage.driver('foreign')
  run.tell('call-x32')
  const { code, output, errors } = await run.ended()
  expect(output).toBe('')
  expect(errors).toMatch(/made a system call of another ABI/)
  expect(code).toBe(137)
})

test('a call of i386 ends the program: where the kernel has that ABI, with the reason', async () => {
  const plain = await stage.run('emulate', '--machine', 'foreign', '--', 'sh', '-c', 'true')
  expect(plain.code).toBe(0)
  const run = stage.driver('foreign')
  run.tell('call-i386')
  const { code, output, errors } = await run.ended()
  expect(output).toBe('')
  if (code === 139) {
    // This kernel has no i386: the program faults, as it does without being emulated.
    expect(errors).toBe('')
    console.warn('This kernel has no calls of i386, so that they are refused was not tried')
    return
  }
  expect(errors).toMatch(/made a system call of another ABI/)
  expect(code).toBe(137)
})

test.runIf(isRoot)('two users have two machines of one name, and reach nothing of each other', async () => {
  const [one, two] = [NOBODY, SOMEBODY].map((uid) =>
    stage.startAs(uid, 'emulate', '--machine', 'same', '--', stage.program),
  ) as [ReturnType<EmulationStage['driver']>, ReturnType<EmulationStage['driver']>]
  for (const run of [one, two]) {
    expect(await run.ask('open d')).toBe('ok')
    expect(await run.ask('create s d "a"')).toBe('ok')
    expect(await run.ask('memfd m text="x"')).toBe('ok')
    expect(await run.ask('preserve s m 1')).toBe('ok')
  }
  const seen = await stage.startAs(NOBODY, 'machines', '--json').ended()
  expect(JSON.parse(seen.output).machines).toEqual([expect.objectContaining({ machine: 'same', uid: NOBODY })])
  // The kexec of one ends the programs of one.
  expect((await stage.startAs(NOBODY, 'kexec', '--emulated', '--machine', 'same').ended()).code).toBe(0)
  expect((await one.ended()).code).toBe(137)
  expect(await two.ask('name s')).toBe('ok "a"')
  expect((await stage.startAs(SOMEBODY, 'machines', '--end', 'other').ended()).errors).toContain('LUO_NOT_FOUND')
  // What was handed over is there for its user alone.
  expect((await stage.startAs(NOBODY, 'machines', '--end', 'same').ended()).code).toBe(0)
  expect((await stage.startAs(NOBODY, 'machines', '--end', 'same').ended()).errors).toContain('LUO_NOT_FOUND')
  expect(await two.ask('preserve s m 2')).toBe('EBUSY')
  expect((await two.ended()).code).toBe(0)
})

test.runIf(isRoot)('a program with a root of its own reaches the device through the links in it', async () => {
  symlinkSync('/dev/liveupdate', join(stage.folder, 'door'))
  const run = stage.start('emulate', '--machine', 'root', '--', 'chroot', stage.folder, '/driver')
  expect(await run.ask('open d "/door"')).toBe('ok')
  expect(await run.ask('create s d "a"')).toBe('ok')
  expect((await run.ended()).code).toBe(0)
})
