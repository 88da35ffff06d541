/**
 * A process that can take luod's place, seen from luod: it gets a copy of every descriptor, the records among them, and
 * every change (`mirror.ts`), and waits. It takes over when luod dies, or when it is told to (`handOver`): a standby
 * and the successor in an upgrade are the same thing, the latter of another build.
 *
 *     starting ─hello→ syncing ─ready→ ready ─handOver→ handing ─serving→ (luod ends)
 *         └──────────────┴───────────────┴────────────────┴──→ lost: it ended, is not fit, or does not read
 *
 * Whatever happens to it costs luod nothing but this protection. When `lost` is told it is dead: never are there two
 * that could serve.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { asLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { inheritStdio } from '../sys/node.js'
import { socketPair } from '../sys/unix.js'
import { Filling } from './filling.js'
import { MirrorSender, type UpMessage } from './mirror.js'
import { step } from './steps.js'
import { parts, type Vault, type VaultEntry } from './vault.js'
import { Waiting } from './waiting.js'

/** Loading the code, and verifying everything that luod holds. */
const READY_LIMIT_MS = 30_000
/** From being told to take over to being ready to serve. */
const SERVING_LIMIT_MS = 5_000
/** A connection that lasts longer is given a copy of: most of them ask one thing, and are over. */
const SHARE_AFTER_MS = 20
/**
 * Whoever takes over is luod from then on, and gives its memory back while the next one takes over: in each piece of
 * V8's new space, 256 KiB anywhere in the address space, is work for the kernel. With four times as much luod is no
 * quicker.
 */
export const NEW_SPACE = '--max-semi-space-size=4'
/** The number under which the line is inherited: the first one after stdio. */
const LINE_FD = 3

export type StandbyState = 'starting' | 'syncing' | 'ready' | 'handing' | 'lost'

export interface StandbyOptions {
  /** luod's main file of the build that shall stand by, and the arguments of luod. */
  main: string
  args: readonly string[]
  vault: Vault
  /** If nobody else can take over, and so from the beginning; else see `inherit`. */
  isHeir: boolean
  /** What goes on after luod takes out of it (`takeover.ts`): the same for all that can. Stays the caller's. */
  claim: Fd
  /** Tells of the connections of clients, which it gets copies of; answers how to end that. */
  followConnections?(told: (fd: Fd) => void): () => void
  /** Throws when a build that reads these versions of the records is of no use. */
  checkVersions(readable: readonly number[]): void
  /** It is dead, and was not told to end. Once. */
  onLost(error: LuoError): void
}

export class Standby {
  readonly #options: StandbyOptions
  readonly #child: ChildProcess
  readonly #line: MirrorSender
  readonly #ready = new Waiting<void>()
  readonly #serving = new Waiting<void>()
  readonly #dead: Promise<void>
  #removeSink = () => {}
  #unfollow = () => {}
  #takesConnections = false
  /** Connections that it has no copy of yet. */
  #unshared: Fd[] = []
  #sharing: NodeJS.Timeout | undefined
  #timer: NodeJS.Timeout | undefined
  #state: StandbyState = 'starting'
  #version: string | undefined
  #isHeir: boolean
  #machines: readonly number[] = []
  #claims = false
  /** Why it is given up. */
  #error: LuoError | undefined

  /** LUO_SPAWN when no process can be started. */
  static start(options: StandbyOptions): Standby {
    step('copy.start')
    const [ours, theirs] = socketPair('packets')
    try {
      // One that stood by itself was started so.
      const engine = [...process.execArgv.filter((argument) => argument !== NEW_SPACE), NEW_SPACE]
      const args = [...engine, options.main, ...options.args, '--line-fd', String(LINE_FD)]
      const child = spawn(process.execPath, args, {
        // Signals of a terminal are for luod, which tells it.
        detached: true,
        cwd: '/',
        // A service manager may go by its first character (kexec-keeper.ts).
        argv0: process.argv0,
        stdio: ['ignore', 'ignore', 'inherit', inheritStdio(theirs)],
      })
      child.unref()
      try {
        return new Standby(options, child, ours)
      } catch (error) {
        child.kill('SIGKILL')
        throw error
      }
    } catch (error) {
      ours.close()
      throw new LuoError('LUO_SPAWN', `start ${options.main}: ${(error as Error).message}`, { cause: error })
    } finally {
      theirs.close()
    }
  }

