/**
 * `luoctl run NAME -- CMD`: a supervisor in the foreground. It joins luod (or a private one), the processes and the
 * signals to the logic in `supervisor.ts`. It holds no state of the workload: when it is killed, luod and the workload
 * go on, and when luod is away for too long the workload goes on without updates. A luod that comes back in time is
 * told again that this supervisor is there, and says which update is under way.
 */
import { randomUUID } from 'node:crypto'
import { constants } from 'node:os'
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { openPidfd } from '../sys/pidfd.js'
import { reapOthers } from '../sys/process.js'
import type { Reply } from '../wire/client.js'
import { ReconnectingClient } from '../wire/reconnecting.js'
import { type Context, connect, EXIT, reportError } from './context.js'
import { clean } from './format.js'
import { connectOrStart } from './private-daemon.js'
import { ServiceManager } from './service-manager.js'
import { type Exit, exitCodeOfProcess, Supervisor } from './supervisor.js'
import { failureOf, followUpdate, outcomeSentence } from './update.js'
import { logicalDirectory, startWorkload } from './workload-process.js'

/** With --restart, and no --keep: how long luod keeps a dead workload's state for its restart. */
export const RESTART_KEEP_MS = 60_000
/** A program that never joins is running too; without a word from luod it is called ready after this. */
const READY_FALLBACK_MS = 5_000
/** A luod that is just ending takes the connection and drops it: then another one is started. */
const SUPERVISE_ATTEMPTS = 5

