/**
 * Sessions of the kernel in the service manager's store, where they outlive luod: before a kexec of the manager, which
 * takes them along and gives them to luod in the next kernel; and in that one, when luod cannot go on with them.
 */
import type { LiveSession } from '../backends/contract.js'
import { VERSION_SESSION } from '../backends/crossing.js'
import { asLuoError, LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import type { FdStore, ReceivedFiles } from './fd-store.js'
import type { Logger } from './log.js'
import type { VaultEntry } from './vault.js'

/** No record has such a key: whoever begins without looking for them lets go of them. */
const PREFIX = 'kexec/'

/**
 * Of the session without which the others are left over: it goes out of the store before they do, and after what luod
 * holds by then went in. So whoever finds luod killed in between goes on with the latter.
 */
export const KEXEC_KEY = sessionKey({ name: VERSION_SESSION })

export function sessionKey({ name }: Pick<LiveSession, 'name'>): string {
  return PREFIX + name
}

export type SessionStore = Pick<FdStore, 'put' | 'remove' | 'flush'>

/**
 * `kept` resolves when the manager has all of them. ENOSPC when there are too many, LUO_UNSUPPORTED without a store;
 * what there is of them then goes with `takeOut`.
 */
export function keepSessions(
  store: SessionStore | undefined,
  sessions: readonly LiveSession[],
): { store: SessionStore; keys: readonly string[]; kept: Promise<void> } {
  if (!store) throw new LuoError('LUO_UNSUPPORTED', "keep sessions of the kernel: the service manager's store is gone")
  const entries: VaultEntry[] = []
  const closeCopies = () => closeAll(entries.map(({ fd }) => fd))
  try {
    for (const session of sessions) entries.push({ key: sessionKey(session), fd: copyOf(session) })
    store.put(entries)
    // They are sent by then.
    const kept = store.flush().finally(closeCopies)
    kept.catch(() => {})
    return { store, keys: entries.map(({ key }) => key), kept }
  } catch (error) {
    closeCopies()
    throw error
  }
}

/** Resolves when the manager has none of them any more, or does not answer. */
export async function takeOut({ store, keys }: { store: SessionStore; keys: readonly string[] }): Promise<void> {
  try {
    store.remove(keys)
    await store.flush()
  } catch {
    // A store that has ended was told of already.
  }
}

function copyOf(session: LiveSession): Fd {
  const fd = session.descriptor?.()
  if (fd) return fd
  throw new LuoError('LUO_UNSUPPORTED', `keep session ${session.name} of the kernel: it has no descriptor`)
}

/**
 * Sessions that came over a kexec in the store, owned by the caller. One of this kernel is of a luod that ended before
 * its kexec, which does not happen any more.
 */
export function receivedSessions(
  { entries }: Pick<ReceivedFiles, 'entries'>,
  adopt: (fd: Fd) => LiveSession,
  log: Logger,
): LiveSession[] {
  const sessions: LiveSession[] = []
  for (const [key, { fd }] of entries) {
    if (!isSessionKey(key)) continue
    const copy = fd.dup()
    try {
      const session = adopt(copy)
      if (session.direction === 'incoming') sessions.push(session)
      else session.close()
    } catch (error) {
      copy.close()
      log('error', `${key} in the service manager's store: ${asLuoError(error, 'EIO', 'look at it').message}`)
    }
  }
  return sessions
}

/** Whether a luod that finds these in the store goes on with the records of one before it, and not with a kexec. */
export function goesOnWithRecords(
  { entries }: Pick<ReceivedFiles, 'entries'>,
  sessions: readonly Pick<LiveSession, 'name'>[],
): boolean {
  return entries.has('records') && !sessions.some((session) => sessionKey(session) === KEXEC_KEY)
}

export function isSessionKey(key: string): boolean {
  return key.startsWith(PREFIX)
}
