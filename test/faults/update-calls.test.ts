/**
 * What the kernel may answer to luod in the middle of an update: each call of libc, from the request to the end, fails
 * once. The update is done or undone, as whoever asked for it is told; one version runs with all of the state, and goes
 * on if it had let go; the next update commits, and no descriptor is left. The same for a claim, and for a supervisor
 * that comes back.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Records } from '../../src/abi/records.js'
import { verifyRecords } from '../../src/abi/records-verify.js'
import type { Daemon } from '../../src/daemon/daemon.js'
import { LuoError } from '../../src/errors.js'
import { closeAll } from '../../src/sys/fd.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { luodOfOurOwn } from '../daemon/in-process.js'
import { eventually, type Stage } from '../daemon/stage.js'
import { FAILURES, failEach } from './interference.js'
import { Parties } from './parties.js'

const log: string[] = []
let stage: Stage
let daemon: Daemon
let parties: Parties

beforeAll(async () => {
  ;({ stage, daemon } = await luodOfOurOwn((_, message) => log.push(message)))
  parties = await Parties.start(stage)
})
afterAll(async () => {
  await parties[Symbol.asyncDispose]()
  daemon.close()
  await stage[Symbol.asyncDispose]()
})

/** In the records. */
async function damage(): Promise<number> {
  const client = await stage.client()
  try {
    const { fds } = await client.call('Inspect', {})
    const bytes = new Uint8Array(fds[0] ? fileSize(fds[0]) : 0)
    if (fds[0]) readAt(fds[0], bytes, 0)
    closeAll(fds)
    return verifyRecords(bytes).findings.length
  } finally {
    client.close()
  }
}

/** What is asked, and how it ends when nothing fails. */
const WHAT: readonly { what: string; work(): Promise<string>; wanted: string }[] = [
  { what: 'an update', work: () => parties.update(false), wanted: 'committed' },
  { what: 'an aborted update', work: () => parties.update(true), wanted: 'rolledBack' },
  { what: 'a claim', work: () => parties.claim(), wanted: '' },
  { what: 'a supervisor that comes back', work: () => parties.superviseAgain(), wanted: '' },
]

/** Dozens of updates each. */
vi.setConfig({ testTimeout: 120_000 })

/** Of what is dealt with in one place for all calls (`src/sys`) one of these is enough. */
const ONCE = new Set(['EINTR', 'a short write'])

const CASES = WHAT.flatMap((what) =>
  FAILURES.filter(([failure]) => what.wanted === 'committed' || !ONCE.has(failure)).map(
    ([failure, calls, instead]) => ({ ...what, failure, calls, instead }),
  ),
)

test.each(CASES)(
  '$what, with $failure at any call, is done or undone',
  async ({ work, wanted, failure, calls, instead }) => {
    expect(await parties.update(false)).toBe('committed')
    const before = await parties.rest('before')
    let outcome = ''
    await failEach({
      ...{ calls, instead },
      work: async () => {
        outcome = await work()
      },
      after: async ({ call, where: what }) => {
        if (call === undefined) expect(outcome, what).toBe(wanted)
        // Whoever asked is told that it failed, or how it ended.
        else expect([wanted, 'rolledBack', failure], what).toContain(outcome)
        await eventually(
          () => parties.rest(what),
          (count) => count <= before,
          `${what}, ${outcome}: more than ${before} descriptors`,
        )
        expect(await damage(), what).toBe(0)
      },
    })
    expect(await parties.update(false)).toBe('committed')
    expect(log.filter((line) => /defect|TypeError/.test(line))).toEqual([])
  },
)

test.each([false, true])(
  'an update whose records cannot grow at any moment is done or undone; aborted: %s',
  async (abort) => {
    const add = Records.prototype.add
    let left = Number.POSITIVE_INFINITY
    const spy = vi.spyOn(Records.prototype, 'add').mockImplementation(function (this: Records, changes) {
      if (changes.length > 0 && left-- === 0) throw new LuoError('ENOSPC', 'make the records longer')
      add.call(this, changes)
    })
    try {
      const before = await parties.rest('before')
      for (let at = 0, failed = true; failed; at++) {
        left = at
        const outcome = await parties.update(abort)
        failed = left < 0
        left = Number.POSITIVE_INFINITY
        expect(['committed', 'rolledBack', 'ENOSPC'], `at ${at}`).toContain(outcome)
        await eventually(
          () => parties.rest(`at ${at}`),
          (count) => count <= before,
          `at ${at}, ${outcome}: more than ${before} descriptors`,
        )
      }
    } finally {
      spy.mockRestore()
    }
    expect(await damage()).toBe(0)
    expect(await parties.update(false)).toBe('committed')
  },
)
