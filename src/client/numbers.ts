/**
 * Every number that an application gives, in one table: JSON has no NaN and no Infinity, and a system call takes
 * whatever bits there are, so what is none is LUO_INVALID_PARAMETER, which names it, before anything is done with it.
 *
 * What no timer of Node.js can wait for it would wait 1 ms for: then it waits for as long as it can.
 */
import { LuoError } from '../errors.js'
import type { AdoptSessionOptions, JoinOptions, MemoryOptions, ServeOptions, SessionOptions } from './types.js'

/** A timer's number is a signed one of 32 bits: 24.8 days. */
const MOST_MS = 2 ** 31 - 1
const MOST_OF_INT = 2 ** 31 - 1
const MOST_PORT = 2 ** 16 - 1

interface Rule {
  needs: string
  is(value: number): boolean
  /** Node.js takes it as text too, and checks that. */
  orText?: true
  /** More than that is that. */
  most?: number
}

const WAIT: Rule = { needs: 'milliseconds are needed, 0 or more', is: (ms) => ms >= 0, most: MOST_MS }

function whole(what: string, least: number, most: number): Rule {
  return {
    needs: `a whole number of ${what} is needed, ${least} to ${most}`,
    is: (value) => Number.isInteger(value) && value >= least && value <= most,
  }
}

const KEPT = whole('milliseconds', 0, Number.MAX_SAFE_INTEGER)
const BYTES = whole('bytes', 0, Number.MAX_SAFE_INTEGER)
/** Of memory, which is never empty, and which has an address. */
const MEMORY = whole('bytes', 1, 2 ** 45)
/** Of calls, and of `liveupdate/testing`. */
const OTHERS = {
  timeoutMs: WAIT,
  deadlineMs: whole('milliseconds', 1, MOST_MS),
  offset: BYTES,
  length: BYTES,
  // -1 is what was closed, which is EBADF.
  fd: { ...whole('descriptor', -1, MOST_OF_INT), needs: 'the number of an open file is needed' },
}

/** Names of the members of an options object that are numbers. */
type NumbersOf<T> = { [K in keyof T]-?: NonNullable<T[K]> extends number ? K : never }[keyof T]
type Option =
  | NumbersOf<JoinOptions>
  | NumbersOf<AdoptSessionOptions>
  | NumbersOf<SessionOptions>
  | NumbersOf<MemoryOptions>
  | NumbersOf<ServeOptions>

const RULES: Readonly<Record<Option | keyof typeof OTHERS, Rule>> = {
  reconnectMs: WAIT,
  kexecWaitMs: WAIT,
  drainMs: WAIT,
  settleMs: WAIT,
  longMs: WAIT,
  keepMs: KEPT,
  size: MEMORY,
  max: MEMORY,
  port: { ...whole('port', 0, MOST_PORT), needs: `a port is needed, 0 to ${MOST_PORT}`, orText: true },
  backlog: { ...whole('connections', 0, MOST_OF_INT), orText: true },
  ...OTHERS,
}

/** The same options, checked, with each wait such that a timer takes it. */
export function checkNumbers<T extends object>(options: T): T {
  const checked = { ...options }
  for (const [name, value] of Object.entries(options)) {
    const rule = (RULES as Readonly<Record<string, Rule>>)[name]
    if (!rule || value === undefined || (rule.orText && typeof value === 'string')) continue
    if (typeof value !== 'number' || !rule.is(value)) throw wrong(name, value, rule.needs)
    if (rule.most !== undefined) Object.assign(checked, { [name]: Math.min(value, rule.most) })
  }
  const { size, max } = checked as Partial<MemoryOptions>
  if (size !== undefined && max !== undefined && max < size) throw wrong('max', max, `size is ${size}, which is more`)
  return checked
}

/** Of memory that has to be made. Without types it may be missing, and would be none. */
export function sizeOf(name: string, { size }: { readonly size?: number | undefined }): number {
  if (size !== undefined) return size
  throw wrong('size', size, `to make memory ${name} its bytes are needed`)
}

function wrong(parameter: string, value: unknown, why: string): LuoError {
  return new LuoError('LUO_INVALID_PARAMETER', `${parameter} is ${String(value)}: ${why}`, { params: { parameter } })
}

/** The number of a file that an application owns, as it gives it. */
export function numberOf(file: number | { readonly fd: number }): number {
  const fd = typeof file === 'number' ? file : file.fd
  return checkNumbers({ fd }).fd
}
