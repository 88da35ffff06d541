/**
 * luod, put together: the orchestrator, its records in a memory file, and the server. It ends when it is closed, or by
 * itself when it was asked to and nothing is left to do.
 */
import { type RecordStorage, Records } from '../abi/records.js'
import { Orchestrator } from '../core/orchestrator.js'
import { heldFiles } from '../handlers/held-file.js'
import { referenceHandlers } from '../handlers/reference.js'
import type { Fd } from '../sys/fd.js'
import { createMemfd, fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'
import { madeHere } from '../sys/unix.js'
import { Server } from '../wire/server.js'
import { Answers } from './answers.js'
import type { LuodOrchestrator } from './holding.js'
import type { Logger } from './log.js'
import { Machines } from './machines.js'
import { machineHandlers } from './rpc-machine.js'
import { memberHandlers } from './rpc-member.js'
import { operatorHandlers, reopenReadOnly } from './rpc-operator.js'
import { sessionHandlers } from './rpc-session.js'
import { supervisorHandlers } from './rpc-supervisor.js'
import { State } from './state.js'
import { Usage } from './usage.js'
import type { UserLimits } from './user-limits.js'

/** Between the end of one client and the coming of the next, such as the steps of a script. */
const IDLE_GRACE_MS = 500

export interface DaemonOptions {
  listener: Fd
  version: string
  /** The limit on open files, for `Status`. */
  nofile: number
  limits: UserLimits
  log: Logger
  /** Called once when nothing is left to do: no workload, no session, no connection. */
  onIdle?: () => void
}

export class Daemon {
  readonly #state: State
  readonly #server: Server
  readonly #records: Fd
  readonly #machines = new Machines(() => this.#watchIdle())
  readonly #onIdle: (() => void) | undefined
  #idleTimer: NodeJS.Timeout | undefined

  constructor({ listener, version, nofile, limits, log, onIdle }: DaemonOptions) {
    this.#records = createMemfd('luod-records')
    this.#onIdle = onIdle
    const records = Records.create(storageOf(this.#records))
    records.transaction([{ type: 'meta', key: '0', value: { version, pid: process.pid, started_at: Date.now() } }])
    const orchestrator: LuodOrchestrator = new Orchestrator({
      registry: referenceHandlers({ isOwn: ({ fd }) => madeHere(fd) }),
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
      handlers: {
        ...memberHandlers(this.#state, answers),
        ...sessionHandlers(this.#state, answers),
        ...machineHandlers(this.#machines, answers, log),
        ...supervisorHandlers(this.#state, answers),
        ...operatorHandlers(this.#state, answers, facts),
      },
      // What was closed before a request counts before it.
      onRequest: () => this.#state.sessions.lifetimes.drain(),
      onDefect: (error, method) => {
        log('error', `${method} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
      },
      onRefused: (error, { pid, uid }) => {
        // A process that was killed is no news to a daemon that is there for that.
        const level = error.code === 'ECONNRESET' ? 'info' : 'warning'
        log(level, `pid ${pid} of uid ${uid}: ${error.message} (${error.code})`)
      },
      onConnections: (_, { uid, by }) => {
        usage.change(uid, 'connections', by)
        this.#watchIdle()
      },
    })
    this.#watchIdle()
  }

  close(): void {
    clearTimeout(this.#idleTimer)
    this.#server.close()
    for (const { member } of this.#state.workloads(0)) if (member) this.#state.dropMember(member)
    this.#state.sessions.close()
    this.#machines.close()
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
