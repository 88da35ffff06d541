/**
 * What every luoctl command shares: the global options, where to print, how to reach luod, and the exit codes.
 * A command is a function that answers an exit code or throws a LuoError; `main.ts` turns the error into text.
 */
import { statSync } from 'node:fs'
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import type { ReconnectingClient, ReconnectOptions } from '../wire/reconnecting.js'
import { socketPath } from '../wire/socket-path.js'
import { errorLines } from './format.js'

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
} as const

/** Errno names of a connect that mean: nobody is there. */
const NOBODY_THERE = new Set(['ENOENT', 'ECONNREFUSED', 'ENOTDIR', 'EACCES', 'EPERM', 'LUO_NO_DAEMON'])

export interface Context {
  json: boolean
  /** Absolute path of luod's socket. */
  socket: string
  /** How long luod may be away, in milliseconds. */
  reconnectMs?: number | undefined
  /** One line to stdout. */
  out(line: string): void
  /** One line to stderr. */
  err(line: string): void
}

export function createContext(options: { socket?: string; json?: boolean; reconnectMs?: number }): Context {
  return {
    json: options.json === true,
    socket: socketPath(options.socket),
    reconnectMs: options.reconnectMs,
    out: (line) => void process.stdout.write(`${line}\n`),
    err: (line) => void process.stderr.write(`${line}\n`),
  }
}

/** A connection to luod, which outlives it. Throws LUO_NO_DAEMON when nobody listens at the path. */
export async function connect(path: string, options?: ReconnectOptions): Promise<ReconnectingClient> {
  // Loaded only now, so that help and usage errors need no native part and work on any system.
  const { ReconnectingClient } = await import('../wire/reconnecting.js')
  try {
    return await ReconnectingClient.connect(path, options)
  } catch (error) {
    const known = asLuoError(error, 'LUO_NO_DAEMON', `connect to ${path}`)
    if (!NOBODY_THERE.has(known.code)) throw known
    throw new LuoError('LUO_NO_DAEMON', `cannot reach luod at ${path}: ${known.message}`, { cause: error })
  }
}

/** Runs `use` with a connection and closes it on every path. */
export async function withClient<T>(context: Context, use: (client: ReconnectingClient) => Promise<T>): Promise<T> {
  const client = await connect(context.socket, context)
  try {
    return await use(client)
  } finally {
    client.close()
  }
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

/** True when both paths are one directory. A path that cannot be looked at is not. */
export function sameDirectory(a: string, b: string): boolean {
  try {
    const left = statSync(a)
    const right = statSync(b)
    return left.dev === right.dev && left.ino === right.ino
  } catch {
    return false
  }
}
