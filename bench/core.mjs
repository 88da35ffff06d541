/**
 * The core alone, in this process, with a handler that does nothing: what one call costs when there are few files or
 * sessions, and when there are many. Both are measured in turn, in blocks.
 */
import { HandlerRegistry } from '../dist/core/handler.js'
import { Orchestrator } from '../dist/core/orchestrator.js'
import { median, ratio, round } from './tools/stats.mjs'

const FEW = 1_000
const MANY = 100_000

/** Microseconds a call, of each block. */
export function blocks({ count, calls, few, many }) {
  const costs = { few: [], many: [] }
  const run = (call) => {
    const startedAt = performance.now()
    for (let done = 0; done < calls; done++) call()
    return ((performance.now() - startedAt) * 1000) / calls
  }
  // Code is compiled first.
  for (let warm = 0; warm < 3; warm++) [few, many].map(run)
  for (let block = 0; block < count; block++) {
    costs.few.push(run(few))
    costs.many.push(run(many))
  }
  return costs
}

function orchestrator() {
  const registry = new HandlerRegistry()
  registry.register({
    compatible: 'bench-v1',
    canPreserve: () => true,
    preserve: () => ({ data: 1n }),
    unpreserve() {},
    retrieve: () => ({ inode: 0 }),
    finish() {},
  })
  const files = {
    duplicate: (file) => file,
    close() {},
    key: ({ inode }) => `0:${inode}`,
    compare: (a, b) => a.inode - b.inode,
  }
  return new Orchestrator({ registry, files })
}

/** One call here: a file preserved, fetched, and no longer preserved. */
function withFiles(count) {
  const core = orchestrator()
  const session = core.createSession('', 'bench')
  for (let inode = 0; inode < count; inode++) {
    core.preserve(session, [{ token: String(inode), file: { inode }, about: undefined }])
  }
  // Each is another one, as they are in life.
  let next = count
  return () => {
    const inode = next++
    const token = String(inode)
    core.preserve(session, [{ token, file: { inode }, about: undefined }])
    core.reference(session, [token])
    core.unpreserve(session, [token])
  }
}

/** One call here: the life of a session with one file, as all of them have. */
function withSessions(count) {
  const core = orchestrator()
  let next = 0
  const create = () => {
    const inode = next++
    const session = core.createSession('', `session-${inode}`)
    core.preserve(session, [{ token: '1', file: { inode }, about: undefined }])
    return session.id
  }
  while (next < count) create()
  return () => {
    const session = core.session(create())
    core.reference(session, ['1'])
    core.release(session)
  }
}

export function measureCore({ quick, say }) {
  const count = quick ? 9 : 41
  const calls = 2_000
  const result = {}
  for (const [name, make] of [
    ['files', withFiles],
    ['sessions', withSessions],
  ]) {
    const { few, many } = blocks({ count, calls, few: make(FEW), many: make(MANY) })
    result[`${name}_scaling_ratio_core`] = { ...ratio(few, many), of: `${MANY} over ${FEW}` }
    result[`${name}_core_us`] = { few: round(median(few)), many: round(median(many)), n: count * calls }
    say(`${name}: ${result[`${name}_scaling_ratio_core`].ratio}`)
  }
  return result
}
