/**
 * `Live` where nothing says that this process is a workload: plain memory and plain listeners, on any system, without
 * the native part. Every call does what its managed counterpart does at a first start.
 */
import type { Server } from 'node:net'
import { LuoError } from '../errors.js'
import { HookList } from './hooks.js'
import { listen } from './listen.js'
import { checkNumbers, numberOf, sizeOf } from './numbers.js'
import { tokenText } from './token.js'
import type {
  HookName,
  Hooks,
  Live,
  LiveSession,
  Memory,
  MemoryOptions,
  ServeOptions,
  SessionOptions,
  Token,
} from './types.js'

class PlainMemory implements Memory {
  readonly name: string
  readonly format: string | undefined
  readonly #max: number
  #buffer: ArrayBuffer

  constructor(name: string, options: MemoryOptions) {
    const size = sizeOf(name, options)
    this.name = name
    this.format = options.format
    this.#max = options.max ?? size
    this.#buffer = new ArrayBuffer(size)
  }

  get size(): number {
    return this.#buffer.byteLength
  }

  get buffer(): ArrayBuffer {
    return this.#buffer
  }

  window(offset: number, length: number): ArrayBuffer {
    checkNumbers({ offset, length })
    if (offset === 0 && length === this.size) return this.#buffer
    throw new LuoError('LUO_UNSUPPORTED', `window(${offset}, ${length}) of ${this.name}: plain memory is one buffer`)
  }

  grow(size: number): ArrayBuffer {
    checkNumbers({ size })
    if (size < this.size || size > this.#max) {
      throw new LuoError('EINVAL', `grow ${this.name} from ${this.size} to ${size} bytes: the limit is ${this.#max}`)
    }
    const old = this.#buffer
    this.#buffer = new ArrayBuffer(size)
    new Uint8Array(this.#buffer).set(new Uint8Array(old))
    // As with preserved memory, nobody can go on with the old buffer by mistake.
    structuredClone(old, { transfer: [old] })
    return this.#buffer
  }
}

class PlainSession implements LiveSession {
  readonly name: string
  readonly fd = undefined
  readonly #files = new Map<string, number>()

  constructor(name: string) {
    this.name = name
  }

  async preserve(token: Token, file: number | { readonly fd: number }): Promise<void> {
    const text = tokenText(token)
    if (this.#files.has(text))
      throw new LuoError('EEXIST', `preserve token ${text} in session ${this.name}: it is used`)
    this.#files.set(text, numberOf(file))
  }

  async unpreserve(...tokens: Token[]): Promise<void> {
    for (const token of tokens) this.#file(token)
    for (const token of tokens) this.#files.delete(tokenText(token))
  }

  async retrieve(token: Token): Promise<number> {
    return this.#file(token)
  }

  async tokens(): Promise<bigint[]> {
    return [...this.#files.keys()].map(BigInt)
  }

  close(): void {}

  #file(token: Token): number {
    const file = this.#files.get(tokenText(token))
    if (file === undefined) throw new LuoError('ENOENT', `token ${token}: session ${this.name} has no such file`)
    return file
  }
}

export class PlainLive implements Live {
  readonly active = false
  readonly successor = false
  readonly origin = 'new'
  readonly workload = undefined
  readonly #memory = new Map<string, PlainMemory>()
  readonly #files = new Map<string, number>()
  readonly #sessions = new Map<string, PlainSession>()
  readonly #hooks = new HookList()

  async memory(name: string, options: MemoryOptions): Promise<Memory> {
    const checked = checkNumbers(options)
    const memory = this.#memory.get(name) ?? new PlainMemory(name, checked)
    this.#memory.set(name, memory)
    return memory
  }

  async replace(name: string, options: MemoryOptions): Promise<Memory> {
    const memory = new PlainMemory(name, checkNumbers(options))
    this.#memory.set(name, memory)
    return memory
  }

  async serve(server: Server, options: ServeOptions): Promise<void> {
    await listen(server, checkNumbers(options))
  }

  async file(name: string, file?: number | { readonly fd: number }): Promise<number | undefined> {
    const known = this.#files.get(name)
    if (known !== undefined || file === undefined) return known
    const number = numberOf(file)
    this.#files.set(name, number)
    return number
  }

  async session(name: string, options: SessionOptions = {}): Promise<LiveSession> {
    checkNumbers(options)
    const session = this.#sessions.get(name) ?? new PlainSession(name)
    this.#sessions.set(name, session)
    return session
  }

  async ready(): Promise<void> {}

  on<N extends HookName>(event: N, hook: Hooks[N]): Live {
    this.#hooks.add(event, hook)
    return this
  }

  async leave(): Promise<void> {}

  async close(): Promise<void> {}
}
