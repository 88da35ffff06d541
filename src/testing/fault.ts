/**
 * Loaded into a version under test by `node --import` (see `update-in-test.ts`), never by a program. It makes a fault
 * happen at its point every time, and not some milliseconds around it: `LUO_TEST_FAULT` says what happens to whom when
 * this version calls luod, such as `kill self before Commit`.
 */
import { VarlinkClient } from '../wire/client.js'

const { LUO_TEST_FAULT = '', LUO_TEST_OLD, LUO_TICKET } = process.env
// Neither what the version starts itself, nor its own children, shall fail as well.
delete process.env.LUO_TEST_FAULT
delete process.env.LUO_TEST_OLD
delete process.env.NODE_OPTIONS

const SEEN_MS = 100
const [action, victim, when, at] = LUO_TEST_FAULT.split(' ')
// A successor that is started again after a crash shall not crash again.
const armed = LUO_TICKET !== undefined || at === 'Ready' || at === 'Released'
const victims: Record<string, number> = { self: process.pid, supervisor: process.ppid, old: Number(LUO_TEST_OLD) }

type Call = (this: VarlinkClient, method: string, params: Record<string, unknown>, fds?: unknown) => Promise<unknown>
const prototype = VarlinkClient.prototype as unknown as { call: Call }
const original = prototype.call

function strike(): Promise<void> {
  if (action === 'hang') return new Promise(() => {})
  process.kill(victims[victim ?? ''] ?? process.pid, 'SIGKILL')
  // luod has to see that before what we say next, or it would be a race and not a test.
  return new Promise((resolve) => setTimeout(resolve, SEEN_MS))
}

prototype.call = async function call(method, params, fds) {
  if (method !== at || !armed) return original.call(this, method, params, fds)
  if (action === 'refuse') {
    const { id, member, update } = params
    return original.call(this, 'Refuse', { id, member, update, reason: 'refused on purpose by the test' })
  }
  if (when === 'before') await strike()
  const answer = await original.call(this, method, params, fds)
  if (when === 'after') await strike()
  return answer
}
