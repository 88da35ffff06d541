/**
 * The demo's own world: a temporary directory with a `current` link, a private luod, and the service under
 * `luoctl run`. Everything is done with the commands that a user would type. `close` ends every process that was
 * started here, luod included, and is safe to call at any time and twice.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { HttpConnection } from './http-connection.js'

export const WORKLOAD = 'kv'
const LUOCTL = fileURLToPath(new URL('../cli/main.js', import.meta.url))
const LUOD = fileURLToPath(new URL('../daemon/main.js', import.meta.url))
const PROJECT = fileURLToPath(new URL('../..', import.meta.url))
/** A Unix socket's path has 107 bytes at most; a longer temporary directory is passed over. */
const MAX_TMPDIR_BYTES = 70
const START_LIMIT_MS = 15_000
const REQUEST_LIMIT_MS = 10_000
const END_LIMIT_MS = 3_000
const LOG_LINES = 40

export interface UpdateReport {
  outcome: string
  blackoutMs: number | undefined
  /** Why it did not commit, in luod's words. */
  reason: string | undefined
  tookMs: number
}

export interface VersionReport {
  version: string
  pid: number
}

export interface LuodStatus {
  pid: number
  protection: { ready: boolean }
  takeover?: { how: string; pause_ms: number }
}

interface PhaseLine {
  phase?: string
  reason?: string | null
  code?: string | null
  outcome?: string
  blackout_ms?: number | null
  timeline?: PhaseLine[]
}

export function serverCommand(name: string, ...args: string[]): string[] {
  return [process.execPath, `examples/kv/server-${name}.js`, ...args]
}

export class World {
  readonly port: number
  readonly #directory: string
  readonly #env: NodeJS.ProcessEnv
  readonly #log: string[] = []
  readonly #children = new Set<ChildProcess>()
  #run: ChildProcess | undefined
  #luod: number | undefined
  #closing: Promise<void> | undefined
  #closed = false

  static async create(): Promise<World> {
    return new World(await freePort())
  }

