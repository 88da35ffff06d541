/**
 * A luod in the test's own process, that can be replaced at any moment as if it had died just then: what its vault
 * holds is copied, everything of its own is closed, and another one is built from the copies.
 */
import type { Finding } from '../../src/abi/records-check.js'
import type { HandlerRegistry } from '../../src/core/handler.js'
import { Daemon, type DaemonOptions } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { Replica } from '../../src/daemon/replica.js'
import type { VaultEntry, VaultSink } from '../../src/daemon/vault.js'
import { isLuoError } from '../../src/errors.js'
import type { HeldFile } from '../../src/handlers/held-file.js'
import type { Fd } from '../../src/sys/fd.js'
import { listenUnix } from '../../src/sys/unix.js'
import { optionsOfOurOwn } from './in-process.js'
import { Stage } from './stage.js'

/** Between two looks at what has changed: some of it is built ahead, and some is not yet. */
const LOOK_MS = 5

/** What another process would have: a copy of each descriptor, and what it has built of it ahead. */
export class Copies implements VaultSink {
  readonly fds = new Map<string, Fd>()
  readonly replica: Replica
  readonly #timer: NodeJS.Timeout

  constructor(registry: HandlerRegistry<HeldFile>) {
    this.replica = new Replica(registry, (error) => {
      throw error
    })
    this.#timer = setInterval(() => this.look(), LOOK_MS)
  }

  look(): void {
    while (this.replica.work(1));
  }

  put(entries: readonly VaultEntry[]): void {
    for (const { key, fd } of entries) {
      this.fds.get(key)?.close()
      this.fds.set(key, fd.dup())
      this.replica.put(key, fd.dup())
    }
  }

  remove(keys: readonly string[]): void {
    for (const key of keys) {
      this.fds.get(key)?.close()
      this.fds.delete(key)
      this.replica.remove(key)
    }
  }

  /** Nothing is built ahead any more. */
  stop(): void {
    clearInterval(this.#timer)
  }

  close(): void {
    this.stop()
    for (const fd of this.fds.values()) fd.close()
    this.fds.clear()
  }

  /** Copies of these copies. */
  taken(): Map<string, Fd> {
    return new Map([...this.fds].map(([key, fd]) => [key, fd.dup()]))
  }
}

export class Replaceable implements AsyncDisposable {
  readonly log: string[] = []
  daemon: Daemon
  copies: Copies
  stage: Stage
  readonly #options: Omit<DaemonOptions, 'listener'>
  /** Of the luod that comes next. */
  #next: HandlerRegistry<HeldFile>

  static async start(): Promise<Replaceable> {
    let replaceable: Replaceable | undefined
    const log: string[] = []
    const registry = () => loadHandlers([], (file) => replaceable?.daemon.made(file) === true)
    const first = await registry()
    const options = {
      ...optionsOfOurOwn((level, message) => {
        if (level !== 'info') log.push(`${level}: ${message}`)
      }),
      registry: first,
    }
    let daemon: Daemon | undefined
    const stage = await Stage.around((socket) => {
      daemon = Daemon.begin({ ...options, listener: listenUnix(socket, 0o666) })
    })
    if (!daemon) throw new Error('there is no luod')
    replaceable = new Replaceable(stage, daemon, options, log, await registry())
    return replaceable
  }

  private constructor(
    stage: Stage,
    daemon: Daemon,
    options: Omit<DaemonOptions, 'listener'>,
    log: string[],
    next: HandlerRegistry<HeldFile>,
  ) {
    this.stage = stage
    this.daemon = daemon
    this.#options = options
    this.log = log
    this.#next = next
    this.copies = new Copies(next)
    daemon.vault.addSink(this.copies)
  }

  /** luod dies now, and another one goes on. `change` may do damage to what it finds. */
  async replace(
    options: { mode?: 'strict' | 'recover'; change?: (fds: Map<string, Fd>) => void } = {},
  ): Promise<readonly Finding[]> {
    const { mode = 'strict', change } = options
    const { replica } = this.copies
    const descriptors = change && this.copies.taken()
    if (descriptors) change?.(descriptors)
    this.copies.close()
    this.daemon.letGo()
    const registry = this.#next
    if (descriptors) {
      replica.close()
      this.daemon = Daemon.restore({ ...this.#options, registry, descriptors, mode })
    } else this.daemon = Daemon.takeOver({ ...this.#options, registry, replica, mode })
    this.#next = await loadHandlers([], (file) => this.daemon.made(file))
    this.copies = new Copies(this.#next)
    this.daemon.vault.addSink(this.copies)
    return this.daemon.findings
  }

  /** The code that another one refuses, in strict, to go on with; this one goes on. */
  async refused(change: (fds: Map<string, Fd>) => void): Promise<string> {
    const descriptors = this.copies.taken()
    change(descriptors)
    const registry = await loadHandlers([])
    try {
      Daemon.restore({ ...this.#options, registry, descriptors, mode: 'strict' }).letGo()
    } catch (error) {
      if (isLuoError(error)) return error.code
      throw error
    }
    return 'nothing was refused'
  }

  /** Another one is built beside this one, which goes on; answers what it counts, once it is built and ended. */
  async beside(mode: 'strict' | 'recover', ahead: boolean): Promise<() => ReturnType<Daemon['counts']>> {
    const registry = await loadHandlers([])
    const descriptors = this.copies.taken()
    const replica = new Replica(registry, (error) => {
      throw error
    })
    return () => {
      for (const [key, fd] of descriptors) replica.put(key, fd)
      if (ahead) while (replica.work(1));
      const daemon = Daemon.takeOver({ ...this.#options, registry, replica, mode })
      try {
        return daemon.counts()
      } finally {
        daemon.letGo()
      }
    }
  }

  /** What anybody sees of it, but for what changes with time, and that it was replaced. */
  async view() {
    const { stage } = this
    const { workloads } = await stage.call('List', {})
    const { sessions } = await stage.call('Sessions', {})
    const files = await Promise.all(sessions.map(({ session }) => stage.call('Files', { session })))
    const { events, dropped } = await stage.call('History', {})
    const { usage, sessions: count, files: fileCount } = await stage.call('Status', {})
    return {
      workloads,
      sessions: sessions.map(({ age_ms, expires_ms, ...session }) => ({ ...session, waits: expires_ms !== undefined })),
      files,
      events: events.filter(({ event }) => event !== 'started'),
      dropped,
      counts: { count, fileCount },
      usage: usage.map(({ connections, ...rest }) => rest),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stage[Symbol.asyncDispose]()
    this.daemon.close()
    this.copies.replica.close()
    this.copies.close()
  }
}
