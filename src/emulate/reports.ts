/**
 * What `luoctl emulate` gives its notifier, as one JSON argument, and what the notifier reports back on descriptor 3,
 * one JSON value a line. The notifier outlives the foreground: a report that nobody reads any more is dropped.
 */
import type { LuoError } from '../errors.js'

export interface EmulationSettings {
  socket: string
  machine: string
  /** undefined: those that the machine has, or the kernel's. */
  handlers: 'kernel' | 'all' | undefined
  fail: readonly string[]
  trace: boolean
  /** Also those for reading alone that are close-on-exec: slower. */
  everyOpen: boolean
  /** Of the program; `argv` begins with the name that it was called by. */
  path: string
  argv: readonly string[]
}

/** One intercepted call and what became of it, for `--trace`. */
export interface TracedCall {
  tid: number
  text: string
  /** undefined: it got no answer, or the kernel did it. */
  result: string | undefined
  microseconds: number
}

export type Report =
  | { pid: number }
  | { exit: number }
  | { signal: NodeJS.Signals }
  /** All programs are being ended: a kexec, or the end of the machine. */
  | { endedByMachine: true }
  | { trace: TracedCall }
  | { warning: string }
  | { error: string; code: LuoError['code'] }
