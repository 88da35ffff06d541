/**
 * A luod of its own, and puppets: processes that do what a test says (`puppet.mjs`). `await using stage = …` ends all
 * of it, and fails when luod logged a defect.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { isLuoError, LuoError } from '../../src/errors.js'
import type { Methods } from '../../src/protocol/types.js'
import { VarlinkClient } from '../../src/wire/client.js'

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url))
const LIMIT_MS = 20_000
const EXIT_WHEN_IDLE = '--exit-when-idle'
export const NOBODY = 65_534

export async function eventually<T>(look: () => Promise<T> | T, good: (value: T) => boolean, what: string): Promise<T> {
  const end = performance.now() + LIMIT_MS
  for (;;) {
    let seen: unknown
    try {
      const value = await look()
      if (good(value)) return value
      seen = JSON.stringify(value)
    } catch (error) {
      seen = error
    }
    if (performance.now() > end) throw new Error(`${what}: ${String(seen)}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** The code that `work` fails with. */
export async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    if (isLuoError(error)) return error.code
    throw error
  }
  return 'nothing failed'
}

export class Puppet {
  readonly pid: number
  readonly hasTicket: boolean
  /** As `luoctl run` told it. */
  readonly workload: string | undefined
  /** `as`: what its stream was called. */
  readonly events: { event: string; update?: string; reason?: string; as?: string }[] = []
  readonly #socket: Socket
  readonly #waiting = new Map<
    number,
    (answer: { result?: unknown; error?: { code: string; message: string } }) => void
  >()
  #next = 1

  constructor(socket: Socket, hello: { pid: number; ticket: boolean; workload?: string }, lines: NodeJS.EventEmitter) {
    this.#socket = socket
    this.pid = hello.pid
    this.hasTicket = hello.ticket
    this.workload = hello.workload
    lines.on('line', (line: string) => {
      const { n, event, ...answer } = JSON.parse(line)
      if (event) this.events.push(event)
      else this.#waiting.get(n)?.(answer)
    })
  }

  /** Throws what the puppet got as the LuoError that it was. */
  do(op: string, args: object = {}): Promise<unknown> {
    const n = this.#next++
    this.#socket.write(`${JSON.stringify({ n, op, ...args })}\n`)
    return new Promise((resolve, reject) => {
      this.#waiting.set(n, ({ result, error }) => {
        if (error) reject(new LuoError(error.code as 'EIO', error.message))
        else resolve(result)
      })
    })
  }

  call<M extends keyof Methods>(
    method: M,
    input: Methods[M]['input'],
    files: { send?: string[]; keep?: string[]; on?: string } = {},
  ): Promise<Methods[M]['output']> {
    return this.do('call', { method, input, ...files }) as Promise<Methods[M]['output']>
  }

  /** Joins and subscribes. */
  async join(
    workload: string,
    accepts: string[] = ['*'],
    more: { keep_ms?: number; after?: string[] } = {},
  ): Promise<Methods['Join']['output']> {
    const ticket = this.hasTicket ? { send: ['ticket'], fds: 1 } : { send: [], fds: 0 }
    const joined = await this.call(
      'Join',
      { id: `join-${this.pid}`, workload, accepts, fds: ticket.fds, ...more },
      { send: ticket.send, keep: ['session'] },
    )
    await this.do('stream', { on: 'events', method: 'Subscribe', input: { member: joined.member } })
    return joined
  }

  event(name: string): Promise<{ event: string; update?: string; reason?: string }> {
    const find = () => this.events.find(({ event }) => event === name)
    return eventually(find, (event) => event !== undefined, `no event ${name}`) as ReturnType<Puppet['event']>
  }

  kill(): void {
    process.kill(this.pid, 'SIGKILL')
  }

  get alive(): boolean {
    try {
      return process.kill(this.pid, 0)
    } catch {
      return false
    }
  }
}

export class Stage implements AsyncDisposable {
  readonly directory: string
  readonly socket: string
  readonly puppets: Puppet[] = []
  readonly #children: ChildProcess[] = []
  readonly #clients: VarlinkClient[] = []
  #server: Server | undefined
  #luod: ChildProcess | undefined
  #log = ''
  readonly #puppet: string

  /** `puppet`: the script of the puppets, beside this file. */
  static async start(options: { args?: string[]; puppet?: string } = {}): Promise<Stage> {
    const stage = new Stage(options.puppet ?? 'puppet.mjs')
    const client = await stage.#begin(options.args ?? [])
    client.close()
    return stage
  }

  /** With a luod that ends when nothing is left to do: it does not before `release` was called, however slow we are. */
  static async startPrivate(options: { puppet?: string } = {}): Promise<{ stage: Stage; release: () => void }> {
    const stage = new Stage(options.puppet ?? 'puppet.mjs')
    const client = await stage.#begin([EXIT_WHEN_IDLE])
    return { stage, release: () => client.close() }
  }

  /** With a luod that the test itself is, at `socket`. */
  static async around(begin: (socket: string) => void): Promise<Stage> {
    const stage = new Stage('puppet.mjs')
    await stage.#listen()
    begin(stage.socket)
    return stage
  }

