/**
 * The kernel's device from TypeScript, in a virtual machine: its answers, and sessions over two real kexecs that Node
 * does itself. One machine, three boots.
 */
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { MACHINE_LIMIT_MS, possible, type Ran, runMachine } from './machine.js'
import { answers, CHECKS } from './scripts.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
type Json = Record<string, unknown>

/** What a call of luoctl ended with. */
function called(json: readonly Json[], args: string): Json {
  return json.find((line) => line.args === args) ?? { args, missing: json }
}

describe.runIf(possible)('on a real kernel', () => {
  let device: Json[]
  let before: Json[]
  let after: Json[]
  let second: Json[]
  let third: Json[]

  beforeAll(async () => {
    const lifecycle = (stage: string) => ({ script: 'lifecycle', args: [stage] })
    const tools = (stage: string) => ({ script: 'tools', args: [LUOCTL, stage] })
    const boots = [
      [{ script: 'device' }, tools('before'), lifecycle('first')],
      [tools('after'), lifecycle('second')],
      lifecycle('third'),
    ]
    const ran = (await runMachine({ boots })) as [[Ran, Ran, Ran], [Ran, Ran], [Ran]]
    ;[device, before, , after, second, third] = ran.flat().map(({ json }) => json) as [
      Json[],
      Json[],
      Json[],
      Json[],
      Json[],
      Json[],
    ]
  }, MACHINE_LIMIT_MS)

  test('the device answers as the contract says', () => {
    expect(answers(device)).toEqual(CHECKS)
    expect(device.at(-1)).toEqual({ leaked: 0 })
  })

  test('who has the device, and a session, is named', () => {
    const [{ pid }, busy, foreign, after] = device as [Json, Json, Json, Json]
    expect(busy).toEqual({
      code: 'EBUSY',
      message: `open /dev/liveupdate: process ${pid} (node) has it open; end it, or use what it offers`,
      holders: [{ pid, comm: 'node' }],
    })
    expect(foreign).toEqual({
      sessions: [{ pid, comm: 'node', name: 'foreign', direction: 'outgoing' }],
      complete: true,
    })
    expect(after).toEqual({ sessions: [], complete: true })
  })

  test('2,000 empty sessions and 500 files come back, and once', () => {
    expect(second).toContainEqual({ empty: 2_000 })
    expect(second).toContainEqual({ right: 500, again: 'EINVAL' })
  })

  test('256 MiB cross twice, once they are finished in between', () => {
    const hash = createHash('sha1')
    for (let i = 0; i < 256; i++) hash.update(Buffer.alloc(2 ** 20, `${i},`))
    const checksum = hash.digest('hex')
    expect(second).toContainEqual({ checksum, busy: 'EBUSY' })
    expect(third).toContainEqual({ checksum, nobody: 'ENOENT' })
    expect(third).toContainEqual({ right: 500, again: 'EINVAL' })
  })

  test('seals come back, and with more of them what was not executable', () => {
    expect(second.filter(({ sealed }) => sealed)).toEqual([
      { sealed: 'none', seals: [], text: 'newe', write: 'ok' },
      { sealed: 'some', seals: ['shrink', 'grow'], text: 'newe', write: 'ok' },
      { sealed: 'all', seals: ['seal', 'shrink', 'grow', 'write'], text: 'all', write: 'EPERM' },
      { sealed: 'noexec', seals: ['shrink', 'grow', 'write', 'futureWrite', 'exec'], text: 'noexec', write: 'EPERM' },
    ])
  })

  test('luoctl says what the kernel can do, and who has the device', () => {
    const [{ pid }] = before as [Json]
    const { out, status } = called(before, 'doctor')
    expect(status).toBe(0)
    const { checks } = out as { checks: { name: string; status: string; message: string }[] }
    const messages = Object.fromEntries(checks.map(({ name, ...check }) => [name, `${check.status}: ${check.message}`]))
    expect(messages).toMatchObject({
      'kernel command line': 'ok: live update and KHO are switched on',
      'live update device': `ok: /dev/liveupdate is there; process ${pid} (node) has it`,
      'kexec handover': 'ok: /sys/kernel/debug/kho is there: luoctl inspect --kernel',
      kexec: 'ok: permitted; no kernel is loaded (luoctl kexec load)',
    })
  })

  test('luoctl decodes what the kernel hands over, before and after a kexec', () => {
    const tree = { subtrees: [{ name: 'LUO', size: '32' }, { name: 'kexec-metadata' }] }
    const first = called(before, 'inspect --kernel').out as Json
    expect(first).toMatchObject({ format: 'kho-v4', out: { tree, luo: { liveupdate_number: '1' } }, in: null })
    expect((first.scratch as Json[]).length).toBeGreaterThan(0)
    expect(called(after, 'inspect --kernel').out).toMatchObject({
      out: { luo: { liveupdate_number: '2' } },
      in: { tree },
    })
  })

  test('luoctl loads a kernel, with words behind the command line of this one', () => {
    // The boots after it are those of this one.
    const loaded = called(before, `kexec load /run/machine/kernel --initrd /run/machine/initrd --append luo.boot=1`)
    expect(loaded).toMatchObject({ status: 0, out: { format: 'bzImage', warnings: [] } })
    expect((loaded.out as Json).command_line).toMatch(/liveupdate=on.* luo\.boot=1$/)
  })

  test(
    'luod runs in an initrd with nothing but /run, and does a kexec from there',
    async () => {
      const boots = ['first', 'second'].map((stage) => ({ script: 'bare', args: [LUOD, stage] }))
      const [[first], [second]] = (await runMachine({ bare: true, boots })) as [[Ran], [Ran]]
      for (const { json } of [first, second]) expect(json).toContainEqual({ answers: true, backend: 'kernel' })
      expect(second.json).toContainEqual({ claimed: 'from a bare initrd' })
      expect(second.json).toContainEqual({ code: 0, elsewhere: 'EROFS', session: 'ok' })
    },
    MACHINE_LIMIT_MS,
  )
})
