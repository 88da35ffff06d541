/**
 * The logic of `luoctl run`: which process is the current version, which one is its successor, and what an exit means.
 * It owns no socket, signal or file: those are given to it (`SupervisorPort`), so that every order of events can be
 * tested.
 *
 * An exit during an update is judged when the update has ended: only then it is known whether the process that ended
 * was the old version (expected) or the current one. An old version that drains after a commit is waited for at the
 * end, and its exit means nothing. A failed successor is killed, if luod did not come to know of it in time to do so.
 */

import { constants } from 'node:os'
import { EXIT } from './context.js'

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

/** A started process. `onExit` is called once, in a later turn. */
export interface Started {
  pid: number
  kill(signal: NodeJS.Signals): void
}

export interface SupervisorPort {
  /** Starts a process; throws when that cannot be done. */
  start(command: readonly string[], onExit: (exit: Exit) => void): Started
  say(text: string): void
  /** All is over: nothing that was started is alive any more. */
  finished(exit: Exit): void
  now(): number
  later(ms: number, run: () => void): () => void
}

export const BACKOFF_FIRST_MS = 100
export const BACKOFF_MAX_MS = 10_000
/** A process that ran this long was no failed start: the next restart is quick again. */
export const BACKOFF_RESET_MS = 10_000

interface Version {
  process: Started
  command: readonly string[]
  startedAt: number
  exit: Exit | undefined
}

export class Supervisor {
  readonly #port: SupervisorPort
  readonly #restart: boolean
  readonly #alive = new Set<Version>()
  #command: readonly string[]
  #current: Version | undefined
  #pending: { update: string; successor: Version | undefined } | undefined
  /** The successor of an update whose end nobody will tell: it is the current one when the old one ends first. */
  #undecided: Version | undefined
  #stopping = false
  #luodGone = false
  #backoffMs = BACKOFF_FIRST_MS
  #cancelRestart: (() => void) | undefined
  #result: Exit | undefined

  constructor(port: SupervisorPort, options: { command: readonly string[]; restart: boolean }) {
    this.#port = port
    this.#command = options.command
    this.#restart = options.restart
  }

  get currentPid(): number | undefined {
    return this.#current?.exit === undefined ? this.#current?.process.pid : undefined
  }

  /** The update whose end is not known yet, and its successor. */
  get pending(): { update: string; pid: number | undefined } | undefined {
    return this.#pending && { update: this.#pending.update, pid: this.#pending.successor?.process.pid }
  }

  /** Whether anything was ever started. */
  get started(): boolean {
    return this.#current !== undefined
  }

  knows(pid: number): boolean {
    return [...this.#alive].some((version) => version.process.pid === pid)
  }

  /** The first start. Throws what starting throws. */
  begin(): void {
    this.#current = this.#launch(this.#command, this.#port.start)
  }

  /** Starts the successor of an update with `start`, which carries the ticket; answers it, or throws. */
  beginUpdate(update: string, command: readonly string[] | undefined, start: SupervisorPort['start']): Started {
    this.#pending = { update, successor: undefined }
    const version = this.#launch(command ?? this.#command, start)
    this.#pending.successor = version
    return version.process
  }

  endUpdate(update: string, committed: boolean): void {
    const pending = this.#pending
    if (pending?.update !== update) return
    this.#pending = undefined
    if (committed && pending.successor) {
      this.#cancelRestart?.()
      this.#cancelRestart = undefined
      this.#current = pending.successor
      this.#command = pending.successor.command
      this.#backoffMs = BACKOFF_FIRST_MS
    } else if (pending.successor?.exit === undefined) {
      pending.successor?.process.kill('SIGKILL')
    }
    this.#judge()
  }

  /** luod is gone: what runs goes on, nothing is restarted, an update under way will never be heard of again. */
  luodGone(): void {
    this.#luodGone = true
    this.#undecided = this.#pending?.successor
    this.#pending = undefined
    this.#judge()
  }

  /** A signal for the workload. One that ends it also ends what drains, and means: no restart. */
  signal(signal: NodeJS.Signals, options: { ends: boolean; passOn: boolean }): void {
    if (options.ends) {
      this.#stopping = true
      if (this.#cancelRestart) {
        this.#cancelRestart()
        this.#cancelRestart = undefined
        this.#end({ code: null, signal })
      }
    }
    if (!options.passOn) return
    for (const version of options.ends ? this.#alive : this.#current ? [this.#current] : []) {
      if (version.exit === undefined) version.process.kill(signal)
    }
  }

  #launch(command: readonly string[], start: SupervisorPort['start']): Version {
    const version: Version = {
      process: start(command, (exit) => this.#exited(version, exit)),
      command,
      startedAt: this.#port.now(),
      exit: undefined,
    }
    this.#alive.add(version)
    return version
  }

  #exited(version: Version, exit: Exit): void {
    version.exit = exit
    this.#alive.delete(version)
    // How it ended only its parent knows. Whom luod has killed did not end by itself.
    if (version === this.#pending?.successor && exit.signal !== 'SIGKILL') {
      this.#port.say(`the new version, pid ${version.process.pid}, ${describeExit(exit)}`)
    }
    this.#judge()
    if (this.#result && this.#alive.size === 0) this.#port.finished(this.#result)
  }

  /** Looks at the current version, when nothing is pending that could change which one that is. */
  #judge(): void {
    if (this.#current?.exit && this.#undecided?.exit === undefined) this.#current = this.#undecided ?? this.#current
    const current = this.#current
    if (!current?.exit || this.#pending || this.#result || this.#cancelRestart) return
    const { exit } = current
    if (!this.#restart || this.#stopping || exit.code === 0) {
      this.#end(exit)
    } else if (this.#luodGone) {
      this.#port.say(`${describeExit(exit)}; not restarted, because luod is gone`)
      this.#end(exit)
    } else {
      this.#restartLater(current, exit)
    }
  }

  #restartLater(version: Version, exit: Exit): void {
    if (this.#port.now() - version.startedAt >= BACKOFF_RESET_MS) this.#backoffMs = BACKOFF_FIRST_MS
    this.#port.say(`pid ${version.process.pid} ${describeExit(exit)}; restart in ${this.#backoffMs} ms`)
    this.#tryRestart(0, undefined)
  }

  /** `failed`: how often in vain, and why the last time, which is said once. */
  #tryRestart(failed: number, why: string | undefined): void {
    const delay = this.#backoffMs
    this.#backoffMs = Math.min(delay * 2, BACKOFF_MAX_MS)
    this.#cancelRestart = this.#port.later(delay, () => {
      this.#cancelRestart = undefined
      if (this.#pending) return
      try {
        this.#current = this.#launch(this.#command, this.#port.start)
        if (failed > 0) this.#port.say(`restarted, after ${failed} attempts that failed`)
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        const last = BACKOFF_MAX_MS / 1000
        if (reason !== why) this.#port.say(`restart failed: ${reason}; tried again, at last every ${last} s`)
        this.#tryRestart(failed + 1, reason)
      }
    })
  }

  #end(exit: Exit): void {
    if (this.#result) return
    this.#result = exit
    if (this.#alive.size === 0) this.#port.finished(exit)
  }
}

export function describeExit(exit: Exit): string {
  return exit.signal === null ? `exited with code ${exit.code ?? 0}` : `was killed by ${exit.signal}`
}

export function exitCodeOfProcess(exit: Exit): number {
  return exit.signal === null ? (exit.code ?? 0) : EXIT.SIGNAL_BASE + constants.signals[exit.signal]
}
