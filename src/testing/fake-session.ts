/**
 * What `session` of a fake live answers. Files are any values; who is frozen, or has not yet committed what was handed
 * over, cannot change them.
 */
import { numberOf } from '../client/numbers.js'
import { tokenText } from '../client/token.js'
import { LuoError } from '../errors.js'

export type FakeToken = bigint | number | string

export interface FakeSession {
  readonly name: string
  readonly fd: undefined
  preserve(token: FakeToken, file: unknown, format?: string, options?: FakeFileOptions): Promise<void>
  unpreserve(...tokens: FakeToken[]): Promise<void>
  retrieve(token: FakeToken): Promise<unknown>
  tokens(): Promise<bigint[]>
  close(): void
}

export interface FakeSessionOptions {
  keepMs?: number
}

export interface FakeFileOptions {
  until?: 'update'
}

type Files = Map<bigint, { file: unknown; format: string | undefined; until: 'update' | undefined }>

class Session implements FakeSession {
  readonly name: string
  readonly fd = undefined
  readonly keepMs: number
  readonly files: Files
  readonly handed: boolean
  readonly #sessions: FakeSessions
  closed = false

  constructor(sessions: FakeSessions, name: string, keepMs: number, handed?: Files) {
    this.#sessions = sessions
    this.name = name
    this.keepMs = keepMs
    this.files = new Map(handed)
    this.handed = handed !== undefined
  }

  async preserve(token: FakeToken, file: unknown, format?: string, { until }: FakeFileOptions = {}): Promise<void> {
    this.#sessions.mustBeOpen(this)
    checkFile(file)
    const known = knownAs(token)
    this.#sessions.mayChange(this)
    if (this.files.has(known)) {
      throw new LuoError('EEXIST', `preserve token ${token} in session ${this.name}: it is used`)
    }
    this.files.set(known, { file, format, until })
  }

  async unpreserve(...tokens: FakeToken[]): Promise<void> {
    this.#sessions.mustBeOpen(this)
    const known = tokens.map(knownAs)
    this.#sessions.mayChange(this)
    for (const token of known) this.#file(token)
    for (const token of known) this.files.delete(token)
  }

  async retrieve(token: FakeToken): Promise<unknown> {
    this.#sessions.mustBeOpen(this)
    return this.#file(knownAs(token)).file
  }

  async tokens(): Promise<bigint[]> {
    this.#sessions.mustBeOpen(this)
    return [...this.files.keys()]
  }

  close(): void {
    this.closed = true
  }

  #file(token: bigint): { file: unknown } {
    const file = this.files.get(token)
    if (file) return file
    throw new LuoError('ENOENT', `token ${token}: session ${this.name} has no such file`)
  }
}

/** Those of one fake live. */
export class FakeSessions {
  readonly #sessions = new Map<string, Session>()
  readonly #mayChange: (handed: boolean) => void

  /** `mayChange` throws when a session, handed over or made here, may not be changed now. */
  constructor(mayChange: (handed: boolean) => void, old?: { sessions: FakeSessions; overKexec: boolean }) {
    this.#mayChange = mayChange
    for (const { name, keepMs, files, closed } of old ? old.sessions.#sessions.values() : []) {
      if (closed && keepMs === 0) continue
      const handed = [...files].filter(([, { until }]) => !old?.overKexec || until === undefined)
      this.#sessions.set(name, new Session(this, name, keepMs, new Map(handed)))
    }
  }

  open(name: string, { keepMs = 0 }: FakeSessionOptions): FakeSession {
    const known = this.#sessions.get(name)
    if (known && !known.closed) return known
    // Closed, it waits for somebody only if it was to be kept.
    const kept = known && known.keepMs > 0 ? known.files : undefined
    const session = new Session(this, name, kept ? (known?.keepMs ?? 0) : keepMs)
    for (const [token, file] of kept ?? []) session.files.set(token, file)
    this.#sessions.set(name, session)
    return session
  }

  /** The versions of what is in them, and where. */
  *formats(): Iterable<{ name: string; format: string }> {
    for (const { name, files } of this.#sessions.values()) {
      for (const { format } of files.values()) if (format !== undefined) yield { name, format }
    }
  }

  mustBeOpen({ closed, name }: Session): void {
    if (closed) throw new LuoError('EBADF', `the session ${name} was closed before`)
  }

  mayChange({ handed }: Session): void {
    this.#mayChange(handed)
  }
}

/** Any value is a file; what looks like a descriptor has to be one, as with the real thing. */
export function checkFile(file: unknown): void {
  if (typeof file === 'number') numberOf(file)
  else if (typeof file === 'object' && file !== null && 'fd' in file) numberOf({ fd: file.fd as number })
}

/** EINVAL for what is no token. */
function knownAs(token: FakeToken): bigint {
  return BigInt(tokenText(token))
}