  private constructor(port: number) {
    this.port = port
    const base = Buffer.byteLength(tmpdir()) > MAX_TMPDIR_BYTES ? '/tmp' : tmpdir()
    this.#directory = mkdtempSync(join(base, 'liveupdate-demo-'))
    const current = join(this.#directory, 'current')
    symlinkSync(PROJECT, current)
    const { LUO_WORKLOAD, LUO_TICKET, NOTIFY_SOCKET, ...rest } = process.env
    this.#env = { ...rest, PWD: current, LUO_SOCKET: join(this.#directory, 'luod.sock'), KV_PORT: String(port) }
  }

  /** luod's. */
  get socket(): string {
    return this.#env.LUO_SOCKET ?? ''
  }

  /** What luod, the service and its supervisor printed last. */
  get log(): readonly string[] {
    return this.#log
  }

  /** `luod --standby`, and `luoctl run kv --restart -- node examples/kv/server-NAME.js`, until it answers. */
  async start(name: string): Promise<void> {
    const luod = this.#spawn([LUOD, '--backend', 'userspace', '--standby'], true)
    await this.protectedBy()
    const run = this.#spawn([LUOCTL, 'run', WORKLOAD, '--restart', '--', ...serverCommand(name)], true)
    this.#run = run
    // luod's is that of every luod after it too: unread, it would be full one day, and whoever writes would stand
    // still.
    for (const stream of [luod.stdout, luod.stderr, run.stdout, run.stderr]) {
      if (stream) createInterface({ input: stream }).on('line', (line) => this.#keep(line))
    }
    await this.answering(START_LIMIT_MS)
  }

  /** Waits until luod answers and has a standby, and answers its pid: another one than `not`. */
  async protectedBy(not?: number): Promise<LuodStatus> {
    const limit = performance.now() + START_LIMIT_MS
    for (;;) {
      const status = await this.#status()
      if (status?.pid !== undefined) this.#luod = status.pid
      if (status?.protection.ready && status.pid !== not) return status
      if (performance.now() > limit) throw new Error(`luod has no standby: ${JSON.stringify(status)}`)
      await sleep(20)
    }
  }

  /** `luoctl upgrade`; answers for how long luod served nobody. */
  async upgradeLuod(): Promise<number> {
    const { lines, errors } = await this.#luoctl(['upgrade', '--json'])
    const last = JSON.parse(lines.at(-1) ?? '{}') as { new_pid?: number; pause_ms?: number }
    if (last.pause_ms === undefined) throw new Error(`luoctl upgrade failed: ${errors.join(' ')}`)
    this.#luod = last.new_pid
    return last.pause_ms
  }

  /** `luoctl update kv --json -- COMMAND`, to its end. */
  async update(
    command: readonly string[],
    options: { deadline?: string; onPhase?: (phase: string) => void } = {},
  ): Promise<UpdateReport> {
    const deadline = options.deadline === undefined ? [] : ['--deadline', options.deadline]
    const startedAt = performance.now()
    const { lines, errors } = await this.#luoctl(
      ['update', WORKLOAD, '--json', ...deadline, '--', ...command],
      (line) => {
        const phase = parse(line)?.phase
        if (phase !== undefined) options.onPhase?.(phase)
      },
    )
    const last = parse(lines.at(-1) ?? '')
    if (last?.outcome === undefined) throw new Error(`luoctl update ended without an outcome: ${errors.join(' ')}`)
    return {
      outcome: last.outcome,
      blackoutMs: last.blackout_ms ?? undefined,
      reason: last.timeline?.findLast((phase) => phase.reason)?.reason ?? undefined,
      tookMs: performance.now() - startedAt,
    }
  }

  /** The workload's pid, as `luoctl list` has it. */
  async workloadPid(): Promise<number> {
    const { lines } = await this.#luoctl(['list', '--json'])
    const { workloads } = JSON.parse(lines.at(-1) ?? '{"workloads":[]}') as {
      workloads: { name: string; pid?: number | null }[]
    }
    const pid = workloads.find(({ name }) => name === WORKLOAD)?.pid
    if (!pid) throw new Error(`luoctl list knows no pid of ${WORKLOAD}: ${lines.join(' ')}`)
    return pid
  }

  /** One request on a connection of its own. */
  async request(method: 'GET' | 'PUT', path: string): Promise<string> {
    const connection = await HttpConnection.open(this.port, () => {})
    const limit = setTimeout(() => connection.close(), REQUEST_LIMIT_MS)
    try {
      const answer = await connection.request(method, path)
      if (answer.status >= 300) throw new Error(`${method} ${path}: answer ${answer.status} ${answer.body}`)
      return answer.body.toString()
    } finally {
      clearTimeout(limit)
      connection.close()
    }
  }

  async version(): Promise<VersionReport> {
    return JSON.parse(await this.request('GET', '/version')) as VersionReport
  }

  /** Waits until a process other than `not` answers. */
  async answering(limitMs = START_LIMIT_MS, not?: number): Promise<VersionReport> {
    const limit = performance.now() + limitMs
    for (;;) {
      try {
        const report = await this.version()
        if (report.pid !== not) return report
      } catch (error) {
        const ended = this.#run?.exitCode !== null || this.#run.signalCode !== null
        if (ended) throw new Error(`the service ended:\n${this.#log.join('\n')}`)
        if (performance.now() > limit) throw new Error(`the service does not answer: ${String(error)}`)
      }
      await sleep(20)
    }
  }

  /** undefined when nobody answers. */
  async #status(): Promise<LuodStatus | undefined> {
    const { lines } = await this.#luoctl(['status', '--json'])
    return lines.length === 0 ? undefined : (JSON.parse(lines.at(-1) ?? '') as LuodStatus)
  }

  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  async #end(): Promise<void> {
    // Interrupted while it was starting: luod may be there, and nobody has asked for its pid yet.
    const status = await this.#status().catch(() => undefined)
    this.#luod = status?.pid ?? this.#luod
    this.#closed = true
    for (const child of this.#children) if (child !== this.#run) child.kill('SIGKILL')
    const group = this.#run?.pid
    if (group !== undefined) {
      this.#run?.kill('SIGTERM')
      if (!(await gone(-group, END_LIMIT_MS))) signal(-group, 'SIGKILL')
    }
    // Its standby ends with it.
    if (this.#luod !== undefined) {
      signal(this.#luod, 'SIGTERM')
      if (!(await gone(this.#luod, END_LIMIT_MS))) signal(this.#luod, 'SIGKILL')
    }
    rmSync(this.#directory, { recursive: true, force: true })
  }

  #luoctl(args: string[], onLine: (line: string) => void = () => {}): Promise<{ lines: string[]; errors: string[] }> {
    const child = this.#spawn([LUOCTL, ...args], false)
    const lines: string[] = []
    const errors: string[] = []
    if (child.stdout) {
      createInterface({ input: child.stdout }).on('line', (line) => {
        lines.push(line)
        onLine(line)
      })
    }
    if (child.stderr) createInterface({ input: child.stderr }).on('line', (line) => errors.push(line))
    return new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', () => setImmediate(() => resolve({ lines, errors })))
    })
  }

  #spawn(args: string[], ownGroup: boolean): ChildProcess {
    if (this.#closed) throw new Error('the demo is ending')
    const child = spawn(process.execPath, args, {
      cwd: this.#env.PWD,
      env: this.#env,
      // A group of its own: Ctrl-C reaches the demo alone, which then ends everything in order.
      detached: ownGroup,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  #keep(line: string): void {
    this.#log.push(line)
    if (this.#log.length > LOG_LINES) this.#log.shift()
  }
}

function parse(line: string): PhaseLine | undefined {
  try {
    return JSON.parse(line) as PhaseLine
  } catch {
    return undefined
  }
}

function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

/** True when the process, or with a negative pid the whole group, is gone in time. */
async function gone(pid: number, limitMs: number): Promise<boolean> {
  const limit = performance.now() + limitMs
  while (signal(pid, 0)) {
    if (performance.now() > limit) return false
    await sleep(20)
  }
  return true
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}
