/**
 * luod's content over a kexec, through a device: memory files by the kernel, in one session for each of luod's; the
 * other kinds by value; and in the session MANIFEST_SESSION one memory file that says what is where
 * (`abi/crossing.ts`).
 *
 *     handOver → (kexec) → takeBack → finish
 *
 * `handOver` does all of it or nothing: what cannot cross is a LuoError that names the file, and every session that was
 * made is released. What was handed over lives as long as the descriptors of its sessions: closing them undoes it.
 *
 * The kernel finishes a session that was retrieved with its last descriptor: whoever looks into a session and cannot go
 * on with it has destroyed it. So the version is part of the name of MANIFEST_SESSION, and a luod of another version
 * finds VERSION_SESSION only, which says which one it would have to be; everything else is still there for that one.
 */
import {
  CROSSING_VERSION,
  type Crossing,
  type CrossingSession,
  decodeCrossing,
  encodeCrossing,
  encodeTimes,
} from '../abi/crossing.js'
import { RECORDS_VERSION } from '../abi/records.js'
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import { describe, recreate } from '../handlers/by-value.js'
import type { HeldFile } from '../handlers/held-file.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { createMemfd, fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'
import type { LiveDevice, LiveSession } from './contract.js'

/** Of what a luod hands over: of the file that says what is where, and of the records in it. */
export const MANIFEST_VERSION = `${CROSSING_VERSION}.${RECORDS_VERSION}`
/** Of luod itself: what is where. Names of other sessions are SESSION_PREFIX and luod's id of them. */
export const MANIFEST_SESSION = `luod-internal-${MANIFEST_VERSION}`
/** Of luod itself: which version the manifest has, as text. */
export const VERSION_SESSION = 'luod-internal'
export const SESSION_PREFIX = 'luod-session-'
const VERSION_TEXT = /^([\d.]{1,16}) ([\x21-\x7e]{1,32})/
/** In both. */
const ONLY_TOKEN = '0'
/**
 * Before anything else the kernel takes a number, for want of which nothing has happened. What it says of a file of its
 * own after that is final: it remembers it, also that there was no memory, or no room among the machine's open files.
 */
const NO_NUMBER: ReadonlySet<string> = new Set(['EMFILE'])
/** It may go well later: a session stays where it is, and a description can be read again. */
const TRANSIENT: ReadonlySet<string> = new Set([...NO_NUMBER, 'ENFILE', 'ENOMEM', 'ENOBUFS'])
/** What the kernel's handler takes. */
const BY_KERNEL: ReadonlySet<string> = new Set(['memfd', 'shmem'])

