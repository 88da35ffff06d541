/**
 * luod over a real kexec: every kind that it takes over one, what is no longer what it was, and who takes it up; and
 * before it what keeps a kexec from happening. One machine, two boots.
 */
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { MACHINE_LIMIT_MS, possible, runMachine } from './machine.js'
import { PROJECT } from './scripts.js'

const SERVER = fileURLToPath(new URL('../../examples/kv/server-v1.js', import.meta.url))
type Json = Record<string, unknown>

describe.runIf(possible)('luod over a kexec', () => {
  let before: Json[]
  let after: Json[]

  beforeAll(async () => {
    const boot = (stage: string) => ({ script: 'crossing', args: [PROJECT, SERVER, stage] })
    const ran = await runMachine({ boots: [boot('first'), boot('second')], memory: '2G', disk: true })
    ;[before = [], after = []] = ran.map(([command]) => command?.json ?? [])
  }, MACHINE_LIMIT_MS)

  /** What was printed with this member. */
  const said = (json: readonly Json[], member: string) => json.filter((line) => member in line)

  test('a standby whose primary was killed has the device, and does the kexec', () => {
    expect(before).toContainEqual({ standby: 'crash', backend: 'kernel' })
    expect(after).toContainEqual({ took: 'kexec', backend: 'kernel' })
  })

  test('until the reboot it can be aborted and refused; then everybody goes on, and the kernel has nothing of it', () => {
    const goesOn = { status: 3, written: 204, kernel: [] }
    const abort = expect.objectContaining({ status: 0 })
    const [asking, refusal, preserved] = said(before, 'after')
    expect(asking).toMatchObject({
      ...goesOn,
      after: 'abort while asking',
      code: 'LUO_ABORTED',
      steps: ['asking'],
      abort,
    })
    expect(refusal).toMatchObject({ ...goesOn, after: 'refusal', code: 'LUO_REFUSED', steps: ['asking'] })
    expect(refusal?.err).toContain('not now')
    const steps = ['asking', 'preserving', 'preserved', 'stopping']
    expect(preserved).toMatchObject({ ...goesOn, status: 0, after: 'abort when preserved', steps, abort })
    expect(preserved?.held).toBeGreaterThan(200)
    // The workload that did not refuse goes on as well.
    expect(said(before, 'resumed')).toHaveLength(3)
  })

  test('a luod of another version touches nothing, and the right one takes everything', () => {
    const others = after.filter(({ time }) => time).map(({ otherVersion, time, err }) => [time, otherVersion, err])
    expect(others).toEqual([
      ['first', 4, expect.stringContaining('this luod reads 1.99')],
      ['second', 4, expect.stringMatching(/this luod reads 1\.99.*as a luod before this one has found out/)],
    ])
    expect(after).toContainEqual({ many: 500, empty: 'LUO_NOT_FOUND' })
  })

  test('files by value are as they were, and memory with its seals and its position', () => {
    expect(said(after, 'kinds')).toEqual([
      {
        kinds: {
          tokens: [1, 2, 3, 4, 5, 6, 7, 8],
          file: { at: 8, rest: 'before the kexec', flags: ['append'] },
          memory: { at: 8, text: 'written before the kexec', seals: ['shrink', 'grow'] },
          eventfd: { counter: 1234, semaphore: true },
          tcp: 'hello',
          unix: 'hello',
          abstract: 'hello',
          udp: 'datagram',
          entered: ['here'],
        },
      },
    ])
  })

  test('files that were changed, replaced or removed meanwhile are lost by name, and no others', () => {
    const lost = (name: string, why: string) => ({
      code: 'LUO_CHANGED',
      detail: expect.stringMatching(`^open /run/disk/${name} again: .*${why}`),
    })
    expect(said(after, 'lost')).toEqual([
      {
        lost: [
          lost('grown', 'size'),
          lost('overwritten', 'mtime'),
          lost('replaced', 'generation'),
          lost('removed', 'missing'),
        ],
      },
    ])
  })

  test('who is killed between claim and commit loses nothing: the next one has it', () => {
    const claimed = { claimant: 'crash', has: [1, 0], format: 'state/1', file: 'a file' }
    const claims = after.filter((line) => 'claimant' in line || 'committed' in line)
    expect(claims).toEqual([claimed, claimed, { committed: true }])
    // Of a session of a program: both saw all of it.
    expect(after).toContainEqual({ adopter: 8 })
  })

  test("the service's client, which wrote until the machine went down, finds every acknowledged write", () => {
    const [client] = said(after, 'acknowledged')
    expect(client).toMatchObject({ missing: [], waitedFor: true })
    expect(client?.sinceAsked).toBeGreaterThan(0)
  })

  test('nobody takes up what is of another user', () => {
    expect(after).toContainEqual({ stranger: 'LUO_NOT_FOUND', nobody: 'ok' })
  })

  test('a session of the kernel that luod did not make is left alone, and keeps the next kexec from losing it', () => {
    expect(after).toContainEqual({ foreign: 'not of luod' })
    const [{ unfinished, dropped } = {}] = said(after, 'unfinished')
    expect(unfinished).toMatchObject({ status: 1, steps: [], code: 'EBUSY', err: expect.stringContaining('foreign') })
    expect(dropped).toMatchObject({ status: 0, steps: ['asking', 'preserving', 'preserved', 'undone'] })
    expect(said(after, 'finished')).toMatchObject([{ finished: { status: 0 } }])
  })
})
