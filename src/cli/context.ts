/**
 * What every luoctl command shares: the global options, where to print, how to reach luod, and the exit codes.
 * A command is a function that answers an exit code or throws a LuoError; `main.ts` turns the error into text.
 */
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import type { ReconnectingClient, ReconnectOptions } from '../wire/reconnecting.js'
import { socketPath } from '../wire/socket-path.js'
import { errorLines, printable } from './format.js'

export const EXIT = {
  OK: 0,
  /** Anything that has no code of its own. */
  FAILED: 1,
  USAGE: 2,
  /** The update ended and the old version is what is there: rolledBack, or orphaned. */
  NOT_UPDATED: 3,
  NO_DAEMON: 4,
  /** `inspect --verify`: what it looked at is damaged. */
  DAMAGED: 5,
  /** As in shells: the command was found and could not be executed, or was not found. */
  CANNOT_EXECUTE: 126,
  NOT_FOUND: 127,
  /** Added to a signal's number. */
  SIGNAL_BASE: 128,
  /** By Ctrl-C, SIGINT. */
  INTERRUPTED: 130,
} as const

/** luod answers in some milliseconds, and after a moment while it is replaced. `--reconnect` sets it too. */
const ANSWER_LIMIT_MS = 10_000

/** Errno names of a connect that mean: nobody is there. */
const NOBODY_THERE = new Set(['ENOENT', 'ECONNREFUSED', 'ENOTDIR', 'EACCES', 'EPERM', 'LUO_NO_DAEMON'])

export interface Context {
  json: boolean
  /** Absolute path of luod's socket. */
  socket: string
  /** How long luod may be away, in milliseconds. */
  reconnectMs?: number | undefined
  /** How long luod may leave its first request without an answer, in milliseconds. */
  answerMs?: number | undefined
  /** One line to stdout, `printable`. */
  out(line: string): void
  /** One line to stderr, `printable`. */
  err(line: string): void
}

export function createContext(options: { socket?: string; json?: boolean; reconnect?: number }): Context {
  const json = options.json === true
  return {
    json,
    socket: socketPath(options.socket),
    reconnectMs: options.reconnect,
    answerMs: options.reconnect,
    out: (line) => void process.stdout.write(`${printable(line, json)}\n`),
    err: (line) => toStderr(line, json),
  }
}

export function toStderr(line: string, json: boolean): void {
  process.stderr.write(`${printable(line, json)}\n`)
}

export type Status = Methods['Status']['output']

export interface ConnectOptions extends ReconnectOptions {
  answerMs?: number | undefined
}

/** A connection to luod, which outlives it, and what luod said about itself on it. */
export interface Connected {
  client: ReconnectingClient
  status: Status
}

/** Throws LUO_NO_DAEMON when nobody listens at the path, or somebody who does not answer (`doesNotAnswer`). */
export async function connect(path: string, options: ConnectOptions = {}): Promise<Connected> {
  // Loaded only now, so that help and usage errors need no native part and work on any system.
  const { ReconnectingClient } = await import('../wire/reconnecting.js')
  let client: ReconnectingClient
  try {
    client = await ReconnectingClient.connect(path, { queueMs: options.answerMs ?? ANSWER_LIMIT_MS, ...options })
  } catch (error) {
    const known = asLuoError(error, 'LUO_NO_DAEMON', `connect to ${path}`)
    // It is stopped or hangs, and so many have come since that it takes nobody any more.
    if (known.code === 'EAGAIN')
      throw new LuoError('LUO_NO_DAEMON', known.message, { cause: error, params: { silent: true } })
    if (!NOBODY_THERE.has(known.code)) throw known
    throw new LuoError('LUO_NO_DAEMON', `cannot reach luod at ${path}: ${known.message}`, { cause: error })
  }
  try {
    return { client, status: await statusOf(client, path, options.answerMs ?? ANSWER_LIMIT_MS) }
  } catch (error) {
    client.close()
    throw error
  }
}

/**
 * The kernel connects to a process that is stopped or hangs, too, and what is asked may well take long: so this is
 * asked first, which luod answers at once, also while it stands still for a kexec.
 */
async function statusOf(client: ReconnectingClient, path: string, limitMs: number): Promise<Status> {
  const limit = new AbortController()
  const timer = setTimeout(() => {
    const { pid } = client
    const who = pid === undefined ? `nobody answers at ${path}` : `luod (pid ${pid}) does not answer at ${path}`
    const why = pid === undefined ? '' : ': it is stopped or hangs'
    limit.abort(
      new LuoError('LUO_NO_DAEMON', `${who} for ${limitMs / 1000} s${why}`, { params: { silent: true, pid } }),
    )
  }, limitMs)
  try {
    return (await client.call('Status', {}, [], limit.signal)).parameters
  } finally {
    clearTimeout(timer)
  }
}

/** Whether luod is there, and says nothing: another one cannot take its place. */
export function doesNotAnswer(error: unknown): boolean {
  return isLuoError(error, 'LUO_NO_DAEMON') && error.params.silent === true
}

/**
 * Runs `use` with a connection and closes it on every path. LUO_NO_DAEMON too when luod has ended meanwhile, for good.
 */
export async function withClient<T>(
  context: Context,
  use: (client: ReconnectingClient, status: Status) => Promise<T>,
): Promise<T> {
  const { client, status } = await connect(context.socket, context)
  try {
    return await use(client, status)
  } catch (error) {
    throw isLuoError(error, 'LUO_GONE') && client.endedBy(error) ? luodEnded(error) : error
  } finally {
    client.close()
  }
}

/**
 * The replies of a stream that says little and then ends. LUO_PROTOCOL when there are more than `most`, which luod never
 * has to say.
 */
export async function* atMost<T>(
  most: number,
  replies: AsyncIterable<T>,
  what: string,
): AsyncGenerator<T, void, undefined> {
  let count = 0
  for await (const reply of replies) {
    if (++count > most) throw new LuoError('LUO_PROTOCOL', `${what}: luod has said ${most} things, and goes on`)
    yield reply
  }
}

function luodEnded(cause: LuoError): LuoError {
  return new LuoError('LUO_NO_DAEMON', cause.message, { cause })
}

export function exitCodeOf(error: unknown): number {
  if (isLuoError(error, 'LUO_NO_DAEMON')) return EXIT.NO_DAEMON
  if (isLuoError(error, 'LUO_INVALID_PARAMETER')) return EXIT.USAGE
  return EXIT.FAILED
}

/** The error to stderr, as text or as one JSON line; answers the exit code. */
export function reportError(error: unknown, json: boolean, err: (line: string) => void): number {
  if (json) {
    const known = asLuoError(error, 'EIO', 'luoctl failed')
    err(JSON.stringify({ error: { code: known.code, message: known.message } }))
  } else {
    for (const line of errorLines(error)) err(line)
  }
  return exitCodeOf(error)
}
