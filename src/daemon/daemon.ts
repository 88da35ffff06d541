/**
 * luod, put together: the orchestrator, its records in a memory file, and the server. It ends when it is closed, or by
 * itself when it was asked to and nothing is left to do.
 */
import { type RecordStorage, Records } from '../abi/records.js'
import type { HandlerRegistry } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import type { ErrnoName, LuoCode } from '../errors.js'
import { type HeldFile, heldFiles } from '../handlers/held-file.js'
import type { HistoryEvent } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { createMemfd, fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'
import { Server } from '../wire/server.js'
import { Answers } from './answers.js'
import { stateOf } from './describe.js'
import type { LuodOrchestrator } from './holding.js'
import type { Logger } from './log.js'
import { Machines } from './machines.js'
import type { MetricsSource } from './metrics.js'
import { machineHandlers } from './rpc-machine.js'
import { memberHandlers } from './rpc-member.js'
import { operatorHandlers, reopenReadOnly } from './rpc-operator.js'
import { sessionHandlers } from './rpc-session.js'
import { supervisorHandlers } from './rpc-supervisor.js'
import { State } from './state.js'
import { Usage } from './usage.js'
import { filesUnderWay, type UserLimits } from './user-limits.js'

/** Between the end of one client and the coming of the next, such as the steps of a script. */
const IDLE_GRACE_MS = 500

/** Failures that say: not you, not now, or not so many. Others say how something ended that was let happen. */
const REFUSALS: ReadonlySet<string> = new Set<LuoCode | ErrnoName>([
  ...(['LUO_LIMIT', 'LUO_NOT_FOUND', 'LUO_NO_SUPERVISOR', 'LUO_STATE_VERSION', 'LUO_TICKET', 'LUO_UPDATING'] as const),
  ...(['LUO_WORKLOAD_ACTIVE', 'LUO_WRONG_STATE', 'EPERM'] as const),
])

export interface DaemonOptions {
  listener: Fd
  version: string
  /** The limit on open files, for `Status`. */
  nofile: number
  limits: UserLimits
  /** Which kinds of files are kept. */
  registry: HandlerRegistry<HeldFile>
  log: Logger
  /** Called once when nothing is left to do: no workload, no session, no connection. */
  onIdle?: () => void
}

export class Daemon implements MetricsSource {
  readonly #state: State
  readonly #server: Server
  readonly #records: Fd
  readonly #machines = new Machines(() => this.#watchIdle())
  readonly #onIdle: (() => void) | undefined
  readonly #onAnswered: ((method: string, code: string) => void)[] = []
  #idleTimer: NodeJS.Timeout | undefined

  constructor({ listener, version, nofile, limits, registry, log, onIdle }: DaemonOptions) {
    this.#records = createMemfd('luod-records')
    this.#onIdle = onIdle
    const records = Records.create(storageOf(this.#records))
    records.transaction([{ type: 'meta', key: '0', value: { version, pid: process.pid, started_at: Date.now() } }])
    const orchestrator: LuodOrchestrator = new Orchestrator({
      registry,
      files: heldFiles,
      onDefect: (error, action) => log('error', `${action}: ${String(error)}`),
    })
    const usage = new Usage(limits)
    this.#state = new State(orchestrator, records, { log, usage })
    this.#state.onEnded = () => this.#watchIdle()
    const answers = new Answers()
    const facts = {
      version,
      nofile,
      connections: () => this.#server.connections,
      records: () => reopenReadOnly(this.#records),
    }
    this.#server = new Server({
      listener,
      version,
      maxConnections: limits.connections,
      maxFilesUnderWay: filesUnderWay(nofile),
      handlers: {
        ...memberHandlers(this.#state, answers),
        ...sessionHandlers(this.#state, answers),
        ...machineHandlers(this.#machines, answers, usage, log),
        ...supervisorHandlers(this.#state, answers),
        ...operatorHandlers(this.#state, answers, facts),
      },
      // What was closed before a request counts before it.
      onRequest: () => this.#state.sessions.lifetimes.drain(),
      onAnswered: ({ method, peer, input, error }) => {
        for (const told of this.#onAnswered) told(method, error?.code ?? 'ok')
        if (error && REFUSALS.has(error.code)) this.#state.refused(peer, { error, method, input })
      },
      onDefect: (error, method) => {
        log('error', `${method} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
      },
      onRefused: (error, { pid, uid }) => {
        // A process that was killed is no news to a daemon that is there for that.
        const level = error.code === 'ECONNRESET' ? 'info' : 'warning'
        log(level, `pid ${pid} of uid ${uid}: ${error.message} (${error.code})`)
        if (error.code !== 'ECONNRESET') this.#state.refused({ uid, pid }, { error })
      },
      onConnections: (_, { uid, by }) => {
        usage.change(uid, 'connections', by)
        this.#watchIdle()
      },
    })
    this.#state.events.emit(process.getuid?.() ?? 0, 'started', { pid: process.pid, detail: `luod ${version}` })
    this.#watchIdle()
  }

  counts(): ReturnType<MetricsSource['counts']> {
    const orphans = this.#state.workloads(0).filter((workload) => stateOf(workload) === 'orphaned').length
    return { ...this.#state.usage.total, orphans }
  }

  onEvent(told: (event: HistoryEvent) => void): void {
    this.#state.events.onEvent(told)
  }

  onAnswered(told: (method: string, code: string) => void): void {
    this.#onAnswered.push(told)
  }

  close(): void {
    clearTimeout(this.#idleTimer)
    this.#server.close()
    for (const { member } of this.#state.workloads(0)) if (member) this.#state.dropMember(member)
    this.#state.sessions.close()
    this.#machines.close()
    this.#state.history.close()
    this.#records.close()
  }

  #watchIdle(): void {
    clearTimeout(this.#idleTimer)
    if (!this.#onIdle || !this.#idle()) return
    this.#idleTimer = setTimeout(() => {
      if (this.#idle()) this.#onIdle?.()
    }, IDLE_GRACE_MS)
  }

  #idle(): boolean {
    const { workloadCount, sessions } = this.#state
    return workloadCount + sessions.index.size + this.#machines.size + this.#server.connections === 0
  }
}

function storageOf(fd: Fd): RecordStorage {
  return {
    size: () => fileSize(fd),
    read: (offset, length) => {
      const bytes = new Uint8Array(length)
      return bytes.subarray(0, readAt(fd, bytes, offset))
    },
    write: (bytes, offset) => writeAt(fd, bytes, offset),
    resize: (size) => truncate(fd, size),
  }
}
