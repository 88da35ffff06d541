/**
 * The client library. A service joins its workload, asks for its memory, listeners and files by name, and says when it
 * is ready; whether it is the first start or a successor makes no difference to the code.
 *
 *     const live = await join({ accepts: ['store/1'] })
 *     const store = await live.memory('store', { size: 256 * 2 ** 20, format: 'store/1' })
 *     await live.serve(server, { port: 8080 })
 *     await live.ready()
 *
 * Where nothing in the environment says that this process is a workload, everything works as plain memory and plain
 * listeners (`live.active` is false), on any system. Where something does and luod cannot be reached, `join` fails with
 * LUO_NO_DAEMON: starting empty would be a lie.
 */
import { checkNumbers, numberOf } from './numbers.js'
import { PlainLive } from './plain.js'
import type { AdoptSessionOptions, JoinOptions, Live, LiveSession, OpenSessionOptions } from './types.js'

export { isLuoError, LUO_CODES, type LuoCode, LuoError } from '../errors.js'
export {
  type AdoptSessionOptions,
  type FileOptions,
  type HookName,
  type Hooks,
  type JoinOptions,
  type Live,
  type LiveSession,
  type Memory,
  type MemoryOptions,
  type OpenSessionOptions,
  Refusal,
  type ServeOptions,
  type SessionOptions,
  type Token,
  type UpdateInfo,
} from './types.js'

export async function join(options: JoinOptions = {}): Promise<Live> {
  const checked = checkNumbers(options)
  const workload = options.workload ?? process.env.LUO_WORKLOAD
  if (workload === undefined || workload === '') return new PlainLive()
  // Only here: everything below needs Linux and the native part.
  const { joinWorkload } = await import('./join.js')
  return joinWorkload(workload, checked)
}

/**
 * For programs that are no workload: a session of this name, made, or taken over if it waits. LUO_NO_DAEMON without
 * luod, EBUSY when another process holds it: that one can pass its descriptor on, for `adoptSession({ fd })`.
 */
export async function openSession(name: string, options: OpenSessionOptions = {}): Promise<LiveSession> {
  const checked = checkNumbers(options)
  const { openProgramSession } = await import('./session.js')
  return openProgramSession(name, checked)
}

/**
 * A session that waits for somebody, by its name; or the one whose descriptor this process was given, which then
 * belongs to the session: `close` closes it. LUO_NOT_FOUND when there is none.
 */
export async function adoptSession(
  which: { name: string } | { fd: number },
  options: AdoptSessionOptions = {},
): Promise<LiveSession> {
  const checked = checkNumbers(options)
  const { adoptProgramSession } = await import('./session.js')
  return adoptProgramSession('fd' in which ? { fd: numberOf(which) } : which, checked)
}
