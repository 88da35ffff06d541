/**
 * A process that stands by, or is luod's successor, in this process: what luod starts for that is this, at the other
 * end of its line, and does what `src/daemon/main.ts` does. So each call of libc of both sides can fail, in
 * milliseconds. It cannot be killed: it sees the end of its line, as one that is not killed in time.
 *
 * It takes a process of its own for luod, of which it waits for the end: one that sleeps.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { RECORDS_VERSION } from '../../src/abi/records.js'
import { Daemon, type DaemonOptions } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { MACHINES_VERSION } from '../../src/daemon/machines-state.js'
import { Replica } from '../../src/daemon/replica.js'
import { check, refuse } from '../../src/daemon/restore-check.js'
import { waitForTakeover } from '../../src/daemon/takeover.js'
import { asLuoError, isLuoError } from '../../src/errors.js'
import { Fd } from '../../src/sys/fd.js'
import { type Interference, SYS } from '../../src/sys/ffi.js'
import { besides } from './interference.js'

const SO_PEERPIDFD = 77
/** What waits longer waits for luod's end. */
const SOON_MS = 1_000

export type CommonOptions = Omit<DaemonOptions, 'listener' | 'registry'>

export class NextLuods {
  readonly #options: CommonOptions
  #luod: ChildProcess | undefined
  #isDead = false
  #alive = 0
  /** How each of them went on, and what it had then. */
  tookOver: { how: 'upgrade' | 'crash'; counts: ReturnType<Daemon['counts']> }[] = []

  constructor(options: CommonOptions) {
    this.#options = options
  }

  get alive(): number {
    return this.#alive
  }

  /** Which process luod is, as the kernel says. */
  readonly interference: Interference = (call, args) => {
    const [first, second, third] = args
    if (call === 'getsockopt' && third === SO_PEERPIDFD) return 'ENOPROTOOPT'
    if (call === 'syscall' && first === SYS.pidfdOpen && second === process.pid) {
      return [first, this.#luod?.pid ?? 0, ...args.slice(2)]
    }
    // It lives, and nobody is killed here meanwhile.
    if (call === 'poll' && Number(third) > SOON_MS && !this.#isDead) return [first ?? 0, second ?? 0, 0]
    return undefined
  }

  begin(): void {
    this.tookOver = []
    if (this.#luod && !this.#isDead) return
    this.#isDead = false
    this.#luod = spawn('sleep', ['60'], { stdio: 'ignore' })
  }

  async killLuod(): Promise<void> {
    if (this.#isDead || !this.#luod) return
    const ended = once(this.#luod, 'exit')
    this.#luod.kill('SIGKILL')
    await ended
    this.#isDead = true
  }

  /** In place of `spawn`: `line` is the number that it inherits. */
  start(line: number): ChildProcess {
    const inherited = Fd.adopt(line)
    const fd = besides(() => inherited.dup())
    inherited.release()
    const next = Object.assign(new EventEmitter(), { pid: undefined, unref: () => {}, kill: () => true })
    this.#alive += 1
    void this.#live(fd).finally(() => {
      this.#alive -= 1
      next.emit('exit')
    })
    return next as unknown as ChildProcess
  }

  async #live(line: Fd): Promise<void> {
    const registry = await loadHandlers([])
    const { version } = this.#options
    const replica = new Replica(registry, (error) => {
      throw error
    })
    let takeover: Awaited<ReturnType<typeof waitForTakeover>>
    try {
      takeover = await waitForTakeover({
        ...{ line, version, replica, records: [RECORDS_VERSION], machines: [MACHINES_VERSION] },
        verify: () => refuse('verify what luod holds', check(replica.now(), registry).findings),
      })
    } catch (error) {
      if (!isLuoError(error)) throw error
    }
    if (!takeover) return replica.close()
    const { how } = takeover
    const lock = replica.take('lock')
    try {
      // What fails while the state is built is looked at in `change-calls.test.ts`.
      const daemon = besides(() =>
        Daemon.takeOver({ ...this.#options, registry, replica, mode: how === 'upgrade' ? 'strict' : 'recover' }),
      )
      try {
        takeover.serve()
        this.tookOver.push({ how, counts: daemon.counts() })
      } finally {
        daemon.letGo()
      }
      // It lives on, and luod reads its word.
      await new Promise((resolve) => setTimeout(resolve, 20))
      const gone = takeover.gone()
      await this.killLuod()
      await gone
    } catch (error) {
      takeover.fail(asLuoError(error, 'EIO', 'take over'))
    } finally {
      lock?.close()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.killLuod()
  }
}
