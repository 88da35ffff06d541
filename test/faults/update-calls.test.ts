/**
 * What the kernel may answer to luod in the middle of an update: each call of libc, from the request to the end, fails once.
 * The update is done or undone, as whoever asked for it is told; one version runs with all of the state, and goes on if it
 * had let go; the next update commits, and no descriptor is left. The same for a claim, and for a supervisor that comes back.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { verifyRecords } from '../../src/abi/records-verify.js'
import { Daemon } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { userLimits } from '../../src/daemon/user-limits.js'
import { closeAll } from '../../src/sys/fd.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { listenUnix } from '../../src/sys/unix.js'
import { eventually, Stage } from '../daemon/stage.js'
import { FAILURES, failEach, SIMPLE } from './interference.js'
import { Parties } from './parties.js'

const log: string[] = []
let stage: Stage
let daemon: Daemon
let parties: Parties

beforeAll(async () => {
  const registry = await loadHandlers([])
  stage = await Stage.around((socket) => {
    daemon = Daemon.begin({
      ...{ version: '1', nofile: 20_000, registry, listener: listenUnix(socket, 0o666) },
      limits: userLimits({}, { nofile: 20_000, shared: true, memory: 2 ** 30 }),
      replacement: {
        protection: { kind: 'none', ready: false, lost: 0 },
        settled: () => undefined,
        upgrade: () => Promise.reject(new Error()),
      },
      log: (_, message) => log.push(message),
    })
  })
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

/** What is asked, how it ends when nothing fails, and how many calls fail at most, of each sort of failure. */
const WHAT: readonly { what: string; work(): Promise<string>; wanted: string; most: number }[] = [
  { what: 'an update', work: () => parties.update(false), wanted: 'committed', most: 5 },
  { what: 'an aborted update', work: () => parties.update(true), wanted: 'rolledBack', most: 2 },
  { what: 'a claim', work: () => parties.claim(), wanted: '', most: 3 },
  { what: 'a supervisor that comes back', work: () => parties.superviseAgain(), wanted: '', most: 3 },
]

/** Dozens of updates each. */
vi.setConfig({ testTimeout: 60_000 })

test.each(WHAT)('$what, with a failure at any call, is done or undone', async ({ work, wanted, most }) => {
  expect(await parties.update(false)).toBe('committed')
  const before = await parties.rest('before')
  for (const [failure, calls, instead] of FAILURES) {
    if (SIMPLE.has(failure) && wanted !== 'committed') continue
    let outcome = ''
    await failEach({
      ...{ calls, instead },
      most: SIMPLE.has(failure) ? 1 : most,
      work: async () => {
        outcome = await work()
      },
      after: async ({ call, where }) => {
        const what = `${failure}, ${where}`
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
  }
  expect(await parties.update(false)).toBe('committed')
  expect(log.filter((line) => /defect|TypeError/.test(line))).toEqual([])
})
