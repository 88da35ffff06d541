/**
 * Tells systemd (NOTIFY_SOCKET) how the workload is: ready, reloading during an update, stopping. The main process is
 * the supervisor, which stays while versions come and go. Without NOTIFY_SOCKET everything here does nothing; a
 * message that cannot be sent is said once and is no reason to end a service.
 */
import { notify } from '../sys/notify.js'

export class ServiceManager {
  readonly #path: string | undefined
  readonly #say: (text: string) => void
  #reloading = false
  #failed = false

  constructor(path: string | undefined, say: (text: string) => void) {
    this.#path = path || undefined
    this.#say = say
  }

  get present(): boolean {
    return this.#path !== undefined
  }

  ready(status: string): void {
    this.#reloading = false
    this.#send({ READY: 1, MAINPID: process.pid, STATUS: status })
  }

  /** An update has begun; `ready` ends it. MONOTONIC_USEC lets systemd match it to its own SIGHUP. */
  reloading(status: string): void {
    if (this.#reloading) return
    this.#reloading = true
    this.#send({ RELOADING: 1, MONOTONIC_USEC: process.hrtime.bigint() / 1000n, STATUS: status })
  }

  stopping(): void {
    this.#send({ STOPPING: 1 })
  }

  #send(fields: Record<string, string | number | bigint>): void {
    if (this.#path === undefined) return
    try {
      notify(
        this.#path,
        Object.entries(fields)
          .map(([key, value]) => `${key}=${String(value).replaceAll('\n', ' ')}\n`)
          .join(''),
      )
    } catch (error) {
      if (!this.#failed) this.#say(`NOTIFY_SOCKET: ${error instanceof Error ? error.message : String(error)}`)
      this.#failed = true
    }
  }
}
