/** luod as the agent of a real kernel's device, in a virtual machine, over kexecs that it does itself. */
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { MACHINE_LIMIT_MS, possible, runMachine } from './machine.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const SERVER = fileURLToPath(new URL('../../examples/kv/server-v1.js', import.meta.url))
const STAGES = ['first', 'second', 'third']

describe.runIf(possible)('luod over two kexecs', () => {
  let boots: Record<string, unknown>[][]

  beforeAll(async () => {
    const boot = (stage: string) => ({ script: 'luod', args: [LUOD, LUOCTL, SERVER, stage] })
    const ran = await runMachine({ boots: STAGES.map(boot), memory: '2G' })
    boots = ran.map(([command]) => command?.json ?? [])
  }, MACHINE_LIMIT_MS)

  test('it has the device, and says that it came over a kexec', () => {
    const [first, second, third] = boots.map(([status]) => status)
    expect(first).toEqual({ backend: 'kernel', how: 'new' })
    expect(second).toEqual({ backend: 'kernel', how: 'kexec' })
    expect(third).toEqual({ backend: 'kernel', how: 'kexec' })
  })

  test('a kexec without a kernel, and what is for root or luod alone, is refused', () => {
    expect(boots[0]).toContainEqual({
      nothingLoaded: 'LUO_NOT_FOUND',
      stranger: 'EPERM',
      strangerLists: 'EPERM',
      own: 'EPERM',
    })
  })

  test('a dry run undoes what it has done', () => {
    for (const boot of boots.slice(0, 2)) expect(boot.find(({ kexec }) => kexec)?.kexec).toContain('undone')
  })

  test("a program's own session of the kernel is listed, and luod's are not", () => {
    const listed = [{ name: 'guest', direction: 'outgoing', command: 'node', mine: true }]
    for (const boot of boots.slice(0, 2)) expect(boot).toContainEqual({ listed })
  })

  test('the service of the main job has every acknowledged write, in the same memory', () => {
    const { written, stats } = boots[0]?.find((line) => line.written) ?? {}
    const { count, checksum, used } = stats as Record<string, unknown>
    expect({ written, count }).toEqual({ written: [204], count: 20 })
    expect(boots[1]?.find(({ service }) => service)).toMatchObject({ stats: { count, checksum, used } })
    expect(boots[1]).toContainEqual({ read: 20 })
  })

  test('luoctl says each step, and the next luod what the kexec took', () => {
    const steps = boots[0]?.flatMap(({ step }) => step ?? []) ?? []
    expect(steps.slice(0, 4)).toEqual(['asking', 'preserving', 'preserved', 'stopping'])
    // The last word before a call that does not return: whoever was told may not get to print it.
    expect([[], ['rebooting']]).toContainEqual(steps.slice(4))
    const spans = (name: string) => Object.keys((boots[1]?.find(({ event }) => event === name)?.spans as object) ?? {})
    expect(spans('kexec')).toEqual(['letGo', 'preserve', 'stop', 'reboot', 'boot', 'luod'])
    expect(spans('kexecOver')).toEqual(['firstClaim', 'lastCommit'])
  })

  test('both sessions come back with their memory, after each of two kexecs', () => {
    expect(boots[1]).toContainEqual({ claimed: 'kept', guest: 'guest first' })
    expect(boots[2]).toContainEqual({ claimed: 'kept', guest: 'guest second' })
  })

  test('256 MiB in the care of luod cross both', () => {
    const hash = createHash('sha1')
    for (let i = 0; i < 256; i++) hash.update(Buffer.alloc(2 ** 20, `${i},`))
    expect(boots[2]).toContainEqual({ checksum: hash.digest('hex') })
  })
})
