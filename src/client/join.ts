/**
 * How a process joins a workload: with the ticket that the supervisor gave it, as the successor in an update, or
 * without, as the first one or after a crash. What fails leaves nothing behind: neither the connection nor the session.
 */
import { randomUUID } from 'node:crypto'
import { LuoError } from '../errors.js'
import { type Fd, inheritedFd } from '../sys/fd.js'
import { socketPath } from '../wire/socket-path.js'
import { LuodLink, oneFile } from './luod-link.js'
import { ManagedLive } from './managed.js'
import { rehearse } from './rehearsal.js'
import type { JoinOptions, Live } from './types.js'

export async function joinWorkload(workload: string, options: JoinOptions): Promise<Live> {
  const path = socketPath(options.socket)
  using ticket = takeTicket()
  const { reconnectMs } = options
  const link = await LuodLink.connect({ path, action: `join the workload ${workload}`, reconnectMs })
  try {
    const { parameters, fds } = await link.call(
      'Join',
      {
        id: randomUUID(),
        workload,
        accepts: [...(options.accepts ?? ['*'])],
        ...(options.after === undefined ? {} : { after: [...options.after] }),
        ...(options.keepMs === undefined ? {} : { keep_ms: options.keepMs }),
        ...(ticket ? { fds: 1 } : {}),
      },
      ticket ? [ticket] : [],
    )
    const sessionFd = oneFile(fds)
    if (!sessionFd) throw new LuoError('LUO_PROTOCOL', `join ${workload}: luod sent no session`)
    const { member, session, origin } = parameters
    const live = new ManagedLive({ link, workload, member, session, sessionFd, origin, options })
    try {
      await link.subscribe(workload, member, {
        onEvent: (event) => live.onEvent(event),
        onLost: () => live.onLost(),
      })
    } catch (error) {
      // It must not hold a session that nobody can use.
      await live.close()
      throw error
    }
    await rehearse()
    return live
  } catch (error) {
    link.close()
    throw error
  }
}

/** It is for this process alone: a child that joins is another member. */
function takeTicket(): Fd | undefined {
  const { LUO_TICKET } = process.env
  if (LUO_TICKET === undefined) return undefined
  delete process.env.LUO_TICKET
  try {
    return inheritedFd(Number(LUO_TICKET))
  } catch (error) {
    throw new LuoError('LUO_TICKET', `take the ticket from descriptor ${LUO_TICKET}: it is not open`, { cause: error })
  }
}
