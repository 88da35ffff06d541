/** luod replaced while unmodified programs use emulated machines: they notice nothing. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { VarlinkClient } from '../../src/wire/client.js'
import { eventually } from '../daemon/stage.js'
import { HUGE_PAGE_BYTES, withHugePages } from '../kinds/hugepages.js'
import { Kit } from '../kinds/kit.js'
import { EmulationStage, type Luoctl } from './stage.js'

let stage: EmulationStage

beforeAll(() => {
  stage = new EmulationStage()
})

afterAll(() => stage.dispose())

/** Several processes each, one after the other. */
vi.setConfig({ testTimeout: 60_000 })

async function luod(): Promise<number> {
  const client = await VarlinkClient.connect(stage.socket)
  try {
    return (await client.call('Status', {})).parameters.pid
  } finally {
    client.close()
  }
}

/** luoctl says so only when another one answers. */
async function upgrade(): Promise<void> {
  const { code, errors } = await stage.run('upgrade')
  expect({ code, errors }).toEqual({ code: 0, errors: '' })
}

const kexec = (machine: string) => stage.run('kexec', '--emulated', '--machine', machine)

/** `LINE -> ANSWER` for each. */
async function expectAnswers(run: Luoctl, answers: string): Promise<void> {
  const wanted = answers.trim().split('\n')
  const seen: string[] = []
  for (const line of wanted) {
    const [question = ''] = line.split(' -> ')
    seen.push(`${question} -> ${await run.ask(question)}`)
  }
  expect(seen).toEqual(wanted)
}

/** A build of luod that is none: it runs `then` when it is told to go on. */
function build(name: string, hello: object, then = 'process.exit(1)'): string {
  const folder = join(stage.folder, name, 'dist/daemon')
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  const main = join(folder, 'main.js')
  writeFileSync(
    main,
    `const { readSync, writeSync } = process.getBuiltinModule('node:fs')
     const say = (message) => writeSync(3, JSON.stringify(message))
     say({ hello: ${JSON.stringify({ version: '9', pid: 1, records: [3], ...hello })} })
     say({ ready: { entries: 0 } })
     const bytes = Buffer.alloc(65536)
     setInterval(() => {
       for (;;) {
         let length
         try { length = readSync(3, bytes) } catch { return }
         if (length === 0) process.exit(2)
         if (bytes.toString('utf8', 0, length).includes('"go"')) { ${then} }
       }
     }, 1)`,
    { mode: 0o644 },
  )
  return join(stage.folder, name)
}

test('device, sessions and files are who they were, and are released at their last close', async () => {
  const run = stage.driver('held')
  await expectAnswers(
    run,
    `open d -> ok
spawn p -> ok
p: close d -> ok
create s d "kept" -> ok
create t d "closed" -> ok
create k d "of p" -> ok
memfd m text="contents" -> ok
memfd n text="more" -> ok
preserve s m 1 -> ok
preserve t n 7 -> ok
dup u s -> ok
pass p s -> ok
pass p k -> ok
close s -> ok
close k -> ok`,
  )
  await upgrade()
  await expectAnswers(
    run,
    `open e -> EBUSY
name u -> ok "kept"
p: name s -> ok "kept"
create v d "kept" -> EEXIST
preserve u m 2 -> EBUSY
preserve u n 1 -> EEXIST
retrieve x u 1 -> EINVAL
preserve t n 8 -> EBUSY
close t -> ok
preserve u n 2 -> ok
create v d "closed" -> ok
close u -> ok
create w d "kept" -> EEXIST
p: close s -> ok
create w d "kept" -> ok
preserve w m 1 -> ok
create x d "of p" -> EEXIST
kill p -> ok
create x d "of p" -> ok
close d -> ok
open d -> ok`,
  )
  // Its notifier is told by a luod that it did not begin with.
  expect((await kexec('held')).output).toBe('held: kexec done, live update number 1\n')
  expect((await run.ended()).code).toBe(137)
  // What nobody has looked at yet goes along too.
  await upgrade()
  const next = stage.driver('held')
  await expectAnswers(
    next,
    `open d -> ok
retrieve-session s d "closed" -> ok
retrieve-session w d "kept" -> ok
retrieve m w 1 -> ok
pread m 0 20 -> ok "contents"`,
  )
  await next.ended()
  await stage.run('machines', '--end', 'held')
})

test('sessions that came in go on as far as they were, failures included', async () => {
  const before = stage.driver('came')
  await expectAnswers(
    before,
    `open d -> ok
create s d "one" -> ok
create t d "two" -> ok
create u d "three" -> ok
memfd m text="first" -> ok
memfd n text="second" -> ok
memfd o text="third" -> ok
preserve s m 1 -> ok
preserve s n 2 -> ok
preserve s o 3 -> ok`,
  )
  await kexec('came')
  await before.ended()
  const run = stage.driver('came', '--fail', 'retrieve:EIO@token=2')
  await expectAnswers(
    run,
    `open d -> ok
retrieve-session s d "one" -> ok
retrieve m s 1 -> ok
retrieve n s 2 -> EIO
retrieve-session t d "two" -> ok
finish t -> ok
create x d "one" -> ok
memfd y text="new" -> ok
preserve x y 1 -> ok`,
  )
  await upgrade()
  await expectAnswers(
    run,
    `retrieve a s 1 -> ok
same-file a m -> ok 1
preserve x a 2 -> EBUSY
retrieve b s 2 -> EIO
retrieve c s 3 -> ok
pread c 0 10 -> ok "third"
retrieve-session v d "one" -> EINVAL
finish t -> ok
retrieve-session v d "two" -> EINVAL
close t -> ok
retrieve-session v d "two" -> ENOENT
retrieve-session v d "three" -> ok
name v -> ok "three"
finish s -> ok
preserve x a 2 -> ok`,
  )
  expect((await kexec('came')).output).toContain('live update number 2')
  expect((await run.ended()).code).toBe(137)
  await stage.run('machines', '--end', 'came')
})

