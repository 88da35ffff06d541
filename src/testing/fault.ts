/**
 * Loaded into a version under test by `node --import` (see `withFault` in update-in-test.ts), never by a program. It
 * changes what one call to luod does, so that a fault happens at its point every time and not some milliseconds
 * around it: at the commit, or at the old version's answer to prepare.
 */
import { VarlinkClient } from '../wire/client.js'

const fault = process.env.LUO_TEST_FAULT
// Neither what the version starts itself, nor its own children, shall fail as well.
delete process.env.LUO_TEST_FAULT
delete process.env.NODE_OPTIONS

type Call = (this: VarlinkClient, method: string, params: Record<string, unknown>, fds?: unknown) => Promise<unknown>

const prototype = VarlinkClient.prototype as unknown as { call: Call }
const original = prototype.call

prototype.call = function call(method, params, fds) {
  if (method === 'Commit' && fault === 'crash-before-commit') process.kill(process.pid, 'SIGKILL')
  if (method === 'Commit' && fault === 'hang-before-commit') return new Promise(() => {})
  if (method === 'Ready' && fault === 'refuse') {
    const { id, member, update } = params
    return original.call(this, 'Refuse', { id, member, update, reason: 'refused on purpose by the test' })
  }
  return original.call(this, method, params, fds)
}
