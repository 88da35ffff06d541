/**
 * luod's content over a kexec, through a device: memory files by the kernel, in one session for each of luod's; the other
 * kinds by value; and in the session INTERNAL_SESSION one memory file that says what is where (`abi/crossing.ts`).
 *
 *     handOver → (kexec) → takeBack → finish
 *
 * `handOver` does all of it or nothing: what cannot cross is a LuoError that names the file, and every session that was
 * made is released. What was handed over lives as long as the descriptors of its sessions: closing them undoes it.
 * `takeBack` refuses a file of a newer version before any session but INTERNAL_SESSION is touched. That one stays open: the
 * kernel finishes a session that was retrieved with its last descriptor, so what is in it lasts as long as this process.
 */
import { type Crossing, type CrossingSession, decodeCrossing, encodeCrossing, encodeTimes } from '../abi/crossing.js'
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import { describe, recreate } from '../handlers/by-value.js'
import type { HeldFile } from '../handlers/held-file.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { createMemfd, fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'
import type { LiveDevice, LiveSession } from './contract.js'

/** Of luod itself. Names of other sessions are SESSION_PREFIX and luod's id of them. */
export const INTERNAL_SESSION = 'luod-internal'
export const SESSION_PREFIX = 'luod-session-'
/** In INTERNAL_SESSION. */
const CROSSING_TOKEN = '0'
/** What the kernel's handler takes. */
const BY_KERNEL: ReadonlySet<string> = new Set(['memfd', 'shmem'])

export interface SessionToCross {
  /** luod's id. */
  session: string
  /** For messages. */
  name: string
  /** `key`: of its record. */
  files: readonly { key: string; token: string; file: HeldFile }[]
}

export interface ContentToCross {
  luod: string
  sessions: readonly SessionToCross[]
  /** The bytes of a records file. */
  records: Uint8Array
}

/** Preserved, for as long as its sessions are open. */
export class HandedOver implements Disposable {
  readonly #sessions: readonly LiveSession[]
  readonly #file: Fd
  readonly #crossing: Crossing

  constructor(sessions: readonly LiveSession[], file: Fd, crossing: Crossing) {
    this.#sessions = sessions
    this.#file = file
    this.#crossing = crossing
  }

  get sessions(): readonly LiveSession[] {
    return this.#sessions
  }

  /** When what happened; until the kexec. What there is no room for is left out. */
  note(times: Readonly<Record<string, number>>): void {
    Object.assign(this.#crossing.times, times)
    const head = encodeTimes(this.#crossing, contentOf(this.#file))
    if (head) writeAt(this.#file, head, 0)
  }

  /** Undoes it: nothing crosses. */
  close(): void {
    for (const session of [...this.#sessions].reverse()) session.close()
    this.#file.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

export function handOver(device: LiveDevice, { luod, sessions, records }: ContentToCross): HandedOver {
  const made: LiveSession[] = []
  let file: Fd | undefined
  try {
    const crossing: Crossing = { luod, times: {}, sessions: [] }
    for (const session of sessions) crossing.sessions.push(preserveOne(device, session, made))
    file = createMemfd('luod-crossing', { overKexec: true })
    const bytes = encodeCrossing(crossing, records)
    truncate(file, bytes.length)
    writeAt(file, bytes, 0)
    const internal = device.createSession(INTERNAL_SESSION)
    made.push(internal)
    internal.preserve(CROSSING_TOKEN, file)
    return new HandedOver(made, file, crossing)
  } catch (error) {
    for (const session of made.reverse()) session.close()
    file?.close()
    throw error
  }
}

function preserveOne(
  device: LiveDevice,
  { session, name, files }: SessionToCross,
  made: LiveSession[],
): CrossingSession {
  const described = files.map(({ key, token, file }) => {
    if (BY_KERNEL.has(file.info.kind)) return { key, token }
    return { key, token, description: named(`file ${token} of session ${name}`, () => describe(file)) }
  })
  if (!described.some((file) => !('description' in file))) return { session, files: described }
  const kernelName = `${SESSION_PREFIX}${session}`
  const kernelSession = device.createSession(kernelName)
  made.push(kernelSession)
  for (const { token, file } of files) {
    if (!BY_KERNEL.has(file.info.kind)) continue
    named(`file ${token} of session ${name}`, () => kernelSession.preserve(token, file.fd))
  }
  return { session, name: kernelName, files: described }
}

export interface Loss {
  /** Of its record. */
  key: string
  token: string
  session: string
  error: LuoError
}

/** What came over, owned by the caller. */
export interface TakenBack {
  crossing: Crossing
  records: Uint8Array
  /** By the keys of their records. */
  files: Map<string, Fd>
  /** What did not come back: missing, changed, or in use. */
  lost: Loss[]
  /** Lets go of the kernel's sessions, once what came back is safe elsewhere. What is refused stays the kernel's. */
  finish(): void
}

/** Undefined when no luod handed anything over. */
export function takeBack(device: LiveDevice): TakenBack | undefined {
  const sessions: LiveSession[] = []
  let internal: LiveSession
  try {
    internal = device.retrieveSession(INTERNAL_SESSION)
  } catch (error) {
    if (isLuoError(error, 'ENOENT')) return undefined
    throw error
  }
  sessions.push(internal)
  using file = internal.retrieve(CROSSING_TOKEN)
  const { crossing, records } = decodeCrossing(contentOf(file))
  const files = new Map<string, Fd>()
  const lost: Loss[] = []
  try {
    for (const session of crossing.sessions) sessions.push(...takeOne(device, session, files, lost))
  } catch (error) {
    closeAll(files.values())
    throw error
  }
  return {
    ...{ crossing, records: new Uint8Array(records), files, lost },
    finish: () => {
      // The one that tells of the others goes last.
      for (const session of sessions.reverse()) {
        session.finish()
        session.close()
      }
    },
  }
}

function takeOne(device: LiveDevice, session: CrossingSession, files: Map<string, Fd>, lost: Loss[]): LiveSession[] {
  const { session: id, name } = session
  let kernelSession: LiveSession | undefined
  let missing: LuoError | undefined
  try {
    kernelSession = name === undefined ? undefined : device.retrieveSession(name)
  } catch (error) {
    missing = asLuoError(error, 'EIO', `take back session ${id}`)
  }
  for (const { key, token, description } of session.files) {
    try {
      if (description !== undefined) files.set(key, recreate(description))
      else if (kernelSession) files.set(key, kernelSession.retrieve(token))
      else throw missing ?? new LuoError('LUO_RECORDS', `take back file ${token} of session ${id}: it is in no session`)
    } catch (error) {
      lost.push({
        key,
        token,
        session: id,
        error: asLuoError(error, 'EIO', `take back file ${token} of session ${id}`),
      })
    }
  }
  return kernelSession ? [kernelSession] : []
}

function contentOf(file: Fd): Uint8Array {
  const bytes = new Uint8Array(fileSize(file))
  return bytes.subarray(0, readAt(file, bytes, 0))
}

function named<T>(what: string, run: () => T): T {
  try {
    return run()
  } catch (error) {
    const { code, message, params } = asLuoError(error, 'EIO', 'preserve it')
    throw new LuoError(code, `take ${what} over a kexec: ${message}`, { cause: error, params: { ...params } })
  }
}
