/**
 * What a member of a workload holds: memory, files, sessions, and servers with their connections. Each begins new or
 * with what the version before has left; each is held still for an update, and goes on after it.
 *
 * Who may have what when is not decided here (`managed.ts`): a successor reads the state when the first of it is asked
 * for, its memory is private and its sockets are not even opened until it `begins`.
 */
import type { Server } from 'node:net'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { duplicateNumber } from '../sys/node.js'
import { listenUnix } from '../sys/unix.js'
import { allOf, unlessAborted } from './abort.js'
import { listen } from './listen.js'
import type { LuodLink } from './luod-link.js'
import type { Resource } from './manifest.js'
import { Memories, memoryResource } from './memories.js'
import { PreservedMemory } from './memory.js'
import { checkNumbers, numberOf } from './numbers.js'
import { Resources } from './resources.js'
import { Serving } from './serving.js'
import { MemberSessions } from './session.js'
import type {
  FileOptions,
  LiveSession,
  Memory,
  MemoryOptions,
  ServeOptions,
  SessionOptions,
  UpdateInfo,
} from './types.js'

/** Between attempts to listen again after an update that was rolled back. */
const RESUME_RETRY_MS = 100
const UNIX_SOCKET_MODE = 0o666

/** Of the member: see `managed.ts`. */
export type LiveState = 'starting' | 'running' | 'preparing' | 'frozen' | 'released' | 'left'

export interface HoldingsOptions {
  link: LuodLink
  member: string
  session: string
  origin: 'new' | 'update' | 'crash'
  /** While it is running what is made is preserved at once. */
  state(): LiveState
  /** Throws why nothing can be made, found or changed now. */
  check(action: string): void
}

export class Holdings {
  readonly #options: HoldingsOptions
  readonly #resources: Resources
  readonly #memories: Memories
  readonly #files = new Map<string, number>()
  readonly #sessions: MemberSessions
  readonly #servings = new Map<string, Serving>()
  #claim: Promise<void> | undefined

  constructor(options: HoldingsOptions) {
    const { link, member, session } = options
    this.#options = options
    this.#resources = new Resources(link, session)
    this.#memories = new Memories(this.#resources, () => this.#whyNotGrow())
    this.#sessions = new MemberSessions(link, member)
  }

  // --- one of them --------------------------------------------------------------------------------------------------

