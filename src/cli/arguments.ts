/**
 * The command line before commander sees it. Everything after the first `--` is another program's command and is never
 * read as options of luoctl; an optional value (`--check [prepare]`) must not swallow the name that follows it. And
 * what makes an argument wrong whatever luod says to it. Pure.
 */
import { LuoError } from '../errors.js'

/** What luod takes, too; a test compares. Its own code would have to be loaded for this number alone. */
export const MAX_NAME_BYTES = 63

export interface SplitArguments {
  own: string[]
  /** What followed `--`; undefined when there was none. */
  command: string[] | undefined
}

export const CHECK_MODES = ['successor', 'prepare'] as const
export type CheckMode = (typeof CHECK_MODES)[number]

export function splitArguments(args: readonly string[]): SplitArguments {
  const dashes = args.indexOf('--')
  const own = dashes < 0 ? [...args] : args.slice(0, dashes)
  return { own: bindCheck(own), command: dashes < 0 ? undefined : args.slice(dashes + 1) }
}

/** `--check NAME` becomes `--check=successor NAME`; `--check prepare` becomes `--check=prepare`. */
function bindCheck(args: readonly string[]): string[] {
  const bound: string[] = []
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] as string
    if (arg !== '--check') {
      bound.push(arg)
      continue
    }
    const next = args[i + 1]
    const given = CHECK_MODES.find((mode) => mode === next)
    bound.push(`--check=${given ?? 'successor'}`)
    if (given) i++
  }
  return bound
}

export function usageError(message: string): LuoError {
  return new LuoError('LUO_INVALID_PARAMETER', message)
}

/** Reads an argument that names something of this kind. */
export function nameOf(kind: string): (text: string) => string {
  return (text) => {
    const bytes = Buffer.byteLength(text)
    if (bytes >= 1 && bytes <= MAX_NAME_BYTES) return text
    throw usageError(
      `the name of a ${kind} has 1 to ${MAX_NAME_BYTES} bytes, and this one ${bytes}: ${shortened(text)}`,
    )
  }
}

/** Reads an argument that is a path: an empty one would be the working directory to some, and nothing to others. */
export function pathOf(what: string): (text: string) => string {
  return (text) => {
    if (text !== '') return text
    throw usageError(`the path of ${what} is empty`)
  }
}

/** Reads the value of this option: a whole number, 1 or more. */
export function countOf(option: string): (text: string) => number {
  return (text) => {
    if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
    throw usageError(`${option} "${text}": a whole number, 1 or more`)
  }
}

function shortened(text: string): string {
  return JSON.stringify(text.length > MAX_NAME_BYTES ? `${text.slice(0, MAX_NAME_BYTES)}…` : text)
}
