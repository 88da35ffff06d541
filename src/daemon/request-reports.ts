/** What luod tells of its requests: an event of each that it refused, and a line of its log where it failed itself. */
import type { ErrnoName, LuoCode } from '../errors.js'
import type { ServerOptions } from '../wire/server.js'
import type { State } from './state.js'

/** Failures that say: not you, not now, or not so many. Others say how something ended that was let happen. */
const REFUSALS: ReadonlySet<string> = new Set<LuoCode | ErrnoName>([
  ...(['LUO_LIMIT', 'LUO_NOT_FOUND', 'LUO_NO_SUPERVISOR', 'LUO_STATE_VERSION', 'LUO_TICKET', 'LUO_UPDATING'] as const),
  ...(['LUO_WORKLOAD_ACTIVE', 'LUO_WRONG_STATE', 'EPERM'] as const),
])

export function requestReports(state: State): Required<Pick<ServerOptions, 'onAnswered' | 'onDefect' | 'onRefused'>> {
  return {
    onAnswered: ({ method, peer, input, error }) => {
      if (error && REFUSALS.has(error.code)) state.refused(peer, { error, method, input })
    },
    onDefect: (error, method) => {
      state.log('error', `${method} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
    },
    onRefused: (error, { pid, uid }) => {
      // A process that was killed is no news to a daemon that is there for that.
      const level = error.code === 'ECONNRESET' ? 'info' : 'warning'
      state.log(level, `pid ${pid} of uid ${uid}: ${error.message} (${error.code})`)
      if (error.code !== 'ECONNRESET') state.refused({ uid, pid }, { error })
    },
  }
}
