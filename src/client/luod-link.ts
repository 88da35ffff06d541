/**
 * The client's side of luod: one connection for requests and one for events, which keep the process alive only while
 * something is under way. A connection that is lost is made again, and nobody has to know: requests wait.
 */
import { randomUUID } from 'node:crypto'
import { isLuoError, LuoError } from '../errors.js'
import { MAX_FDS } from '../protocol/interface.js'
import type { FileIn, Methods } from '../protocol/types.js'
import { closeAll, type Fd } from '../sys/fd.js'
import type { Reply } from '../wire/client.js'
import { DEFAULT_RECONNECT_MS, ReconnectingClient } from '../wire/reconnecting.js'

/** When many start at once, luod takes them one after the other. */
const LEAST_QUEUE_MS = 100

export type MemberEvent = Methods['Subscribe']['output']

export interface FileToHand {
  token: string
  fd: Fd
  format?: string
  /** A kexec leaves it behind. */
  until?: 'update' | undefined
}

export interface LinkOptions {
  /** Of luod. */
  path: string
  /** What for, for messages. */
  action: string
  /** How long luod may be away, in milliseconds. */
  reconnectMs: number | undefined
}

export class LuodLink {
  readonly #options: LinkOptions
  readonly #control: ReconnectingClient
  #events: ReconnectingClient | undefined
  #busy = 0

  /** LUO_NO_DAEMON when nobody answers at `path`. */
  static async connect(options: LinkOptions): Promise<LuodLink> {
    return new LuodLink(options, await connect(options))
  }

  private constructor(options: LinkOptions, control: ReconnectingClient) {
    this.#options = options
    this.#control = control
    control.unref()
  }

  /** Resolves when luod is gone, or does not know us any more. */
  get closed(): Promise<LuoError> {
    return this.#control.closed
  }

  async call<M extends keyof Methods>(
    method: M,
    input: Methods[M]['input'],
    fds: readonly Fd[] = [],
    signal?: AbortSignal,
  ): Promise<Reply<M>> {
    this.hold()
    try {
      return await this.#control.call(method, input, fds, signal)
    } finally {
      this.letGo()
    }
  }

  /** How long luod may be away from here on, in milliseconds; without it as long as at first. */
  waitFor(ms?: number): void {
    this.#control.waitFor(ms)
    this.#events?.waitFor(ms)
  }

  /** The process stays alive until `letGo`. */
  hold(): void {
    if (this.#busy++ === 0) this.#control.ref()
  }

  letGo(): void {
    if (--this.#busy === 0) this.#control.unref()
  }

  /**
   * Resolves when luod has taken the subscription; events go to `onEvent` from then on, `subscribed` included when that
   * had to be said again after a loss (`onLost`).
   */
  async subscribe(
    workload: string,
    member: string,
    { onEvent, onLost }: { onEvent(event: MemberEvent): void; onLost(): void },
  ): Promise<void> {
    const events = await connect(this.#options, onLost)
    this.#events = events
    const stream = events.stream('Subscribe', { member })[Symbol.asyncIterator]()
    const first = await stream.next()
    if (first.done) throw new LuoError('LUO_GONE', `subscribe to the updates of ${workload}: luod ended the connection`)
    events.unref()
    const follow = async () => {
      for (let next = await stream.next(); !next.done; next = await stream.next()) onEvent(next.value.parameters)
    }
    // A luod that does not know this member is none to go on with.
    follow().then(
      () => this.#control.close(),
      () => this.#control.close(),
    )
  }

  async preserve(session: string, files: readonly FileToHand[], signal?: AbortSignal): Promise<void> {
    for (let at = 0; at < files.length; at += MAX_FDS) {
      const part = files.slice(at, at + MAX_FDS)
      const { described, fds } = describe(part)
      await this.call('Preserve', { id: randomUUID(), session, files: described, fds: fds.length }, fds, signal)
    }
  }

  /** This version has let go; luod holds these files too from the answer on. `signal` withdraws the word. */
  async ready(
    { member, update, session }: { member: string; update: string; session: string },
    files: readonly FileToHand[],
    heldSince: number,
    signal: AbortSignal,
  ): Promise<void> {
    const last = files.length - (files.length % MAX_FDS || Math.min(files.length, MAX_FDS))
    await this.preserve(session, files.slice(0, last), signal)
    // The last ones, and so usually all, save a round trip in which clients wait.
    const { described, fds } = describe(files.slice(last))
    const heldMs = performance.now() - heldSince
    const ready = { id: randomUUID(), member, update, files: described, held_ms: heldMs, fds: fds.length }
    await this.call('Ready', ready, fds, signal)
  }

  async unpreserve(session: string, tokens: readonly string[]): Promise<void> {
    if (tokens.length > 0) await this.call('Unpreserve', { id: randomUUID(), session, tokens: [...tokens] })
  }

  /** The end of a session, whoever holds it. */
  async release(session: string): Promise<void> {
    await this.call('ReleaseSession', { id: randomUUID(), session, force: true })
  }

  /** Adds the session's files from `offset` on, in the order in which they were preserved, to those in `found`. */
  async retrieveFrom(session: string, offset: number, found: Map<string, Fd>): Promise<void> {
    for (let at = offset, total = offset + 1; at < total; ) {
      const { parameters, fds } = await this.call('Retrieve', { session, offset: at })
      if (fds.length === 0) return
      addByToken(parameters.files, fds, found)
      total = parameters.total
      at += fds.length
    }
  }

  close(): void {
    this.#events?.close()
    this.#control.close()
  }
}

/** LUO_PROTOCOL when two are at one token, or one is not there; then, as ever, the others are `found`'s. Owns `fds`. */
export function addByToken(
  described: readonly { token: string; fd: number }[],
  fds: readonly Fd[],
  found: Map<string, Fd>,
): void {
  const left = new Set(fds)
  try {
    for (const { token, fd } of described) {
      const file = fds[fd]
      if (!file || found.has(token) || !left.delete(file)) {
        throw new LuoError('LUO_PROTOCOL', `read what luod sent: the file of token ${token} is not there, or twice`)
      }
      found.set(token, file)
    }
  } finally {
    closeAll(left)
  }
}

/** The one file of an answer; others are none of ours. */
export function oneFile([file, ...others]: readonly Fd[]): Fd | undefined {
  closeAll(others)
  return file
}

function describe(files: readonly FileToHand[]): { described: FileIn[]; fds: Fd[] } {
  return {
    described: files.map(({ token, format, until }, fd) => ({
      ...{ token, fd },
      ...(format === undefined ? {} : { format }),
      ...(until === undefined ? {} : { until }),
    })),
    fds: files.map(({ fd }) => fd),
  }
}

async function connect({ path, action, reconnectMs }: LinkOptions, onLost?: () => void): Promise<ReconnectingClient> {
  const queueMs = Math.max(LEAST_QUEUE_MS, reconnectMs ?? DEFAULT_RECONNECT_MS)
  try {
    return await ReconnectingClient.connect(path, { reconnectMs, queueMs, ...(onLost ? { onLost } : {}) })
  } catch (error) {
    if (isLuoError(error, 'EAGAIN')) {
      throw new LuoError('LUO_NO_DAEMON', `${action}: ${error.message}`, { cause: error })
    }
    if (!isLuoError(error, 'ENOENT') && !isLuoError(error, 'ECONNREFUSED')) throw error
    throw new LuoError('LUO_NO_DAEMON', `${action}: nobody listens at ${path}`, { cause: error })
  }
}
