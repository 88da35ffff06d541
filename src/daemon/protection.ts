/**
 * What a crash of luod would cost, and how it is replaced while it runs: keeps a standby when it was asked to, and
 * leads an upgrade, which is a standby of another build that is told to take over.
 */
import { LuoError } from '../errors.js'
import { createEventfd } from '../sys/eventfd.js'
import type { Fd } from '../sys/fd.js'
import { Standby, type StandbyOptions, type StandbyState } from './standby.js'
import { step } from './steps.js'
import type { Vault, VaultEntry } from './vault.js'

/** Between the loss of a standby and the start of the next, from the first to the most when it does not last. */
const RESTART_FIRST_MS = 100
const RESTART_MOST_MS = 30_000
/** One that stood by for this long has proved itself. */
const LASTING_MS = 60_000

/** What is asked of luod by an upgrade. */
export interface Replaceable {
  readonly vault: Vault
  /** Tells of the connections of clients; answers how to end that. */
  followConnections(told: (fd: Fd) => void): () => void
  /** Throws when it cannot be replaced now, and says why. `by`: what another one reads, once that is known. */
  mustBeReplaceable(by?: Pick<Standby, 'machines'>): void
  /** No request is taken and nothing happens by itself, until `resume`. */
  pause(): void
  resume(): void
  /** What is in no vault, while it is paused: for whoever takes its place, and closed when that is decided. */
  leave(): Disposable & { readonly entries: readonly VaultEntry[] }
}

export interface ProtectionOptions {
  luod: Replaceable
  /** luod's own main file, and the arguments of every process that stands by. */
  main: string
  args: readonly string[]
  checkVersions: StandbyOptions['checkVersions']
  log(level: 'info' | 'warning', message: string): void
}

export interface ProtectionStatus {
  /** off: not asked for. none: it was lost, and another one comes. */
  standby: 'off' | 'none' | StandbyState
  pid?: number
  /** How many were lost. */
  lost: number
}

export class Protection {
  readonly #options: ProtectionOptions
  #wanted = false
  #standby: Standby | undefined
  #startedAt = 0
  #timer: NodeJS.Timeout | undefined
  #delayMs = RESTART_FIRST_MS
  #lost = 0
  #upgrading = false
  #successor: Standby | undefined
  /** Whoever takes out what is in it goes on after this luod. */
  #claim: Fd | undefined

  constructor(options: ProtectionOptions) {
    this.#options = options
  }

  get status(): ProtectionStatus {
    const { pid } = this.#standby ?? {}
    return {
      standby: this.#wanted ? (this.#standby?.state ?? 'none') : 'off',
      ...(pid === undefined ? {} : { pid }),
      lost: this.#lost,
    }
  }

  /** Keeps a standby from here on, or from some time later on. */
  keepStandby(afterMs: number): void {
    this.#wanted = true
    if (afterMs === 0) this.#start()
    else this.#startIn(afterMs)
  }

  #startIn(ms: number): void {
    this.#timer = setTimeout(() => this.#start(), ms)
    this.#timer.unref()
  }

  #makeClaim(): Fd {
    this.#claim ??= createEventfd({ counter: 1n, semaphore: false })
    return this.#claim
  }

  /** Nobody has it but this luod. */
  #forgetClaim(): void {
    this.#claim?.close()
    this.#claim = undefined
  }

  #start(): void {
    if (!this.#wanted || this.#standby || this.#upgrading) return
    const { luod, main, args, checkVersions, log } = this.#options
    this.#startedAt = performance.now()
    try {
      const standby = Standby.start({
        ...{ main, args, vault: luod.vault, checkVersions, isHeir: true, claim: this.#makeClaim() },
        followConnections: (told) => luod.followConnections(told),
        onLost: (error) => this.#onLost(error),
      })
      this.#standby = standby
      standby.whenReady.then(
        () => log('info', `pid ${standby.pid} stands by`),
        () => {},
      )
    } catch (error) {
      this.#onLost(error as LuoError)
    }
  }

  #onLost(error: LuoError): void {
    const { log } = this.#options
    this.#standby = undefined
    this.#successor?.inherit()
    this.#lost += 1
    if (performance.now() - this.#startedAt > LASTING_MS) this.#delayMs = RESTART_FIRST_MS
    log('warning', `${error.message} (${error.code}); another one is started in ${this.#delayMs / 1000} s`)
    this.#startIn(this.#delayMs)
    this.#delayMs = Math.min(this.#delayMs * 2, RESTART_MOST_MS)
  }

  /**
   * Another process, of the build whose main file is `main`, becomes luod. When this resolves it serves, and this
   * process has nothing more to do than to end. Rejects when it does not: then everything is as it was, and luod goes
   * on.
   */
  async upgrade(main: string, onPhase: (phase: 'starting' | 'ready', successor: Standby) => void): Promise<Standby> {
    const { luod, args, checkVersions, log } = this.#options
    if (this.#upgrading) throw new LuoError('LUO_UPDATING', 'upgrade luod: an upgrade of it is under way')
    luod.mustBeReplaceable()
    this.#upgrading = true
    let successor: Standby | undefined
    try {
      // One that has not everything yet must not be next beside one that has.
      await this.#standby?.whenReady.catch(() => {})
      const isHeir = this.#standby === undefined
      this.#mustClaim()
      successor = Standby.start({
        ...{ main, args, vault: luod.vault, checkVersions, isHeir, claim: this.#makeClaim() },
        onLost: () => {},
      })
      this.#successor = successor
      onPhase('starting', successor)
      await successor.whenReady
      onPhase('ready', successor)
      // It may have changed while the successor came up.
      luod.mustBeReplaceable(successor)
      step('upgrade.inherit')
      // It has everything too. Should luod die now, one of the two goes on.
      successor.inherit()
      step('upgrade.alone')
      await this.#stopStandby()
      step('upgrade.pause')
      const pausedAt = process.hrtime.bigint()
      try {
        luod.pause()
        luod.mustBeReplaceable(successor)
        using left = luod.leave()
        await successor.handOver(pausedAt, left.entries)
      } catch (error) {
        luod.resume()
        throw error
      }
      return successor
    } catch (error) {
      await successor?.stop()
      log('warning', `upgrade to ${main}: ${(error as Error).message}`)
      throw error
    } finally {
      this.#upgrading = false
      this.#successor = undefined
      // After an upgrade nobody starts one here: that is the successor's.
      if (successor?.state !== 'handing') {
        if (!this.#wanted) this.#forgetClaim()
        this.#start()
      }
    }
  }

  /** The build on disk, which stands by, may be another one than this. */
  #mustClaim(): void {
    const { claims, pid, version } = this.#standby ?? { claims: true }
    if (claims) return
    const who = `the luod that stands by (pid ${pid}, of version ${version}) cannot be next beside another one`
    throw new LuoError('LUO_UNSUPPORTED', `upgrade luod: ${who}; end it, and another one is started`)
  }

  async #stopStandby(): Promise<void> {
    clearTimeout(this.#timer)
    const standby = this.#standby
    this.#standby = undefined
    await standby?.stop()
  }

  /** luod ends in order: nobody takes over. It is killed when this returns. */
  close(): void {
    this.#wanted = false
    void this.#stopStandby()
    this.#forgetClaim()
  }
}
