/**
 * A luod that serves, from its first request to its end: signals, metrics, the service manager, whoever stands by. It
 * may have begun with nothing, or taken the place of another one (`takeover.ts`).
 */
import { rmSync, writeSync } from 'node:fs'
import { RECORDS_VERSION } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { Protection as ProtectionFacts } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { notify } from '../sys/notify.js'
import type { Daemon } from './daemon.js'
import { FdStore, type ReceivedFiles, storeLimit } from './fd-store.js'
import type { Logger } from './log.js'
import { createMetrics } from './metrics.js'
import { type MetricsAddress, serveMetrics } from './metrics-server.js'
import { outlive } from './outlive.js'
import { Protection } from './protection.js'
import type { Replacement } from './rpc-luod.js'
import { KEXEC_KEY } from './session-store.js'
import { step } from './steps.js'
import type { VaultEntry } from './vault.js'

export interface ServeOptions {
  /** The socket's path. */
  path: string
  /** luod's main file, and the arguments of whoever stands by. */
  main: string
  args: readonly string[]
  standby: boolean
  metrics: MetricsAddress | undefined
  readyFd: number | undefined
  version: string
  log: Logger
}

const METRICS_ATTEMPTS = 50
const METRICS_RETRY_MS = 100
/**
 * Whoever lost its connection comes back first: to start a process takes the processor, and some milliseconds of luod.
 */
const STANDBY_LATER_MS = 100

/** How this luod began. */
export interface Start {
  /** first: nobody was served before, so that what does not work is a reason not to start. */
  how: 'first' | 'next'
  /** What the service manager had in its store. */
  received?: ReceivedFiles | undefined
  predecessorGone?: Promise<void> | undefined
}

export const END = { IN_ORDER: 0, FAILED: 1 } as const

/** What luod's requests need of it, before it is there itself. */
export class Serving implements Replacement {
  readonly #options: ServeOptions
  #daemon: Daemon | undefined
  #store: FdStore | undefined
  /** While the store gets everything for the first time. */
  #storing: Promise<void> | undefined
  #storeFailed = false
  #protection: Protection | undefined

  constructor(options: ServeOptions) {
    this.#options = options
  }

  get protection(): ProtectionFacts {
    if (this.#store) return { kind: 'store', ready: this.#store.works, lost: 0 }
    const { standby, pid, lost } = this.#protection?.status ?? { standby: 'off', lost: 0 }
    const kind = standby === 'off' ? 'none' : 'standby'
    return { kind, ready: standby === 'ready', ...(pid === undefined ? {} : { pid }), lost }
  }

  get store(): FdStore | undefined {
    return this.#store?.works && !this.#storing ? this.#store : undefined
  }

  /** There is a store, and it did not take everything at the beginning. */
  get storeFailed(): boolean {
    return this.#storeFailed
  }

  settled(): Promise<void> | undefined {
    return this.#storing ?? this.#flushed()
  }

  #flushed(): Promise<void> | undefined {
    // What the store cannot take is logged once, where that is found out; requests are answered all the same.
    return this.#store?.works ? this.#store.flush().catch(() => {}) : undefined
  }

