/**
 * The processes of a successor: what the supervisor started, and what joined, which may be a child of it. They are
 * watched by pidfd, killed when the update fails, and known to be gone before anybody else goes on.
 */
import type { Fd } from '../sys/fd.js'
import { killProcess } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import type { Journal } from './journal.js'
import type { Turnstile } from './turnstile.js'

interface Target {
  key: string
  pid: number
  pidfd: Fd
  watch: Registration
  ended: boolean
}

export interface TargetsOptions {
  /** Key of the update. */
  update: string
  journal: Journal
  turnstile: Turnstile
  onEnded(pid: number): void
}

export class Targets {
  readonly #targets: Target[] = []
  readonly #options: TargetsOptions
  #nextKey = 1

  constructor(options: TargetsOptions) {
    this.#options = options
  }

  get allGone(): boolean {
    return this.#targets.every(({ ended }) => ended)
  }

  /** For the records: their pidfds are in the vault. */
  list(): { key: string; pid: number }[] {
    return this.#targets.map(({ key, pid }) => ({ key, pid }))
  }

  /** Owns `pidfd`, also when it cannot be watched, which throws. `key`: as it was recorded. */
  add(pid: number, pidfd: Fd, key = String(this.#nextKey++)): void {
    this.#nextKey = Math.max(this.#nextKey, Number(key) + 1)
    let watch: Registration
    try {
      watch = Poller.shared().add(pidfd, { read: true, write: false }, () => {
        watch.close()
        this.#options.turnstile.run(() => {
          target.ended = true
          this.#options.onEnded(pid)
        })
      })
    } catch (error) {
      pidfd.close()
      throw error
    }
    const target: Target = { key, pid, pidfd, watch, ended: false }
    this.#targets.push(target)
    this.#options.journal.keep(`target/${this.#options.update}/${key}`, pidfd)
  }

  kill(): void {
    for (const { ended, pidfd } of this.#targets) if (!ended) killProcess(pidfd)
  }

  close(): void {
    for (const { key, watch, pidfd } of this.#targets.splice(0)) {
      watch.close()
      pidfd.close()
      this.#options.journal.drop(`target/${this.#options.update}/${key}`)
    }
  }
}