  private constructor(
    options: StandbyOptions,
    child: ChildProcess,
    line: ConstructorParameters<typeof MirrorSender>[0],
  ) {
    this.#options = options
    this.#isHeir = options.isHeir
    this.#child = child
    this.#dead = new Promise((resolve) => {
      child.once('exit', () => resolve())
      child.once('error', () => resolve())
    })
    this.#line = new MirrorSender(line, {
      onMessage: (message) => this.#heard(message),
      onClosed: (error) => this.#giveUp(error ?? new LuoError('LUO_GONE', `${this.#who}: it closed the line, or died`)),
    })
    void this.#dead.then(() => this.#ended())
    this.#limit(READY_LIMIT_MS, 'was not ready')
  }

  get state(): StandbyState {
    return this.#state
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  /** Of its build, once it has said so. */
  get version(): string | undefined {
    return this.#version
  }

  /** Versions of the state of emulated machines that it reads. */
  get machines(): readonly number[] {
    return this.#machines
  }

  /** Whether it can be next beside another one, once it has said so. */
  get claims(): boolean {
    return this.#claims
  }

  /** Resolves when it has everything and has verified it; rejects when it is lost before. */
  get whenReady(): Promise<void> {
    return this.#ready.promise
  }

  /**
   * Its word is the end of luod: when this resolves it serves, and nothing may be done any more. Rejects when it is
   * lost before that; then it is dead, and luod goes on. `pausedAt`: when the last request was taken, of the monotonic
   * clock. `last`: what it gets now, and no vault has.
   */
  async handOver(pausedAt: bigint, last: readonly VaultEntry[] = []): Promise<void> {
    step('upgrade.go')
    this.#state = 'handing'
    this.#limit(SERVING_LIMIT_MS, 'did not take over')
    try {
      for (const part of parts(last)) this.#line.put(part)
      this.#line.tell({ go: { pausedAt: String(pausedAt) } })
    } catch (error) {
      this.#giveUp(error as LuoError)
    }
    return this.#serving.promise
  }

  /** When luod dies it takes over, unless another one does that was told the same. */
  inherit(): void {
    if (this.#isHeir) return
    this.#isHeir = true
    if (this.#state === 'syncing' || this.#state === 'ready') this.#tellHeir()
  }

  #tellHeir(): void {
    const files = this.#claims ? [this.#options.claim] : []
    this.#send(() => this.#line.tell({ heir: true }, files))
  }

  /** Ends it. Resolves when it is dead. */
  async stop(): Promise<void> {
    this.#error ??= new LuoError('LUO_ABORTED', `${this.#who}: it was told to end`)
    this.#state = 'lost'
    this.#close()
    this.#child.kill('SIGKILL')
    return this.#dead
  }

  get #who(): string {
    return `the luod that stands by (pid ${this.#child.pid ?? 'none'})`
  }

  #heard(message: UpMessage): void {
    if ('hello' in message && this.#state === 'starting') {
      step('copy.hear')
      const { version, records, machines, connections, claims } = message.hello
      this.#takesConnections = connections
      this.#version = version
      this.#machines = machines
      this.#claims = claims
      this.#options.checkVersions(records)
      if (!this.#isHeir && !claims) {
        const why = 'it cannot be next beside the one that stands by, and nobody else may be next meanwhile'
        throw new LuoError('LUO_UNSUPPORTED', `${this.#who}, of version ${version}: ${why}`)
      }
      this.#state = 'syncing'
      if (this.#isHeir) this.#tellHeir()
      this.#fill()
    } else if ('ready' in message && this.#state === 'syncing') {
      step('copy.trust')
      clearTimeout(this.#timer)
      this.#state = 'ready'
      if (this.#takesConnections) {
        this.#unfollow = this.#options.followConnections?.((fd) => this.#shareSoon(fd)) ?? this.#unfollow
      }
      this.#ready.answer()
    } else if ('serving' in message && this.#state === 'handing') {
      step('upgrade.end')
      this.#close()
      this.#serving.answer()
    } else if ('failed' in message) {
      throw new LuoError('LUO_RECORDS', `${this.#who}: ${message.failed.message} (${message.failed.code})`)
    } else throw new LuoError('LUO_PROTOCOL', `${this.#who}: it is ${this.#state}, and said ${Object.keys(message)[0]}`)
  }

  #fill(): void {
    const { vault } = this.#options
    const filling = new Filling({
      entries: vault.entries(),
      line: this.#line,
      onFull: () => {
        step('copy.synced')
        this.#send(() => this.#line.tell({ synced: vault.size }))
      },
      onError: (error) => this.#giveUp(asLuoError(error, 'EIO', `send everything to ${this.#who}`)),
    })
    const removeSink = vault.follow({
      put: (entries) => this.#send(() => filling.put(entries)),
      remove: (keys) => this.#send(() => filling.remove(keys)),
    })
    this.#removeSink = () => {
      filling.close()
      removeSink()
    }
  }

  #shareSoon(fd: Fd): void {
    this.#unshared.push(fd)
    this.#sharing ??= setTimeout(() => this.#share(), SHARE_AFTER_MS).unref()
  }

  /** What there is no room for is left out: such a client waits for the kernel, should luod be killed. */
  #share(): void {
    this.#sharing = undefined
    const open = this.#unshared.splice(0).filter((fd) => !fd.closed)
    this.#send(() => {
      for (const part of parts(open)) this.#line.tryConnections(part)
    })
  }

  /** What cannot be sent is the end of it, and no failure of what was to be protected. */
  #send(send: () => void): void {
    if (this.#error) return
    try {
      send()
    } catch (error) {
      this.#giveUp(error as LuoError)
    }
  }

  #limit(ms: number, what: string): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#giveUp(new LuoError('LUO_DEADLINE', `${this.#who}: it ${what} within ${ms / 1000} s`))
    }, ms)
  }

  #giveUp(error: LuoError): void {
    this.#error ??= error
    this.#close()
    this.#child.kill('SIGKILL')
  }

  #close(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#sharing)
    this.#unfollow()
    this.#removeSink()
    this.#line.close()
  }

  /** Only now can nothing of it happen any more. */
  #ended(): void {
    const told = this.#state === 'lost'
    this.#state = 'lost'
    this.#close()
    const error = this.#error ?? new LuoError('LUO_GONE', `${this.#who}: it ended`)
    this.#ready.fail(error)
    if (!this.#serving.settled) this.#serving.fail(error)
    if (!told) this.#options.onLost(error)
  }
}