/** Signals that end a workload, and so mean: do not restart it. */
const ENDING = ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const
const PASSED_ON = [...ENDING, 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'] as const
/** A terminal sends these to the whole foreground group, the workload included. */
const FROM_TERMINAL: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGQUIT', 'SIGWINCH'])

export interface RunOptions {
  name: string
  command: readonly string[]
  restart: boolean
  keepMs?: number
  /** Workloads that this one needs. */
  after: readonly string[]
}

export async function runCommand(context: Context, options: RunOptions): Promise<number> {
  try {
    return await new Run(context, options).run()
  } catch (error) {
    if (!isLuoError(error, 'LUO_SPAWN')) throw error
    reportError(error, context.json, context.err)
    return Number(error.params.exitCode ?? EXIT.CANNOT_EXECUTE)
  }
}

interface Supervision {
  client: ReconnectingClient
  events: AsyncIterator<Reply<'Supervise'>>
}

class Run {
  readonly #context: Context
  readonly #options: RunOptions
  readonly #manager: ServiceManager
  readonly #supervisor: Supervisor
  readonly #environment
  #ending = false
  #finish: (exit: Exit) => void = () => {}
  readonly #finished = new Promise<Exit>((resolve) => {
    this.#finish = resolve
  })

  constructor(context: Context, options: RunOptions) {
    this.#context = context
    this.#options = options
    this.#manager = new ServiceManager(process.env.NOTIFY_SOCKET, (text) => this.#say(text))
    this.#environment = { workload: options.name, socket: context.socket, directory: logicalDirectory() }
    this.#supervisor = new Supervisor(
      {
        start: (command, onExit) => startWorkload(command, this.#environment, onExit),
        say: (text) => this.#say(text),
        finished: (exit) => this.#finish(exit),
        now: () => performance.now(),
        later: (ms, run) => {
          const timer = setTimeout(run, ms)
          return () => clearTimeout(timer)
        },
      },
      options,
    )
  }

  async run(): Promise<number> {
    // Before anything can be started: a signal in between must not end the supervisor alone.
    const removeSignals = this.#handleSignals()
    let client: ReconnectingClient | undefined
    try {
      const supervision = await this.#supervise()
      client = supervision.client
      this.#supervisor.begin()
      this.#tellWhenReady()
      void this.#follow(supervision.events)
      const exit = await this.#finished
      return exitCodeOfProcess(exit)
    } finally {
      this.#ending = true
      client?.close()
      removeSignals()
    }
  }

  async #supervise(): Promise<Supervision> {
    const keepMs = this.#options.keepMs ?? (this.#options.restart ? RESTART_KEEP_MS : undefined)
    for (let attempt = 1; ; attempt++) {
      let supervised = false
      // One that drops us before it has answered is no luod to wait for.
      const onLost = (lost: ReconnectingClient) => {
        if (!supervised) lost.close()
      }
      const { reconnectMs, answerMs } = this.#context
      let client: ReconnectingClient | undefined
      try {
        client = await connectOrStart(this.#context.socket, { reconnectMs, answerMs, onLost })
        const stream = client.stream('Supervise', {
          id: randomUUID(),
          workload: this.#options.name,
          keep_ms: keepMs,
          ...(this.#options.after.length === 0 ? {} : { after: [...this.#options.after] }),
        })
        const events = stream[Symbol.asyncIterator]()
        const first = await events.next()
        supervised = !first.done && first.value.parameters.event === 'supervising'
        if (supervised) return { client, events }
        throw new LuoError('LUO_GONE', `supervise ${this.#options.name}: luod ended the connection`)
      } catch (error) {
        client?.close()
        const dropped = isLuoError(error, 'LUO_GONE') || isLuoError(error, 'ECONNRESET') || isLuoError(error, 'EPIPE')
        if (!dropped || attempt >= SUPERVISE_ATTEMPTS) throw error
      }
    }
  }

  /** Follows what luod asks for until the connection ends. */
  async #follow(events: Supervision['events']): Promise<void> {
    try {
      for (let next = await events.next(); !next.done; next = await events.next()) {
        const { parameters, fds } = next.value
        const update = parameters.update ?? ''
        if (parameters.event === 'supervising') void this.#lookFor(parameters.update)
        if (parameters.event === 'start' && this.#supervisor.pending?.update !== update) {
          this.#startSuccessor(update, parameters.command ?? undefined, fds)
        } else {
          for (const fd of fds) fd.close()
        }
        if (parameters.event === 'ended') this.#updateEnded(update, parameters.outcome ?? '', parameters.reason ?? '')
      }
      this.#luodGone('it ended the connection')
    } catch (error) {
      this.#luodGone(error instanceof LuoError ? `${error.message} (${error.code})` : String(error))
    }
  }

  #luodGone(why: string): void {
    if (this.#ending) return
    const what = 'the workload goes on, and cannot be updated until luoctl run is started again'
    this.#say(`luod is gone; ${what}: ${clean(why)}`)
    this.#supervisor.luodGone()
  }

  /** luod was away. An update that it does not name has ended meanwhile, and nobody has said how. */
  async #lookFor(underWay: string | undefined): Promise<void> {
    const { pending } = this.#supervisor
    if (!pending || pending.update === underWay) return
    const { update, pid } = pending
    const { name: workload } = this.#options
    const client = ReconnectingClient.open(this.#context.socket, this.#context)
    try {
      const shown = (await client.call('Show', { workload })).parameters.workload
      const { events } = (await client.call('History', { workload })).parameters
      const ended = events.find((event) => event.event === 'updated' && event.update === update)
      const outcome = pid !== undefined && shown.pid === pid ? 'committed' : (ended?.outcome ?? '')
      this.#updateEnded(update, outcome, ended?.detail ?? '')
    } catch (error) {
      // A luod that knows nothing of it has committed nothing.
      if (!this.#ending) this.#report(error)
      this.#updateEnded(update, '', '')
    } finally {
      client.close()
    }
  }

  #startSuccessor(update: string, command: readonly string[] | undefined, fds: Fd[]): void {
    this.#manager.reloading('updating')
    const { name } = this.#options
    let pidfd: Fd | undefined
    try {
      const [ticket] = fds
      if (!ticket) throw new LuoError('LUO_TICKET', `start the successor of ${name}: luod sent no ticket`)
      const successor = this.#supervisor.beginUpdate(update, command, (argv, onExit) =>
        startWorkload(argv, this.#environment, onExit, ticket),
      )
      // In the turn of the spawn: the process cannot have been reaped yet, so the pid is its own.
      pidfd = openPidfd(successor.pid)
      void this.#tell(pidfd, (client, fd) =>
        client.call(
          'Spawned',
          { id: randomUUID(), workload: name, update, pid: successor.pid, fds: 1 },
          fd === undefined ? [] : [fd],
        ),
      )
    } catch (error) {
      pidfd?.close()
      const reason = asLuoError(error, 'LUO_SPAWN', 'start the successor').message
      this.#say(`update ${update}: ${reason}`)
      void this.#tell(undefined, (client) =>
        client.call('SpawnFailed', { id: randomUUID(), workload: name, update, reason }),
      )
    } finally {
      for (const fd of fds) fd.close()
    }
  }

  /** One call on a connection of its own; the file is closed whatever happens. */
  async #tell(
    fd: Fd | undefined,
    call: (client: ReconnectingClient, fd: Fd | undefined) => Promise<unknown>,
  ): Promise<void> {
    let client: ReconnectingClient | undefined
    try {
      client = ReconnectingClient.open(this.#context.socket, this.#context)
      await call(client, fd)
    } catch (error) {
      // luod ends an update that it hears nothing of; there is nothing to undo here.
      if (!this.#ending) this.#report(error)
    } finally {
      fd?.close()
      client?.close()
    }
  }

  #updateEnded(update: string, outcome: string, reason: string): void {
    const committed = outcome === 'committed'
    this.#supervisor.endUpdate(update, committed)
    this.#manager.ready(committed ? 'updated' : `${outcome || 'update ended'}${reason ? `: ${reason}` : ''}`)
  }

  /** SIGHUP. Not awaited: it ends with the update, or with luod. */
  async #update(): Promise<void> {
    let client: ReconnectingClient | undefined
    try {
      client = (await connect(this.#context.socket, this.#context)).client
      const result = await followUpdate(client, { workload: this.#options.name })
      const failure = result.outcome === 'committed' ? undefined : failureOf(result.timeline)
      const reason = failure ? `: ${failure.reason}` : ''
      this.#context.err(`luoctl: ${outcomeSentence(this.#options.name, result)}${reason}`)
    } catch (error) {
      this.#report(error)
      // systemd waits for READY=1 after the signal that asked for a reload, whatever came of it.
      this.#manager.ready('update failed')
    } finally {
      client?.close()
    }
  }

  #handleSignals(): () => void {
    const handlers = new Map<NodeJS.Signals, () => void>()
    for (const signal of PASSED_ON) {
      handlers.set(signal, () => {
        const ends = (ENDING as readonly string[]).includes(signal)
        if (ends) this.#manager.stopping()
        if (ends && !this.#supervisor.started) {
          process.exit(EXIT.SIGNAL_BASE + constants.signals[signal])
        }
        this.#supervisor.signal(signal, { ends, passOn: !(FROM_TERMINAL.has(signal) && process.stdin.isTTY) })
      })
    }
    handlers.set('SIGHUP', () => {
      this.#manager.reloading('updating')
      void this.#update()
    })
    if (process.pid === 1) {
      handlers.set('SIGCHLD', () => {
        // After libuv, which waits for its own children by pid.
        setImmediate(() => reapOthers((pid) => this.#supervisor.knows(pid)))
      })
    }
    for (const [signal, handler] of handlers) process.on(signal, handler)
    return () => {
      for (const [signal, handler] of handlers) process.removeListener(signal, handler)
    }
  }

  /** READY=1 when luod says that the workload is running; a program that never joins is ready after a while. */
  #tellWhenReady(): void {
    if (!this.#manager.present) return
    let told = false
    const tell = (status: string) => {
      if (told || this.#ending) return
      told = true
      clearTimeout(timer)
      this.#manager.ready(status)
    }
    const timer = setTimeout(() => tell('running'), READY_FALLBACK_MS)
    timer.unref()
    void this.#watchRunning(tell)
  }

  async #watchRunning(tell: (status: string) => void): Promise<void> {
    const { name } = this.#options
    let client: ReconnectingClient | undefined
    try {
      client = (await connect(this.#context.socket, this.#context)).client
      const events = client.stream('Watch', { workload: name })
      for await (const { parameters } of events) {
        if (parameters.event !== 'running') continue
        tell('running')
        break
      }
    } catch {
      // The fallback timer speaks.
    } finally {
      client?.close()
    }
  }

  #report(error: unknown): void {
    reportError(error, this.#context.json, this.#context.err)
  }

  #say(text: string): void {
    this.#context.err(`luoctl: ${this.#options.name}: ${text}`)
  }
}
