/** A process of `version.c`, as the soak test sees it: it is asked line by line, and says where it is. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Fd } from '../../src/sys/fd.js'
import { inheritStdio } from '../../src/sys/node.js'

/** Whoever does not answer for this long never will. */
const LIMIT_MS = 20_000
const TICKET_FD = 3
/** What a program exits with when a sanitizer found something; the report is on its standard error. */
const SANITIZER_CODE = 99

export interface VersionOptions {
  program: string
  directory: string
  socket: string
  workload: string
  ticket?: Fd
  /** Where it stops: "before Commit". */
  stop?: string
  /** It has come to where it stops. */
  onStopped?(version: Version): void
}

export class Version {
  readonly #child: ChildProcess
  readonly #options: VersionOptions
  readonly #lines: string[] = []
  /** Of everybody who waits for a line or the end. */
  readonly #wakers = new Set<() => void>()
  #exited = false
  #end = ''
  /** A sanitizer has ended it. */
  #broken = false
  /** Whether it waits at its point for a `goOn`. */
  stopped = false
  /** Whether it will stop at a point that it has not come to. */
  armed = false
  /** How often an update has been taken back for it. */
  resumed = 0

  constructor(options: VersionOptions) {
    const { program, directory, socket, workload, ticket, stop } = options
    this.#options = options
    const { LUO_TICKET, ...inherited } = process.env
    const env = { ...inherited, ASAN_OPTIONS: `exitcode=${SANITIZER_CODE}` }
    this.#child = spawn(program, stop ? stop.split(' ') : [], {
      cwd: directory,
      env: { ...env, LUO_SOCKET: socket, LUO_WORKLOAD: workload, ...(ticket ? { LUO_TICKET: String(TICKET_FD) } : {}) },
      stdio: ['pipe', 'pipe', 'inherit', ...(ticket ? [inheritStdio(ticket)] : [])],
    })
    this.#child.on('error', () => {})
    this.#child.stdin?.on('error', () => {})
    // `close`, not `exit`: what it said last comes before it.
    this.#child.once('close', (code, signal) => {
      this.#exited = true
      this.#end = `ended with ${signal ?? code}`
      this.#broken = code === SANITIZER_CODE
      this.#wake()
    })
    if (this.#child.stdout) createInterface({ input: this.#child.stdout }).on('line', (line) => this.#heard(line))
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  get exited(): boolean {
    return this.#exited
  }

  #heard(line: string): void {
    if (line.startsWith('at ')) {
      this.stopped = true
      this.armed = false
      this.#options.onStopped?.(this)
      this.#wake()
      return
    }
    if (line === 'resumed') this.resumed += 1
    else this.#lines.push(line)
    this.#wake()
  }

  /** It has been told that the update is taken back, once more than `before` times. */
  async resumes(before: number): Promise<void> {
    await this.#until(() => this.resumed > before || this.#exited, 'did not resume')
  }

  async stopAt(point: string): Promise<void> {
    await this.ask(`stop ${point}`)
    this.armed = true
  }

  /** It may come to its point just now, and then this is what lets it go on. */
  async disarm(): Promise<void> {
    this.#child.stdin?.write('stop never again\n')
    await this.#until(() => this.#lines.length > 0 || this.stopped || this.#exited, 'did not answer')
    if (this.stopped) this.stopped = false
    else await this.says('made')
    this.armed = false
  }

  goOn(): void {
    this.stopped = false
    this.#child.stdin?.write('go\n')
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }

  async ended(): Promise<void> {
    await this.#until(() => this.#exited, 'did not end')
    if (this.#broken) throw new Error(`${this.#name}: a sanitizer has ended it`)
  }

  /** The line that begins with `word` has come; what came before it is an error. */
  async says(word: string): Promise<string> {
    await this.#until(() => this.#lines.length > 0 || this.#exited, `did not say "${word}"`)
    const line = this.#lines.shift()
    if (line?.startsWith(word)) return line.slice(word.length).trim()
    throw new Error(`${this.#name} ${line === undefined ? this.#end : `says "${line}"`}, and has to say "${word}"`)
  }

  /** The number that it answers. */
  async ask(command: string): Promise<number> {
    this.#child.stdin?.write(`${command}\n`)
    return Number(await this.says('made'))
  }

  /** By session and token: "kind value". */
  async report(): Promise<Map<string, Map<string, string>>> {
    this.#child.stdin?.write('report\n')
    const sessions = new Map<string, Map<string, string>>()
    let files = new Map<string, string>()
    for (let line = await this.says(''); line !== 'end'; line = await this.says('')) {
      const [what, name = '', ...rest] = line.split(' ')
      if (what === 'file') files.set(name, rest.join(' '))
      else if (what !== 'session') throw new Error(`${this.#name} cannot report: ${line}`)
      else {
        files = new Map()
        sessions.set(name, files)
      }
    }
    return sessions
  }

  /** It leaves its workload. */
  leave(): void {
    this.#child.stdin?.write('leave\n')
  }

  get #name(): string {
    return `pid ${this.pid} of ${this.#options.workload}`
  }

  async #until(good: () => boolean, what: string): Promise<void> {
    const end = performance.now() + LIMIT_MS
    while (!good()) {
      const left = end - performance.now()
      if (left <= 0) throw new Error(`${this.#name} ${what} in ${LIMIT_MS} ms`)
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(late)
          this.#wakers.delete(wake)
          resolve()
        }
        const late = setTimeout(wake, left)
        this.#wakers.add(wake)
      })
    }
  }

  #wake(): void {
    for (const wake of this.#wakers) wake()
  }
}
