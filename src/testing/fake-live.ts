/**
 * An in-memory stand-in for what `join` answers, and for luod: `live.prepare()` is what an update asks of the old
 * version, `live.next()` is its successor with the state, and the successor's `ready()` is the commit. As with the
 * real thing, what either side writes while the state is frozen vanishes. Listeners are plain listeners: connections
 * do not move.
 */
import type { Server } from 'node:net'
import { checkNumbers, sizeOf } from '../client/numbers.js'
import type { MemoryOptions } from '../client/types.js'
import { LuoError } from '../errors.js'
import { checkFile, type FakeSession, type FakeSessionOptions, FakeSessions } from './fake-session.js'

type HookName = 'prepare' | 'freeze' | 'resume' | 'released'
type Hook = (...args: unknown[]) => unknown

export interface FakeLiveOptions {
  workload?: string
  /** Formats that this version accepts; undefined accepts every one. */
  accepts?: readonly string[]
}

export interface FakeMemory {
  readonly name: string
  readonly format: string | undefined
  readonly size: number
  readonly buffer: ArrayBuffer
  window(offset: number, length: number): ArrayBuffer
  grow(size: number): ArrayBuffer
}

/** What a prepare hook is told; nothing ends at it. */
const FAKE_DEADLINE_MS = 10_000

interface Resizable extends ArrayBuffer {
  resize(length: number): void
}
const ResizableBuffer = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => Resizable

class Memory implements FakeMemory {
  readonly name: string
  readonly format: string | undefined
  readonly max: number
  readonly buffer: Resizable
  /** What luod holds while the state is frozen. */
  frozen: Uint8Array | undefined

  constructor(name: string, options: MemoryOptions) {
    const size = sizeOf(name, options)
    this.name = name
    this.format = options.format
    this.max = options.max ?? size
    this.buffer = new ResizableBuffer(size, { maxByteLength: this.max })
  }

  get size(): number {
    return this.buffer.byteLength
  }

  window(offset: number, length: number): ArrayBuffer {
    checkNumbers({ offset, length })
    if (offset === 0 && length === this.size) return this.buffer
    throw new LuoError(
      'LUO_UNSUPPORTED',
      `window(${offset}, ${length}) of ${this.name}: a fake has only the whole buffer`,
    )
  }

  grow(size: number): ArrayBuffer {
    checkNumbers({ size })
    if (size < this.size || size > this.max) {
      throw new LuoError('EINVAL', `grow ${this.name} from ${this.size} to ${size}: the limit is ${this.max}`)
    }
    this.buffer.resize(size)
    return this.buffer
  }

  freeze(): void {
    this.frozen = new Uint8Array(this.buffer).slice()
  }

  /** Back to what was frozen. */
  thaw(): void {
    if (this.frozen) {
      this.buffer.resize(this.frozen.byteLength)
      new Uint8Array(this.buffer).set(this.frozen)
    }
    this.frozen = undefined
  }

  copy(): Memory {
    const bytes = this.frozen ?? new Uint8Array(this.buffer)
    const copy = new Memory(this.name, { size: bytes.byteLength, max: this.max, format: this.format })
    new Uint8Array(copy.buffer).set(bytes)
    copy.frozen = bytes
    return copy
  }
}

export interface FakeLive {
  readonly active: boolean
  readonly successor: boolean
  readonly origin: 'new' | 'update' | 'crash'
  readonly workload: string
  memory(name: string, options: MemoryOptions): Promise<FakeMemory>
  replace(name: string, options: MemoryOptions): Promise<FakeMemory>
  serve(server: Server, options: { port?: number; host?: string; path?: string }): Promise<void>
  file(name: string, file?: unknown, options?: { until?: 'update' }): Promise<unknown>
  session(name: string, options?: FakeSessionOptions): Promise<FakeSession>
  ready(): Promise<void>
  on(event: HookName, hook: Hook): FakeLive
  leave(): Promise<void>
  close(): Promise<void>
  /** For the test: asks this version to let go. Rejects when a hook refuses; then it goes on as it was. */
  prepare(what?: { purpose?: 'update' | 'kexec' }): Promise<void>
  /** For the test: the successor, after `prepare`; after that of a kexec, its first start in the next kernel. */
  next(options?: FakeLiveOptions): FakeLive
  /** For the test: the update failed; this version goes on. */
  rollback(): Promise<void>
}

export function fakeLive(options: FakeLiveOptions = {}): FakeLive {
  return new Fake(options, undefined, 'new')
}

class Fake implements FakeLive {
  readonly active = true
  readonly origin: 'new' | 'update' | 'crash'
  readonly workload: string
  readonly #accepts: readonly string[] | undefined
  readonly #hooks: Record<HookName, Hook[]> = { prepare: [], freeze: [], resume: [], released: [] }
  readonly #memory = new Map<string, Memory>()
  readonly #files = new Map<string, { file: unknown; until: 'update' | undefined }>()
  readonly #sessions: FakeSessions
  readonly #replaced = new Map<string, Memory>()
  readonly #servers: Server[] = []
  #old: Fake | undefined
  #purpose: 'update' | 'kexec' = 'update'
  #state: 'starting' | 'running' | 'frozen' | 'released' = 'starting'