test('failures on purpose count on', async () => {
  const run = stage.driver('fail', '--fail', 'preserve:ENOMEM@3', '--fail', 'freeze:EBUSY@token=1')
  await expectAnswers(
    run,
    `open d -> ok
create s d "a" -> ok
memfd m text="x" -> ok
memfd n text="y" -> ok
memfd o text="z" -> ok
preserve s m 1 -> ok
preserve s n 2 -> ok`,
  )
  await upgrade()
  await expectAnswers(run, 'preserve s o 3 -> ENOMEM\npreserve s o 3 -> ok')
  const { code, errors } = await kexec('fail')
  expect(code).toBe(1)
  expect(errors).toContain('EBUSY')
  expect(await run.ask('name s')).toBe('ok "a"')
  expect((await run.ended()).code).toBe(0)
  await stage.machineIsGone('fail')
})

test('a question under way is answered once, by one of the two', async () => {
  const run = stage.driver('flood')
  expect(await run.ask('open d')).toBe('ok')
  // Ends at the first answer that is none of a session made and released: twice the same would be EEXIST.
  run.tell('flood d "more"')
  for (let round = 0; round < 2; round++) await upgrade()
  expect(run.output).not.toContain('flood')
  expect((await kexec('flood')).code).toBe(0)
  const { code, output } = await run.ended()
  // Between the kexec and its end it may be told so.
  expect({ code, output: output.replace('flood d "more" -> ENODEV\n', '') }).toEqual({
    code: 137,
    output: 'open d -> ok\n',
  })
  await stage.run('machines', '--end', 'flood')
})

test('it is refused while a machine holds huge pages, or ends its programs; then all is as it was', async () => {
  using kit = new Kit()
  withHugePages(kit, 1)
  const refused = async (why: string) => {
    const pid = await luod()
    const { code, errors } = await stage.run('upgrade')
    expect([code, await luod()]).toEqual([1, pid])
    expect(errors).toContain('LUO_UPDATING')
    expect(errors).toContain(why)
  }
  const run = stage.driver('huge', '--handlers', 'all')
  await expectAnswers(
    run,
    `open d -> ok
create s d "a" -> ok
memfd m text="x" -> ok
memfd h size=${HUGE_PAGE_BYTES} flags=hugetlb -> ok
preserve s m 1 -> ok
preserve s h 2 -> ok`,
  )
  await refused('machine huge of uid 0 holds huge pages')
  await expectAnswers(run, 'open e -> EBUSY\nname s -> ok "a"\npreserve s h 3 -> EBUSY')
  const notifier = stage.notifierOf('huge')
  process.kill(notifier, 'SIGSTOP')
  const kexecDone = kexec('huge')
  const isNext = ({ machine, live_update_number: number }: { machine: string; live_update_number: string }) =>
    machine === 'huge' && number === '1'
  try {
    await eventually(
      () => stage.machines(),
      (machines) => machines.some(isNext),
      'no kexec',
    )
    await refused('machine huge of uid 0 ends its programs')
  } finally {
    process.kill(notifier, 'SIGCONT')
  }
  expect((await kexecDone).output).toBe('huge: kexec done, live update number 1\n')
  expect((await run.ended()).code).toBe(137)
  // What has come over a kexec is known by its image: it goes along.
  await upgrade()
  const next = stage.driver('huge', '--handlers', 'all')
  await expectAnswers(
    next,
    `open d -> ok
retrieve-session s d "a" -> ok
retrieve m s 1 -> ok
pread m 0 9 -> ok "x"
retrieve h s 2 -> ok
size h -> ok ${HUGE_PAGE_BYTES}
finish s -> ok`,
  )
  expect((await next.ended()).code).toBe(0)
  await stage.machineIsGone('huge')
})

test('a successor that dies when it is to go on, or cannot read machines, changes nothing', async () => {
  const run = stage.driver('back')
  await expectAnswers(run, 'open d -> ok\ncreate s d "a" -> ok\nmemfd m text="x" -> ok\npreserve s m 1 -> ok')
  const pid = await luod()
  const failed = async (to: string) => {
    const { code, errors } = await stage.run('upgrade', '--to', to)
    expect(code).not.toBe(0)
    expect(await luod()).toBe(pid)
    expect(await run.ask('open e')).toBe('EBUSY')
    return errors
  }
  expect(await failed(build('dies', { machines: [1] }))).toContain('LUO_GONE')
  expect(
    await failed(build('refuses', { machines: [1] }, "say({ failed: { code: 'EIO', message: 'no' } })")),
  ).toContain('LUO_RECORDS')
  // What it is told is broken off by its end in the middle of calls.
  const busy = stage.driver('busy')
  expect(await busy.ask('open d')).toBe('ok')
  busy.tell('flood d "more"')
  expect(await failed(build('dies', { machines: [1] }))).toContain('LUO_GONE')
  for (const machines of [undefined, [2]]) {
    const errors = await failed(build('cannot', { machines }))
    expect(errors).toContain('LUO_RECORDS_VERSION')
    expect(errors).toContain('back of uid')
  }
  expect(busy.output).not.toContain('flood')
  await stage.run('machines', '--end', 'busy')
  expect((await busy.ended()).code).toBe(137)
  await expectAnswers(run, 'name s -> ok "a"\ncreate t d "a" -> EEXIST\nclose s -> ok\ncreate t d "a" -> ok')
  expect((await run.ended()).code).toBe(0)
  await stage.machineIsGone('back')
})