  /** `lock`: keeps others away from the path; whoever takes over gets it too. */
  async begin(daemon: Daemon, lock: Fd, start: Start): Promise<void> {
    const { main, args, standby, metrics, readyFd, path, version, log } = this.#options
    this.#daemon = daemon
    daemon.vault.put([{ key: 'lock', fd: lock }])
    const first = start.how === 'first'
    this.#protection = new Protection({
      luod: daemon,
      ...{ main, args, log },
      checkVersions: (readable) => {
        if (readable.includes(RECORDS_VERSION)) return
        const known = `it reads records of version ${readable.join(', ') || 'none'}`
        throw new LuoError(
          'LUO_RECORDS_VERSION',
          `let another build stand by: ${known}, and these are ${RECORDS_VERSION}`,
        )
      },
    })
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => this.#asked(signal))
    outlive(log)
    if (metrics && first) await this.#serveMetrics(metrics)
    else if (metrics) void this.#serveMetricsAgain(metrics)
    if (!standby) {
      this.#storing = this.#useStore(daemon, start)
      await this.#storing
      this.#storing = undefined
    }
    if (!first) step('takeover.listen')
    log('info', `luod ${version} listens at ${path}`)
    this.#tellManager(`READY=1\nMAINPID=${process.pid}`)
    if (readyFd !== undefined) this.#tellReady(readyFd, first)
    if (standby) this.#protection.keepStandby(first ? 0 : STANDBY_LATER_MS)
  }

  /** Whoever waits for it may have ended, which is no reason to end for a luod that has what others left. */
  #tellReady(readyFd: number, mustArrive: boolean): void {
    try {
      writeSync(readyFd, 'ready\n')
    } catch (error) {
      if (mustArrive) throw error
      this.#options.log('warning', `say that luod is ready: ${(error as Error).message}`)
    }
  }

  async upgrade(main: string | undefined, onPhase: Parameters<Replacement['upgrade']>[1]): Promise<void> {
    const daemon = this.#daemon
    const protection = this.#protection
    if (!daemon || !protection) throw new LuoError('LUO_WRONG_STATE', 'upgrade luod: it is still starting')
    if (process.pid === 1) {
      throw new LuoError(
        'LUO_UNSUPPORTED',
        'upgrade luod: it is process 1, whose end is the end of all; run it under an init',
      )
    }
    const { pid } = await protection.upgrade(main ?? this.#options.main, onPhase)
    // As long as this is the main process its word counts.
    this.#tellManager(`MAINPID=${pid}`)
    daemon.letGo()
    process.exit(END.IN_ORDER)
  }

  /** The kernel lets go of what was preserved with the last descriptor of its sessions: who has them must not end. */
  #asked(signal: NodeJS.Signals): void {
    const { log } = this.#options
    const holder = this.#daemon?.kexecHolder
    if (holder === 'luod') {
      const undo = 'to undo that: luoctl kexec abort'
      return log('warning', `${signal}: luod stays until the kexec, for what it has preserved ends with it; ${undo}`)
    }
    if (holder) log('warning', `${signal}: luod ends before the kexec; the service manager has what was preserved`)
    this.end(END.IN_ORDER)
  }

  end(code: number): never {
    this.#tellManager('STOPPING=1')
    // Before anything is closed: nobody takes over.
    this.#protection?.close()
    const { path, metrics } = this.#options
    if (this.#store?.works || this.#daemon?.kexecHolder) {
      // Whether there is a next luod is for the manager to say, who has everything; without one it lets go of it.
      this.#daemon?.letGo()
      process.exit(code)
    }
    this.#daemon?.close()
    rmSync(path, { force: true })
    if (metrics && 'path' in metrics) rmSync(metrics.path, { force: true })
    process.exit(code)
  }

  /** The service manager keeps a copy of everything, if it has a store for us: then it survives luod. */
  async #useStore(daemon: Daemon, { received, predecessorGone }: Start): Promise<void> {
    const { NOTIFY_SOCKET } = process.env
    const limit = storeLimit(process.env)
    if (!NOTIFY_SOCKET || limit === 0) return
    // Until then the manager takes the other one's word only.
    await predecessorGone
    try {
      step('recovery.claim')
      const store = new FdStore({ path: NOTIFY_SOCKET, limit, received })
      this.#store = store
      daemon.vault.addSink({
        put: (entries) => endingOnError(store, () => store.put(entries.filter(isStored))),
        remove: (keys) => endingOnError(store, () => store.remove(keys)),
      })
      step('recovery.drop')
      store.dropUnclaimed(KEXEC_KEY)
      await store.flush()
    } catch (error) {
      this.#storeFailed = true
      this.#options.log('error', `use the service manager's store: ${(error as Error).message}`)
    }
  }

  async #serveMetrics(address: MetricsAddress): Promise<void> {
    const { version, log } = this.#options
    if (!this.#daemon) return
    const onError = (error: unknown) => log('error', `metrics: ${String(error)}`)
    await serveMetrics(address, await createMetrics(this.#daemon, version, () => this.protection.ready), onError)
  }

  /** The luod before may still have the place. Without metrics luod is luod all the same. */
  async #serveMetricsAgain(address: MetricsAddress): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#serveMetrics(address)
      } catch (error) {
        if (attempt === METRICS_ATTEMPTS) return this.#options.log('error', `metrics: ${(error as Error).message}`)
      }
      await new Promise((again) => setTimeout(again, METRICS_RETRY_MS))
    }
  }

  #tellManager(state: string): void {
    const { NOTIFY_SOCKET } = process.env
    if (!NOTIFY_SOCKET) return
    try {
      notify(NOTIFY_SOCKET, state)
    } catch (error) {
      this.#options.log('warning', `tell the service manager ${state}: ${(error as Error).message}`)
    }
  }
}

/**
 * The device has one opener: as long as the manager had a copy of it, it could not take it itself at the end of a
 * shutdown (systemd 261), which would cost every service its store. The next luod opens it again.
 */
function isStored({ key }: VaultEntry): boolean {
  return key !== 'device'
}

/** A store that lacks something is no protection: it says so from then on. */
function endingOnError(store: FdStore, run: () => void): void {
  try {
    run()
  } catch (error) {
    store.close()
    throw error
  }
}