  private constructor(puppet: string) {
    this.#puppet = join(PROJECT, 'test/daemon', puppet)
    this.directory = mkdtempSync(join(tmpdir(), 'luo-stage-'))
    // Other users have to get there.
    chmodSync(this.directory, 0o755)
    this.socket = join(this.directory, 'luod.sock')
  }

  get log(): string {
    return this.#log
  }

  get luod(): ChildProcess {
    if (!this.#luod) throw new Error('there is no luod')
    return this.#luod
  }

  /** The first connection to luod. */
  async #begin(args: string[]): Promise<VarlinkClient> {
    await this.#listen()
    this.#luod = this.#spawnLuod(this.socket, args)
    const connect = async () => {
      const client = await this.client()
      await client.call('List', {})
      return client
    }
    return eventually(connect, Boolean, 'luod does not start')
  }

  /** For puppets. */
  async #listen(): Promise<void> {
    this.#server = createServer((socket) => {
      const lines = createInterface({ input: socket })
      // A puppet may be killed before it says anything.
      for (const source of [socket, lines]) source.on('error', () => {})
      lines.once('line', (line) => this.puppets.push(new Puppet(socket, JSON.parse(line).hello, lines)))
    })
    this.#server.listen(this.#control)
    await once(this.#server, 'listening')
    chmodSync(this.#control, 0o777)
  }

  #spawnLuod(socket: string, args: string[]): ChildProcess {
    const luod = spawn(process.execPath, [join(PROJECT, 'dist/daemon/main.js'), '--socket', socket, ...args], {
      stdio: ['ignore', 'inherit', 'pipe'],
    })
    luod.stderr.on('data', (chunk) => {
      this.#log += chunk
    })
    return luod
  }

  /** Longer than a luod without anything to do lives: another one is started, and has ended. */
  async idleTime(): Promise<void> {
    const other = this.#spawnLuod(join(this.directory, 'other.sock'), [EXIT_WHEN_IDLE])
    const [code] = await once(other, 'exit')
    if (code !== 0) throw new Error(`a luod without anything to do ended with ${code}`)
  }

  get #control(): string {
    return join(this.directory, 'control.sock')
  }

  get puppetCommand(): string[] {
    return [process.execPath, this.#puppet, this.#control]
  }

  async client(): Promise<VarlinkClient> {
    const client = await VarlinkClient.connect(this.socket)
    this.#clients.push(client)
    return client
  }

  async call<M extends keyof Methods>(method: M, input: Methods[M]['input']): Promise<Methods[M]['output']> {
    const client = await VarlinkClient.connect(this.socket)
    try {
      return (await client.call(method, input)).parameters
    } finally {
      client.close()
    }
  }

  /** What luod has, once it is the same twice: it learns a moment later that a connection has ended. */
  atRest(): Promise<Methods['Status']['output']> {
    let last: Methods['Status']['output'] | undefined
    let same = false
    const look = async () => {
      const now = await this.call('Status', {})
      same = now.open_fds === last?.open_fds && now.connections === last.connections
      last = now
      return now
    }
    return eventually(look, () => same, 'luod is never at rest')
  }

  /** A puppet outside any workload, as another user if that is asked for. */
  puppet(options: { uid?: number } = {}): Promise<Puppet> {
    const [program = '', ...args] = this.puppetCommand
    this.#spawn(program, args, options)
    return this.nextPuppet()
  }

  /** `luoctl run NAME -- puppet`. */
  async supervised(name: string, args: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Puppet> {
    const luoctl = join(PROJECT, 'dist/cli/main.js')
    const run = ['run', name, '--socket', this.socket, ...args]
    this.#spawn(process.execPath, [luoctl, ...run, '--', ...this.puppetCommand], { env })
    return this.nextPuppet()
  }

  nextPuppet(): Promise<Puppet> {
    const count = this.#expected++
    return eventually(() => this.puppets[count], Boolean, 'no puppet comes') as Promise<Puppet>
  }
  #expected = 0

  /** Those that have come and that nobody has asked for yet. */
  newPuppets(): Puppet[] {
    const came = this.puppets.slice(this.#expected)
    this.#expected = this.puppets.length
    return came
  }

  #spawn(program: string, args: string[], { uid, env: more }: { uid?: number; env?: NodeJS.ProcessEnv }): void {
    const { LUO_TICKET, ...env } = process.env
    const child = spawn(program, args, {
      env: { ...env, ...more, LUO_SOCKET: this.socket },
      stdio: ['ignore', 'ignore', 'pipe'],
      ...(uid === undefined ? {} : { uid, gid: uid }),
    })
    child.stderr?.on('data', (chunk) => {
      this.#log += chunk
    })
    this.#children.push(child)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close()
    for (const puppet of this.puppets) if (puppet.alive) puppet.kill()
    for (const child of this.#children) child.kill('SIGKILL')
    this.#server?.close()
    if (this.#luod && this.#luod.exitCode === null && this.#luod.signalCode === null) {
      const ended = once(this.#luod, 'exit')
      this.#luod.kill('SIGTERM')
      await ended
    }
    rmSync(this.directory, { recursive: true, force: true })
    if (this.#log.includes('luod: error')) throw new Error(`luod logged a defect:\n${this.#log}`)
  }
}