  async memory(name: string, given: MemoryOptions): Promise<Memory> {
    const options = checkNumbers(given)
    // Before the state is claimed: from there on clients wait.
    const reserved =
      this.#options.origin === 'update' && !this.#claim ? await PreservedMemory.reserve(options) : undefined
    try {
      await this.#mayChange(`memory ${name}`)
    } catch (error) {
      reserved?.unmap()
      throw error
    }
    const known = this.#memories.find(name)
    if (known) {
      reserved?.unmap()
      return known
    }
    const { memory, isNew } = this.#memories.open(name, options, reserved)
    if (isNew) await this.#add(memoryResource(memory), memory.fd)
    else if (this.#isRunning) memory.makeShared()
    return memory
  }

  async replace(name: string, given: MemoryOptions): Promise<Memory> {
    const options = checkNumbers(given)
    await this.#mayChange(`replace ${name}`)
    const made = this.#memories.replace(name, options)
    if (this.#isRunning) await this.#memories.replaceNow()
    return made
  }

  async file(
    name: string,
    file?: number | { readonly fd: number },
    { until }: FileOptions = {},
  ): Promise<number | undefined> {
    const given = file === undefined ? undefined : numberOf(file)
    await this.#mayChange(`file ${name}`)
    const known = this.#files.get(name)
    if (known !== undefined) return known
    const handed = this.#resources.take('file', name)
    const number = handed ? handed.fd.release() : given
    if (number === undefined) return undefined
    if (!handed) await this.#add({ name, kind: 'file' }, duplicateNumber(number), until)
    this.#files.set(name, number)
    return number
  }

  async session(name: string, given: SessionOptions): Promise<LiveSession> {
    const options = checkNumbers(given)
    await this.#mayChange(`session ${name}`)
    return this.#sessions.open(name, options, this.#resources.takeSession(name))
  }

  async serve(server: Server, given: ServeOptions): Promise<void> {
    const options = checkNumbers(given)
    await this.#mayChange('serve')
    const name = listenerName(options)
    if (this.#servings.has(name)) throw new LuoError('EEXIST', `serve ${name}: another server has it`)
    const serving = new Serving(name, server, options)
    const handed = this.#resources.handed('listener', name)
    this.#servings.set(name, serving)
    // Handed over: it begins to listen when the state is ours.
    if (handed && !this.#isRunning) return
    try {
      if (handed) await this.#takeUp(serving)
      else await this.#listen(serving, server, options)
    } catch (error) {
      this.#servings.delete(name)
      throw error
    }
  }

  async #listen(serving: Serving, server: Server, options: ServeOptions): Promise<void> {
    const { path } = options
    // Node's own listener would unlink the path whenever it stops accepting.
    if (path !== undefined) await serving.listen(listenUnix(path, UNIX_SOCKET_MODE))
    else {
      await listen(server, options)
      serving.began()
    }
    await this.#add({ name: serving.name, kind: 'listener' }, serving.listener)
  }

  /** Preserves a new resource: at once when running, else when it begins. */
  async #add(resource: Omit<Resource, 'token'>, fd: Fd, until?: 'update'): Promise<void> {
    this.#resources.add(resource, fd, until)
    if (this.#isRunning) await this.#resources.flush()
  }

  get #isRunning(): boolean {
    return this.#options.state() === 'running'
  }

  async #mayChange(action: string): Promise<void> {
    this.#options.check(action)
    if (this.#options.origin !== 'new') await this.claim()
  }

  #whyNotGrow(): string | undefined {
    const state = this.#options.state()
    if (state === 'running' || (state === 'starting' && this.#options.origin === 'new')) return undefined
    return state === 'starting' ? 'it is the old version until ready()' : `this version is ${state}`
  }

  // --- taking over --------------------------------------------------------------------------------------------------

  /** Reads what the version before has left, once. */
  claim(): Promise<void> {
    this.#claim ??= this.#resources.claim(this.#options.member)
    return this.#claim
  }

  /** Connections that came, for their servers: they are not read before `begin`. Answers how to let go of them. */
  adopt(): () => void {
    const servings = [...this.#servings.values()]
    for (const serving of servings) serving.adopt(this.#resources.takeConnections(serving.name))
    return () => {
      for (const serving of servings) serving.dropAdopted()
    }
  }

  /** Preserves what is new. */
  async flush(): Promise<void> {
    await this.#memories.replaceNow()
    await this.#resources.flush()
  }

  /** What was left is this version's own from here on. */
  async begin(): Promise<void> {
    const servings = [...this.#servings.values()]
    this.#memories.makeShared()
    await this.flush()
    for (const serving of servings) await this.#takeUp(serving)
  }

  /** Goes on with a listener and the connections that came with it. */
  async #takeUp(serving: Serving): Promise<void> {
    const handed = this.#resources.take('listener', serving.name)
    if (!handed) return
    await serving.listen(handed.fd)
    serving.serveAdopted()
  }

  dropUnused(): Promise<void> {
    return this.#resources.dropUnused()
  }

  // --- an update ----------------------------------------------------------------------------------------------------

  /** No server reads any more. `settle`: of the milliseconds that requests under way may take, how many there are. */
  async quiesce({ purpose }: UpdateInfo, settle: (limitMs: number) => number, signal: AbortSignal): Promise<void> {
    const servings = [...this.#servings.values()]
    // Nothing drains over a kexec.
    const longMs = purpose === 'kexec' ? Number.POSITIVE_INFINITY : undefined
    await allOf(servings.map((serving) => serving.quiesce(settle(serving.settleMs), signal, longMs)))
  }

  makePrivate(): void {
    this.#memories.makePrivate()
  }

  /**
   * luod gets this version's word, and the connections that are to move. Nothing lives longer than this kernel in a
   * kexec.
   */
  async sayReady({ update, purpose }: UpdateInfo, heldSince: number, signal: AbortSignal): Promise<void> {
    const servings = purpose === 'kexec' ? [] : [...this.#servings.values()]
    if (purpose === 'kexec') {
      // Those of the update before would be refused.
      await unlessAborted(this.#resources.takeBackConnections(), signal)
      this.#memories.warnOfReadOnly()
    }
    const connections = servings.flatMap((serving) => serving.still().map((fd) => ({ of: serving.name, fd })))
    const { member } = this.#options
    await unlessAborted(this.#resources.ready({ member, update }, connections, heldSince, signal), signal)
  }

  makeShared(): void {
    this.#memories.makeShared()
  }

  async resumeServers(): Promise<void> {
    for (const serving of this.#servings.values()) await resumed(serving)
  }

  takeBackConnections(): Promise<void> {
    return this.#resources.takeBackConnections()
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  /** Another version serves. Resolves when the connections that stayed have ended, after `drainMs` at the latest. */
  async drain(drainMs: number): Promise<void> {
    await Promise.all([...this.#servings.values()].map((serving) => serving.release(drainMs)))
  }

  giveUp(workload: string): Promise<void> {
    return this.#resources.giveUp(workload)
  }

  close(): void {
    for (const serving of this.#servings.values()) serving.leave()
    this.#resources.close()
    this.#sessions.close()
  }
}

/** It tries until it can: for want of descriptors, say, nobody else would serve. */
async function resumed(serving: Serving): Promise<void> {
  for (;;) {
    try {
      return await serving.resume()
    } catch (error) {
      process.emitWarning(`listen again on ${serving.name}: ${String(error)}; trying on`)
      await new Promise((resolve) => setTimeout(resolve, RESUME_RETRY_MS))
    }
  }
}

function listenerName({ name, port, host, path }: ServeOptions & { name?: string }): string {
  if (name !== undefined) return name
  return path === undefined ? `tcp ${host ?? '*'}:${port ?? 0}` : `unix ${path}`
}
