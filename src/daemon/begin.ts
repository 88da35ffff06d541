/**
 * The first moments of a luod that takes back what came over a kexec. What it has taken out of the kernel is finished with
 * its last descriptor, so a luod that cannot go on with it stays: it says why to whoever asks, puts the sessions into the
 * service manager's store if there is one, and tries again. Without a store it does not end when it is asked to, either.
 * What is damaged (LUO_RECORDS) stays so, and it says that: whoever gives it up ends luod.
 *
 * Nothing came, or it is of another version: then it fails as ever.
 */
import type { LiveSession } from '../backends/contract.js'
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import { parseInterface } from '../protocol/idl.js'
import { INTERFACE_TEXT } from '../protocol/interface.js'
import type { Fd } from '../sys/fd.js'
import { notify } from '../sys/notify.js'
import { type Handlers, Server } from '../wire/server.js'
import type { Beginning } from './backend.js'
import type { DaemonOptions } from './daemon.js'
import { FdStore, type ReceivedFiles, storeLimit } from './fd-store.js'
import { outlive } from './outlive.js'
import { keepSessions, sessionKey } from './session-store.js'
import { underWay } from './user-limits.js'

const FIRST_RETRY_MS = 1_000
const MOST_RETRY_MS = 30_000
/** A manager that waits for READY=1 is told to wait this much longer than until the next attempt. */
const START_EXTRA_MS = 60_000

export interface BeginOptions {
  /** Closed when it fails for good. */
  beginning: Beginning
  /** Stays the caller's. */
  listener: Fd
  options: Omit<DaemonOptions, 'listener' | 'kernel'>
  /** What the service manager had; what it gets is added, so that it is let go of when luod is whole. */
  received: ReceivedFiles
  firstRetryMs?: number
  env?: Record<string, string | undefined>
}

export async function beginAtLast(begin: BeginOptions): Promise<ReturnType<Beginning['begin']>> {
  const { beginning, listener, options, firstRetryMs = FIRST_RETRY_MS } = begin
  let safe = false
  const stay = (signal: NodeJS.Signals) => {
    if (safe) process.exit(1)
    options.log(
      'error',
      `${signal}: luod stays: what came over the kexec would be lost; end it with SIGKILL to give it up`,
    )
  }
  const signals = ['SIGTERM', 'SIGINT'] as const
  let endOutliving: (() => void) | undefined
  try {
    for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, MOST_RETRY_MS)) {
      try {
        return beginning.begin(listener.dup(), options)
      } catch (error) {
        const why = asLuoError(error, 'EIO', 'go on with what came over the kexec')
        if (beginning.holds.length === 0 || isLuoError(why, 'LUO_RECORDS_VERSION')) {
          beginning.close()
          throw why
        }
        if (!endOutliving) {
          endOutliving = outlive(options.log)
          for (const signal of signals) process.on(signal, stay)
        }
        safe = await keep(beginning.holds, begin)
        await sayWhy(why, retryMs, begin)
      }
    }
  } finally {
    endOutliving?.()
    for (const signal of signals) process.off(signal, stay)
  }
}

/**
 * Once luod serves, and has given everything to whoever keeps it: the kernel's sessions are not needed any more. A store that
 * has failed may have anything of it or nothing, and then they stay for as long as this process, for the next luod to find.
 */
export function endArrival(
  begun: Pick<ReturnType<Beginning['begin']>, 'arrived' | 'finish'>,
  storeFailed: boolean,
  log: DaemonOptions['log'],
): void {
  if (begun.arrived && storeFailed) {
    return log(
      'error',
      "keep the kernel's sessions of the last kexec: the service manager's store may lack what was in them",
    )
  }
  for (const { message, code } of begun.finish()) log('warning', `${message} (${code})`)
}

/** Whether the service manager has them all. */
async function keep(
  sessions: readonly LiveSession[],
  { received, options, env = process.env }: BeginOptions,
): Promise<boolean> {
  const { NOTIFY_SOCKET } = env
  const limit = storeLimit(env)
  if (!NOTIFY_SOCKET || limit === 0) return false
  try {
    const store = new FdStore({ path: NOTIFY_SOCKET, limit, received: { ...received, outdated: [] } })
    try {
      const more = sessions.filter((session) => !received.entries.has(sessionKey(session)))
      await keepSessions(store, more).kept
      for (const session of more) {
        const key = sessionKey(session)
        const name = store.nameOf(key)
        const fd = session.descriptor?.()
        if (name !== undefined && fd) received.entries.set(key, { name, fd })
      }
    } finally {
      store.close()
    }
    return true
  } catch (error) {
    options.log('error', `keep what came over the kexec: ${asLuoError(error, 'EIO', 'use the store').message}`)
    return false
  }
}

/** To the log, to the service manager, and for some time to whoever asks. */
async function sayWhy(
  { code, message, params }: LuoError,
  retryMs: number,
  { listener, options, env = process.env }: BeginOptions,
): Promise<void> {
  const { version, limits, nofile, log } = options
  const then =
    code === 'LUO_RECORDS'
      ? 'that does not pass in this kernel: luod keeps what it has until it is given up, by SIGKILL or in the store'
      : `nothing is lost as long as it runs, and it tries again in ${retryMs / 1000} s`
  const why = `luod has what came over the kexec, and cannot go on with it: ${message} (${code}); ${then}`
  log('error', why)
  const refusal = new LuoError(code, why, { params: { ...params } })
  const refuse = () => {
    throw refusal
  }
  const methods = [...parseInterface(INTERFACE_TEXT).methods.keys()]
  if (env.NOTIFY_SOCKET) {
    const state = `STATUS=${message}\nEXTEND_TIMEOUT_USEC=${(retryMs + START_EXTRA_MS) * 1000}`
    try {
      notify(env.NOTIFY_SOCKET, state)
    } catch (error) {
      log('warning', `tell the service manager: ${(error as Error).message}`)
    }
  }
  let server: Server | undefined
  let own: Fd | undefined
  try {
    own = listener.dup()
    server = new Server({
      listener: own,
      version,
      maxConnections: limits.connections,
      maxUnderWay: underWay(nofile),
      handlers: Object.fromEntries(methods.map((method) => [method, refuse])) as unknown as Handlers,
      onDefect: (error) => log('error', `defect: ${String(error)}`),
      onRefused: () => {},
    })
  } catch (error) {
    // Without descriptors there is nobody who could be told, and the next attempt may have some.
    own?.close()
    log('error', `answer in the meantime: ${(error as Error).message}`)
  }
  await new Promise((resolve) => setTimeout(resolve, retryMs))
  server?.close()
}
