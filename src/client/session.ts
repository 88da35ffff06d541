/**
 * A session with raw tokens, beside what `Live` keeps by name: one of the workload (`live.session`), or of a program
 * that is no workload (`openSession`, `adoptSession`). It lives as long as somebody has its descriptor, in this process
 * or another one; files are luod's from the moment that `preserve` is answered.
 *
 * Errors are luod's: EEXIST for a token in use, ENOENT for one that is not there or a file that cannot be preserved,
 * EBUSY while an update has the session, EINVAL for what is no token. After `close`, EBADF.
 */
import { randomUUID } from 'node:crypto'
import { isLuoError, LuoError } from '../errors.js'
import type { Session } from '../protocol/types.js'
import { closeAll, type Fd, inheritedFd } from '../sys/fd.js'
import { duplicateNumber } from '../sys/node.js'
import { socketPath } from '../wire/socket-path.js'
import { LuodLink, oneFile } from './luod-link.js'
import { numberOf } from './numbers.js'
import { receivedToken, tokenText } from './token.js'
import type {
  AdoptSessionOptions,
  FileOptions,
  LiveSession,
  OpenSessionOptions,
  SessionOptions,
  Token,
} from './types.js'

/** In a session; the kernel's have 630,000 at most. A list that goes on is none. */
const MAX_FILES = 1_000_000

export class LuodSession implements LiveSession {
  readonly name: string
  readonly #id: string
  readonly #link: LuodLink
  readonly #fd: Fd
  readonly #onClose: () => void

  /** Owns `fd`. */
  constructor(link: LuodLink, { name, session }: Session, fd: Fd, onClose: () => void) {
    this.name = name
    this.#id = session
    this.#link = link
    this.#fd = fd
    this.#onClose = onClose
  }

  get fd(): number {
    return this.#fd.number
  }

  async preserve(
    token: Token,
    file: number | { readonly fd: number },
    format?: string,
    { until }: FileOptions = {},
  ): Promise<void> {
    this.#mustBeOpen('preserve')
    using fd = duplicateNumber(numberOf(file))
    const described = {
      ...{ token: tokenText(token), fd: 0 },
      ...(format === undefined ? {} : { format }),
      ...(until === undefined ? {} : { until }),
    }
    await this.#link.call('Preserve', { id: randomUUID(), session: this.#id, files: [described], fds: 1 }, [fd])
  }

  async unpreserve(...tokens: Token[]): Promise<void> {
    this.#mustBeOpen('unpreserve')
    await this.#link.unpreserve(this.#id, tokens.map(tokenText))
  }

  async retrieve(token: Token): Promise<number> {
    this.#mustBeOpen('retrieve')
    const { fds } = await this.#link.call('Retrieve', { session: this.#id, tokens: [tokenText(token)] })
    const fd = oneFile(fds)
    if (!fd) throw new LuoError('LUO_PROTOCOL', `retrieve token ${token} of session ${this.name}: no file came`)
    return fd.release()
  }

  async tokens(): Promise<bigint[]> {
    this.#mustBeOpen('list')
    const tokens: bigint[] = []
    for (;;) {
      const { files, total } = (await this.#link.call('Files', { session: this.#id, offset: tokens.length })).parameters
      for (const { token } of files) tokens.push(receivedToken(token))
      if (tokens.length > MAX_FILES) throw new LuoError('LUO_PROTOCOL', `list ${this.name}: the list has no end`)
      if (files.length === 0 || tokens.length >= total) return tokens
    }
  }

  close(): void {
    if (this.#fd.closed) return
    this.#fd.close()
    this.#onClose()
  }

  #mustBeOpen(action: string): void {
    if (this.#fd.closed) throw new LuoError('EBADF', `${action}: the session ${this.name} was closed before`)
  }
}

/** Those of a workload's member, one of each name. */
export class MemberSessions {
  readonly #link: LuodLink
  readonly #member: string
  readonly #open = new Map<string, Promise<LuodSession>>()

  constructor(link: LuodLink, member: string) {
    this.#link = link
    this.#member = member
  }

  /** Made, or the one of this name that was handed over (`handed`) or waits. */
  open(name: string, options: SessionOptions, handed: boolean): Promise<LuodSession> {
    const known = this.#open.get(name)
    if (known) return known
    const onClose = () => this.#open.delete(name)
    const request = { name, member: this.#member }
    const opened = handed
      ? adopt(this.#link, request, onClose)
      : createOrAdopt(this.#link, { ...request, ...options }, onClose)
    // Asked for twice at once, it is one.
    this.#open.set(name, opened)
    opened.catch(onClose)
    return opened
  }

  close(): void {
    for (const opened of this.#open.values()) {
      opened.then(
        (session) => session.close(),
        () => {},
      )
    }
  }
}

async function createOrAdopt(
  link: LuodLink,
  { keepMs, ...request }: SessionOptions & { name: string; member?: string },
  onClose: () => void,
): Promise<LuodSession> {
  try {
    const keep = keepMs === undefined ? {} : { keep_ms: keepMs }
    const { parameters, fds } = await link.call('CreateSession', { id: randomUUID(), ...request, ...keep })
    return made(link, parameters.session, fds, onClose)
  } catch (error) {
    if (!isLuoError(error, 'EEXIST')) throw error
    return adopt(link, request, onClose)
  }
}

async function adopt(
  link: LuodLink,
  request: { name: string; member?: string },
  onClose: () => void,
): Promise<LuodSession> {
  const { parameters, fds } = await link.call('AdoptSession', { id: randomUUID(), ...request })
  return made(link, parameters.session, fds, onClose)
}

function made(link: LuodLink, session: Session, fds: readonly Fd[], onClose: () => void): LuodSession {
  const fd = oneFile(fds)
  if (!fd) throw new LuoError('LUO_PROTOCOL', `open the session ${session.name}: luod sent no descriptor`)
  return new LuodSession(link, session, fd, onClose)
}

/** For programs that are no workload. EBUSY when somebody holds the session of this name. */
export async function openProgramSession(name: string, options: OpenSessionOptions): Promise<LiveSession> {
  return connected(options, name, (link) => createOrAdopt(link, { name, keepMs: options.keepMs }, () => link.close()))
}

export async function adoptProgramSession(
  which: { name: string } | { fd: number },
  options: AdoptSessionOptions,
): Promise<LiveSession> {
  if ('name' in which) {
    const { name } = which
    return connected(options, name, (link) => adopt(link, { name }, () => link.close()))
  }
  const fd = inheritedFd(which.fd)
  try {
    return await connected(options, `at descriptor ${which.fd}`, async (link) => {
      const { parameters, fds } = await link.call('AdoptSession', { id: randomUUID(), fds: 1 }, [fd])
      closeAll(fds)
      return new LuodSession(link, parameters.session, fd, () => link.close())
    })
  } catch (error) {
    // It stays the caller's.
    fd.release()
    throw error
  }
}

async function connected(
  { socket, reconnectMs }: { socket?: string; reconnectMs?: number },
  what: string,
  use: (link: LuodLink) => Promise<LiveSession>,
): Promise<LiveSession> {
  const link = await LuodLink.connect({ path: socketPath(socket), action: `open the session ${what}`, reconnectMs })
  try {
    return await use(link)
  } catch (error) {
    link.close()
    throw error
  }
}
