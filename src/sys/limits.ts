/** The limit on open files, RLIMIT_NOFILE: raised to what is allowed, once, by programs that hold files for others. */
import { checked, integer } from './ffi.js'

const RLIMIT_NOFILE = 7
/** An unlimited limit is reported as this; no kernel lets a process have more anyway (fs.nr_open). */
const MAX_REPORTED = 2 ** 30

export interface NofileLimit {
  soft: number
  hard: number
}

export function nofileLimit(): NofileLimit {
  const limits = new BigUint64Array(2)
  checked('read the limit on open files', 'getrlimit', RLIMIT_NOFILE, limits)
  const [soft = 0n, hard = 0n] = limits
  return { soft: Math.min(Number(soft), MAX_REPORTED), hard: Math.min(Number(hard), MAX_REPORTED) }
}

/** Raises the soft limit to the hard one, or sets it to `soft`. Answers what holds then. */
export function raiseNofile(soft?: number): NofileLimit {
  if (soft !== undefined) integer(soft, 0, Number.MAX_SAFE_INTEGER, 'the limit on open files')
  const limits = new BigUint64Array(2)
  checked('read the limit on open files', 'getrlimit', RLIMIT_NOFILE, limits)
  limits[0] = soft === undefined ? (limits[1] ?? 0n) : BigInt(soft)
  checked(`set the limit on open files to ${limits[0]}`, 'setrlimit', RLIMIT_NOFILE, limits)
  return nofileLimit()
}
