/**
 * A luod that runs, and messages at random with files at random, some of them in pieces and on several connections at
 * once: afterwards it serves, and has neither a descriptor nor a session more. `npm run fuzz` has the longer runs of what
 * it decodes with; the seed is printed, and LUO_FUZZ_SEED repeats it.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isLuoError } from '../../src/errors.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { connectUnix, receive, send, socketPair } from '../../src/sys/unix.js'
import { eventually, Stage } from '../daemon/stage.js'
import { TARGETS } from './targets.js'

const RUNS = 150
const MAX_CONNECTIONS = 8
const seed = Number(process.env.LUO_FUZZ_SEED ?? 20_261_125)

test(`a luod that is sent anything serves afterwards, and nothing is left (seed ${seed})`, async () => {
  await using stage = await Stage.start()
  const before = await stage.atRest()
  const open: Fd[] = []
  const inputs = TARGETS.messages?.inputs ?? fc.constant(new Uint8Array())
  const step = fc.record({
    bytes: inputs,
    connection: fc.nat(MAX_CONNECTIONS - 1),
    files: fc.nat(3),
    cut: fc.boolean(),
  })
  const play = ({ bytes, connection, files: count, cut }: { bytes: Uint8Array } & Record<string, unknown>) => {
    const index = Number(connection)
    if (!open[index] || open[index].closed) open[index] = connectUnix(stage.socket)
    const files = [createMemfd('fuzz'), ...socketPair()].slice(0, Number(count))
    try {
      const part = cut ? bytes.subarray(0, bytes.length / 2) : bytes
      if (part.length > 0) send(open[index], part, files)
      closeAll(receive(open[index])?.fds ?? [])
    } catch (error) {
      if (!isLuoError(error)) throw error
      open[index].close()
    } finally {
      closeAll(files)
    }
  }
  try {
    fc.assert(fc.property(step, play), { seed, numRuns: RUNS })
  } finally {
    closeAll(open.filter(Boolean))
  }
  await eventually(
    () => stage.call('Status', {}),
    ({ open_fds, sessions, connections }) => open_fds <= before.open_fds && sessions === 0 && connections === 1,
    'something is left',
  )
  expect((await stage.call('Status', {})).pid).toBe(stage.luod.pid)
})