export function crossesByKernel(kind: string): boolean {
  return BY_KERNEL.has(kind)
}

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
  /** The manifest, and its version. */
  readonly #files: readonly [Fd, Fd]
  readonly #crossing: Crossing

  constructor(sessions: readonly LiveSession[], files: readonly [Fd, Fd], crossing: Crossing) {
    this.#sessions = sessions
    this.#files = files
    this.#crossing = crossing
  }

  get sessions(): readonly LiveSession[] {
    return this.#sessions
  }

  /** When what happened; until the kexec. What there is no room for is left out. */
  note(times: Readonly<Record<string, number>>): void {
    Object.assign(this.#crossing.times, times)
    const [manifest] = this.#files
    const head = encodeTimes(this.#crossing, contentOf(manifest))
    if (head) writeAt(manifest, head, 0)
  }

  /** Undoes it: nothing crosses. */
  close(): void {
    for (const session of [...this.#sessions].reverse()) session.close()
    closeAll(this.#files)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

export function handOver(device: LiveDevice, { luod, sessions, records }: ContentToCross): HandedOver {
  const made: LiveSession[] = []
  const files: Fd[] = []
  const own = (name: string, bytes: Uint8Array) => {
    const session = device.createSession(name)
    made.push(session)
    const file = createMemfd(name, { overKexec: true })
    files.push(file)
    truncate(file, bytes.length)
    writeAt(file, bytes, 0)
    session.preserve(ONLY_TOKEN, file)
    return file
  }
  try {
    const crossing: Crossing = { luod, times: {}, sessions: [] }
    for (const session of sessions) crossing.sessions.push(preserveOne(device, session, made))
    const version = own(VERSION_SESSION, Buffer.from(`${MANIFEST_VERSION} ${luod}`))
    const manifest = own(MANIFEST_SESSION, encodeCrossing(crossing, records))
    return new HandedOver(made, [manifest, version], crossing)
  } catch (error) {
    for (const session of made.reverse()) session.close()
    closeAll(files)
    throw error
  }
}

function preserveOne(
  device: LiveDevice,
  { session, name, files }: SessionToCross,
  made: LiveSession[],
): CrossingSession {
  const described = files.map(({ key, token, file }) => {
    if (crossesByKernel(file.info.kind)) return { key, token }
    return { key, token, description: named(`file ${token} of session ${name}`, () => describe(file)) }
  })
  if (!described.some((file) => !('description' in file))) return { session, files: described }
  const kernelName = `${SESSION_PREFIX}${session}`
  const kernelSession = device.createSession(kernelName)
  made.push(kernelSession)
  for (const { token, file } of files) {
    if (!crossesByKernel(file.info.kind)) continue
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
  /** Lets go of the kernel's sessions, once what came back is safe elsewhere. What it says stays the kernel's. */
  finish(): LuoError[]
}

/**
 * Sessions that came in, each taken out of the kernel once: it is finished with its last descriptor, so that whoever
 * fails on the way keeps them here, and may try again.
 */
export class IncomingSessions {
  readonly #device: LiveDevice
  readonly #taken: Map<string, LiveSession>

  /** `taken`: by somebody else before, such as the service manager. They are this one's now. */
  constructor(device: LiveDevice, taken: readonly LiveSession[] = []) {
    this.#device = device
    this.#taken = new Map(taken.map((session) => [session.name, session]))
  }

  /** Those that end with this process. */
  get taken(): readonly LiveSession[] {
    return [...this.#taken.values()]
  }

  /** ENOENT: it did not come in. */
  take(name: string): LiveSession {
    const known = this.#taken.get(name)
    if (known) return known
    const session = this.#device.retrieveSession(name)
    this.#taken.set(name, session)
    return session
  }

  /** The kernel finishes what nobody else has a descriptor of. */
  close(): void {
    for (const session of this.#taken.values()) session.close()
    this.#taken.clear()
  }
}

/**
 * Undefined when no luod handed anything over. LUO_RECORDS_VERSION when one of another version did, and then none of
 * that is touched; LUO_RECORDS when it is damaged, or the kernel has lost what says what it is. After a failure
 * `incoming` has what it had to take out of the kernel.
 */
export function takeBack(incoming: IncomingSessions): TakenBack | undefined {
  const manifest = ifThere(() => incoming.take(MANIFEST_SESSION))
  const version = ifThere(() => incoming.take(VERSION_SESSION))
  if (!manifest) {
    if (version) refuseVersion(version)
    return undefined
  }
  // Without it: it was finished, and somebody still had a descriptor.
  using file = ifThere(() => retrieveManifest(manifest))
  if (!file) return undefined
  const sessions = version ? [manifest, version] : [manifest]
  const files = new Map<string, Fd>()
  const lost: Loss[] = []
  const { crossing, records } = decodeCrossing(contentOf(file))
  try {
    for (const session of crossing.sessions) sessions.push(...takeOne(incoming, session, files, lost))
  } catch (error) {
    closeAll(files.values())
    throw error
  }
  return {
    ...{ crossing, records: new Uint8Array(records), files, lost },
    finish: () => {
      const refused: LuoError[] = []
      // Those that tell of the others go last.
      for (const session of sessions.reverse()) {
        try {
          session.finish()
        } catch (error) {
          refused.push(asLuoError(error, 'EIO', `finish the kernel's session ${session.name}`))
        }
      }
      incoming.close()
      return refused
    },
  }
}

function retrieveManifest(manifest: LiveSession): Fd {
  try {
    return manifest.retrieve(ONLY_TOKEN)
  } catch (error) {
    if (!isLuoError(error) || error.code === 'ENOENT' || NO_NUMBER.has(error.code)) throw error
    throw new LuoError(
      'LUO_RECORDS',
      `take back what came over: the kernel could not make the file again that says what it is, and says so for as long ` +
        `as it runs: ${error.message}; all else is still in the kernel's sessions ${SESSION_PREFIX}ID`,
      { cause: error, params: { ...error.params } },
    )
  }
}

function ifThere<T>(take: () => T): T | undefined {
  try {
    return take()
  } catch (error) {
    if (isLuoError(error, 'ENOENT')) return undefined
    throw error
  }
}

function refuseVersion(session: LiveSession): never {
  using file = session.retrieve(ONLY_TOKEN)
  const text = Buffer.from(contentOf(file)).toString('latin1')
  const [, version = 'unknown', luod = 'unknown'] = VERSION_TEXT.exec(text) ?? []
  throw new LuoError(
    'LUO_RECORDS_VERSION',
    `take back what luod ${luod} handed over: its manifest has version ${version}, and this luod reads ` +
      `${MANIFEST_VERSION}; start luod ${luod}: nothing of it was touched`,
    { params: { luod, version } },
  )
}

function takeOne(
  incoming: IncomingSessions,
  session: CrossingSession,
  files: Map<string, Fd>,
  lost: Loss[],
): LiveSession[] {
  const { session: id, name } = session
  let kernelSession: LiveSession | undefined
  let missing: LuoError | undefined
  try {
    kernelSession = name === undefined ? undefined : incoming.take(name)
  } catch (error) {
    missing = asLuoError(error, 'EIO', `take back session ${id}`)
  }
  if (missing && TRANSIENT.has(missing.code)) throw missing
  for (const { key, token, description } of session.files) {
    try {
      if (description !== undefined) files.set(key, recreate(description))
      else if (kernelSession) files.set(key, kernelSession.retrieve(token))
      else throw missing ?? new LuoError('LUO_RECORDS', `take back file ${token} of session ${id}: it is in no session`)
    } catch (error) {
      const passing = description === undefined ? NO_NUMBER : TRANSIENT
      if (isLuoError(error) && passing.has(error.code)) throw error
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