  constructor(options: FakeLiveOptions, old: Fake | undefined, origin: Fake['origin']) {
    this.workload = options.workload ?? 'test'
    this.#accepts = options.accepts
    this.origin = origin
    this.#old = old
    this.#sessions = new FakeSessions(
      (handed) => this.#mayChange(handed),
      old && { sessions: old.#sessions, overKexec: origin === 'crash' },
    )
    if (!old) return
    for (const { name, format } of [...old.#memory.values(), ...old.#sessions.formats()]) {
      if (format !== undefined && this.#accepts && !this.#accepts.includes(format)) {
        throw new LuoError('LUO_STATE_VERSION', `${name} is ${format}; accepted: ${this.#accepts.join(', ')}`)
      }
    }
    for (const memory of old.#memory.values()) this.#memory.set(memory.name, memory.copy())
    for (const [name, file] of old.#files) {
      if (origin === 'update' || file.until === undefined) this.#files.set(name, file)
    }
  }

  get successor(): boolean {
    return this.origin !== 'new'
  }

  async memory(name: string, options: MemoryOptions): Promise<FakeMemory> {
    checkNumbers(options)
    this.#mustNotBe('frozen', 'released')
    const known = this.#memory.get(name)
    if (known) return known
    const made = new Memory(name, options)
    this.#memory.set(name, made)
    return made
  }

  async replace(name: string, options: MemoryOptions): Promise<FakeMemory> {
    checkNumbers(options)
    this.#mustNotBe('frozen', 'released')
    if (!this.#memory.has(name)) throw new LuoError('LUO_NOT_FOUND', `replace ${name}: there is no such memory`)
    const made = new Memory(name, options)
    this.#replaced.set(name, made)
    if (this.#state === 'running') this.#swap()
    return made
  }

  async serve(server: Server, options: { port?: number; host?: string; path?: string }): Promise<void> {
    checkNumbers(options)
    this.#servers.push(server)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(options, () => {
        server.removeListener('error', reject)
        resolve()
      })
    })
  }

  async file(name: string, file?: unknown, { until }: { until?: 'update' } = {}): Promise<unknown> {
    checkFile(file)
    if (!this.#files.has(name) && file !== undefined) this.#files.set(name, { file, until })
    return this.#files.get(name)?.file
  }

  async session(name: string, options: FakeSessionOptions = {}): Promise<FakeSession> {
    checkNumbers(options)
    this.#mustNotBe('frozen', 'released')
    return this.#sessions.open(name, options)
  }

  async ready(): Promise<void> {
    if (this.#state !== 'starting') throw new LuoError('LUO_WRONG_STATE', `ready: this version is ${this.#state}`)
    const old = this.#old
    this.#old = undefined
    if (old) {
      if (old.#state !== 'frozen') throw new LuoError('LUO_ABORTED', 'ready: the update was rolled back')
      old.#state = 'released'
    }
    for (const memory of this.#memory.values()) memory.thaw()
    this.#swap()
    this.#state = 'running'
    // A kernel ends its processes without a word.
    if (old && old.#purpose === 'update') await old.#run('released')
  }

  on(event: HookName, hook: Hook): FakeLive {
    this.#hooks[event].push(hook)
    return this
  }

  async leave(): Promise<void> {
    this.#state = 'released'
    for (const server of this.#servers) server.close()
  }

  close(): Promise<void> {
    return this.leave()
  }

  async prepare({ purpose = 'update' }: { purpose?: 'update' | 'kexec' } = {}): Promise<void> {
    if (this.#state !== 'running') throw new LuoError('LUO_WRONG_STATE', `prepare: this version is ${this.#state}`)
    try {
      for (const hook of [...this.#hooks.prepare, ...this.#hooks.freeze]) {
        const answer = await hook({ update: 'fake', deadlineMs: FAKE_DEADLINE_MS, purpose })
        if (answer instanceof Error) throw answer
      }
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      await this.#run('resume', reason)
      throw new LuoError('LUO_REFUSED', `the old version refused: ${reason}`, { cause: error })
    }
    for (const memory of this.#memory.values()) memory.freeze()
    this.#state = 'frozen'
    this.#purpose = purpose
  }

  next(options: FakeLiveOptions = {}): FakeLive {
    if (this.#state !== 'frozen')
      throw new LuoError('LUO_WRONG_STATE', `next: call prepare first; it is ${this.#state}`)
    // What waits for a restart is claimed as after a crash.
    return new Fake({ workload: this.workload, ...options }, this, this.#purpose === 'kexec' ? 'crash' : 'update')
  }

  async rollback(): Promise<void> {
    if (this.#state !== 'frozen') throw new LuoError('LUO_WRONG_STATE', `rollback: this version is ${this.#state}`)
    for (const memory of this.#memory.values()) memory.thaw()
    this.#state = 'running'
    await this.#run('resume', 'rolled back by the test')
  }

  #swap(): void {
    for (const [name, memory] of this.#replaced) this.#memory.set(name, memory)
    this.#replaced.clear()
  }

  async #run(event: HookName, ...args: unknown[]): Promise<void> {
    for (const hook of this.#hooks[event]) await hook(...args)
  }

  #mayChange(handed: boolean): void {
    this.#mustNotBe('frozen', 'released', ...(handed ? ['starting'] : []))
  }

  #mustNotBe(...states: string[]): void {
    if (states.includes(this.#state))
      throw new LuoError('EBUSY', `this version is ${this.#state}: the state is not its own`)
  }
}
