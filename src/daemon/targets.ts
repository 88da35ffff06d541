/**
 * The processes of a successor: what the supervisor started, and what joined, which may be a child of it. They are
 * watched by pidfd, killed when the update fails, and known to be gone before anybody else goes on.
 */
import type { Fd } from '../sys/fd.js'
import { signalPidfd } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'

interface Target {
  pidfd: Fd
  watch: Registration
  ended: boolean
}

export class Targets {
  readonly #targets: Target[] = []
  readonly #onEnded: (pid: number) => void

  constructor(onEnded: (pid: number) => void) {
    this.#onEnded = onEnded
  }

  get allGone(): boolean {
    return this.#targets.every(({ ended }) => ended)
  }

  /** Owns `pidfd`. */
  add(pid: number, pidfd: Fd): void {
    const watch = Poller.shared().add(pidfd, { read: true, write: false }, () => {
      watch.close()
      target.ended = true
      this.#onEnded(pid)
    })
    const target: Target = { pidfd, watch, ended: false }
    this.#targets.push(target)
  }

  kill(): void {
    for (const { ended, pidfd } of this.#targets) if (!ended) signalPidfd(pidfd, 'SIGKILL')
  }

  close(): void {
    for (const { watch, pidfd } of this.#targets.splice(0)) {
      watch.close()
      pidfd.close()
    }
  }
}
