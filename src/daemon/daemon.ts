/**
 * luod, put together: the orchestrator, its records in a memory file, and the server. It begins with nothing, or goes
 * on with what a luod before it held (`restore.ts`). It ends when it is closed, by itself when it was asked to and
 * nothing is left to do, or when it lets go of everything because another one goes on.
 */
import type { MetaRecord } from '../abi/record-shapes.js'
import { Records } from '../abi/records.js'
import type { Finding } from '../abi/records-check.js'
import { crossesByKernel } from '../backends/crossing.js'
import type { HandlerRegistry } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import { LuoError } from '../errors.js'
import { whyNotByValue } from '../handlers/by-value.js'
import { type HeldFile, heldFiles } from '../handlers/held-file.js'
import type { HistoryEvent, Takeover } from '../protocol/types.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { createMemfd } from '../sys/memfd.js'
import { listenAgain } from '../sys/unix.js'
import { Server } from '../wire/server.js'
import { Answers } from './answers.js'
import type { KernelBackend } from './backend.js'
import { stateOf } from './describe.js'
import { FlbRecords } from './flb-records.js'
import type { LuodOrchestrator } from './holding.js'
import { IdleWatch } from './idle.js'
import { Journal } from './journal.js'
import type { KexecHost } from './kexec.js'
import { type Arrived, pausedSince, tellArrival } from './kexec-arrival.js'
import { contentToCross } from './kexec-content.js'
import type { Keeper } from './kexec-keeper.js'
import type { Logger } from './log.js'
import type { MachineState } from './machine.js'
import { Machines } from './machines.js'
import { filesOf, readMachines, type SavedMachines, writeMachines } from './machines-state.js'
import type { MetricsSource } from './metrics.js'
import { recordsStorage } from './records-file.js'
import { Replica } from './replica.js'
import { requestReports } from './request-reports.js'
import { restore } from './restore.js'
import type { Ahead, RestoreMode } from './restore-source.js'
import { Kexecs, kexecHandlers } from './rpc-kexec.js'
import { luodHandlers, type Replacement } from './rpc-luod.js'
import { machineHandlers, machineOptions } from './rpc-machine.js'
import { memberHandlers } from './rpc-member.js'
import { operatorHandlers, sealedCopy } from './rpc-operator.js'
import { sessionHandlers } from './rpc-session.js'
import { supervisorHandlers } from './rpc-supervisor.js'
import { State } from './state.js'
import { step } from './steps.js'
import { Turnstile } from './turnstile.js'
import { Usage } from './usage.js'
import { type UserLimits, underWay } from './user-limits.js'
import { Vault } from './vault.js'

const NS_PER_MS = 1e6

interface CommonOptions {
  version: string
  /** The limit on open files, for `Status`. */
  nofile: number
  limits: UserLimits
  /** Which kinds of files are kept. */
  registry: HandlerRegistry<HeldFile>
  log: Logger
  /** Called once when nothing is left to do: no workload, no session, no connection. */
  onIdle?: () => void
  /** How it is protected, and how it can be replaced. */
  replacement: Replacement
  /** The kernel's device, if this luod has it. */
  kernel?: KernelBackend | undefined
}

export interface DaemonOptions extends CommonOptions {
  listener: Fd
}

/** What a luod before this one has left. */
export interface RestoreOptions extends CommonOptions {
  /**
   * Everything that was in its vault, its records and its listener included. Owned by the daemon, also when this fails.
   */
  descriptors: ReadonlyMap<string, Fd>
  mode: RestoreMode
}

export interface TakeOverOptions extends CommonOptions {
  /** Of what was in its vault; `registry` is this one's too. Owned by the daemon, also when this fails. */
  replica: Replica
  mode: RestoreMode
}

interface Parts {
  listener: Fd
  recordsFile: Fd
  records: Records
  /** What of the state is there already. */
  ahead?: Ahead
  /** Emulated machines, which go on. */
  machines?: readonly MachineState[]
  /** Builds the state anew, before the first request. */
  restore?: (target: Parameters<typeof restore>[0]) => Finding[]
}

export class Daemon implements MetricsSource {
  /** Every descriptor that another luod needs to go on. */
  readonly vault: Vault
  /** What could not be restored, and why. */
  readonly findings: readonly Finding[]
  readonly #state: State
  readonly #server: Server
  readonly #records: Fd
  readonly #kernel: KernelBackend | undefined
  readonly #kexecs: Kexecs
  readonly #journal: Journal
  readonly #turnstile = new Turnstile()
  readonly #machines = new Machines(() => this.#idle.look())
  readonly #idle: IdleWatch
  readonly #onAnswered: ((method: string, code: string) => void)[] = []
  /** The luod before this one. */
  readonly #before: Pick<MetaRecord, 'pid' | 'version'> | undefined
  #takeover: Takeover | undefined

  /** With nothing. Owns the listener. */
  static begin(options: DaemonOptions): Daemon {
    const recordsFile = createMemfd('luod-records')
    try {
      const records = Records.create(recordsStorage(recordsFile))
      return new Daemon(options, { listener: options.listener, recordsFile, records })
    } catch (error) {
      recordsFile.close()
      throw error
    }
  }

  /** With what a luod before this one had. LUO_RECORDS, LUO_RECORDS_VERSION; `findings` says what was left out. */
  static restore({ descriptors, mode, ...options }: RestoreOptions): Daemon {
    const replica = new Replica(options.registry, reportDefects(options.log))
    for (const [key, fd] of descriptors) replica.put(key, fd)
    return Daemon.takeOver({ ...options, replica, mode })
  }

  /** The same, with a replica that is ready for it, or has little left to do. */
  static takeOver({ replica, mode, ...options }: TakeOverOptions): Daemon {
    try {
      const source = replica.finish(mode)
      const { descriptors, records } = source
      const recordsFile = descriptors.get('records')
      const listener = descriptors.get('listener')
      if (!recordsFile || !listener) {
        throw new LuoError('LUO_RECORDS', 'restore: there is no descriptor of the records, or of the listener')
      }
      // A luod that has died has not said how far its machines had come.
      const machines = mode === 'strict' ? readMachines(descriptors) : []
      const daemon = new Daemon(options, {
        ...{ listener, recordsFile, records, ahead: source.ahead, machines },
        restore: (target) => {
          const findings = restore(target, source)
          // New connections are ours by what the kernel says of the listener.
          listenAgain(listener)
          return findings
        },
      })
      descriptors.delete('records')
      descriptors.delete('listener')
      closeAll(descriptors.values())
      return daemon
    } catch (error) {
      replica.close()
      throw error
    }
  }

  private constructor(
    { version, nofile, limits, registry, log, onIdle, replacement, kernel }: CommonOptions,
    { listener, recordsFile, records, ahead, machines = [], restore: restoreState }: Parts,
  ) {
    this.#records = recordsFile
    this.#kernel = kernel
    this.#idle = new IdleWatch(() => this.#isIdle(), onIdle)
    const onDefect = (error: unknown) =>
      log(
        'error',
        `record what has changed, of which a luod after this one would not know: ${error}; it is tried again`,
      )
    const onRecorded = () => log('info', 'what had changed is recorded')
    const onSinkLost = (error: unknown) => log('error', `a copy of luod's descriptors is lost: ${String(error)}`)
    this.vault = new Vault(onSinkLost, ahead?.held)
    this.#journal = new Journal(records, this.vault, onDefect, onRecorded)
    const before = records.get('meta', '0') as MetaRecord | undefined
    this.#before = before
    const meta = { version, pid: process.pid, started_at: Date.now(), next_session: before?.next_session ?? 0 }
    const orchestrator: LuodOrchestrator =
      ahead?.orchestrator ?? new Orchestrator({ registry, files: heldFiles, onDefect: reportDefects(log) })
    const usage = new Usage(limits)
    const surroundings = { log, usage, journal: this.#journal, turnstile: this.#turnstile, meta }
    this.#state = new State(orchestrator, records, { ...surroundings, ...(kernel ? { whyNotCross } : {}) })
    const answers = new Answers(this.#journal)
    try {
      this.findings = restoreState?.({ state: this.#state, answers, orchestrator, registry }) ?? []
      this.#journal.watch(new FlbRecords(registry.flbs, records))
      this.#journal.add([{ type: 'meta', key: '0', value: meta }])
      this.#journal.keep('listener', listener)
      this.#journal.keep('records', recordsFile)
      if (kernel?.descriptor) this.#journal.keep('device', kernel.descriptor)
      this.#machines.restore(machines, (about) => machineOptions(about, usage, log))
      this.#journal.commit()
      this.#state.onEnded = () => this.#idle.look()
      this.#kexecs = new Kexecs(kernel && this.#kexecHost(kernel, records, version, replacement))
      const facts = {
        version,
        nofile,
        backend: kernel ? ('kernel' as const) : ('userspace' as const),
        connections: () => this.#server.connections,
        records: () => sealedCopy(this.#records, 'luod-records-copy'),
        protection: () => replacement.protection,
        takeover: () => this.#takeover,
      }
      const reports = requestReports(this.#state)
      this.#server = new Server({
        listener,
        version,
        maxConnections: limits.connections,
        maxUnderWay: underWay(nofile),
        handlers: {
          ...memberHandlers(this.#state, answers),
          ...sessionHandlers(this.#state, answers),
          ...machineHandlers(this.#machines, answers, usage, log),
          ...supervisorHandlers(this.#state, answers),
          ...operatorHandlers(this.#state, answers, facts),
          ...luodHandlers(replacement),
          ...kexecHandlers(this.#kexecs, answers, kernel?.descriptor),
        },
        // What was closed before a request counts before it.
        onRequest: () => this.#state.sessions.holds.lifetimes.drain(),
        turn: (run) => this.#turnstile.run(run),
        settled: () => {
          step('change.answer')
          return replacement.settled()
        },
        ...reports,
        onAnswered: (answered) => {
          for (const told of this.#onAnswered) told(answered.method, answered.error?.code ?? 'ok')
          reports.onAnswered(answered)
        },
        onConnections: (_, { uid, by }) => {
          usage.change(uid, 'connections', by)
          this.#idle.look()
        },
      })
    } catch (error) {
      this.#machines.close()
      closeAll(filesOf(machines))
      this.#state.letGo()
      throw error
    }
    const detail = restoreState ? `luod ${version}, with what was there before` : `luod ${version}`
    this.#state.events.emit(process.getuid?.() ?? 0, 'started', { pid: process.pid, detail })
    this.#idle.look()
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

  /** Whether a Unix socket is one that a luod before this one made, and that it goes on with. */
  made(file: Fd): boolean {
    return this.#state.made(file)
  }

  /** It has taken the place of another one, and serves. `pausedAt`: since when nobody did, of the monotonic clock. */
  tookOver(how: Takeover['how'], pausedAt: bigint): void {
    const { pid = 0, version = '' } = this.#before ?? {}
    const pause = Number(process.hrtime.bigint() - pausedAt) / NS_PER_MS
    this.#takeover = {
      ...{ how, at: new Date().toISOString(), from_pid: pid, from_version: version },
      ...{ pause_ms: pause, findings: this.findings.length },
    }
    const facts = { old_pid: pid, new_pid: process.pid, duration_ms: pause, detail: `${how} of luod ${version}` }
    this.#state.events.emit(process.getuid?.() ?? 0, 'tookOver', facts)
  }

  /**
   * LUO_UPDATING while there is what no other luod could go on with, LUO_RECORDS_VERSION when this one could not: it
   * does not read the state of emulated machines.
   */
  mustBeReplaceable(by?: { readonly machines: readonly number[] }): void {
    const { current } = this.#kexecs
    if (current) throw new LuoError('LUO_UPDATING', `upgrade luod: a kexec is under way (${current.id})`)
    this.#machines.mustBeReplaceable(by)
  }

  /** Whoever has to be there until the reboot call, while a kexec of the service manager is under way. */
  get kexecHolder(): Keeper | undefined {
    return this.#kexecs.current?.holder
  }

  followConnections(told: (fd: Fd) => void): () => void {
    return this.#server.follow(told)
  }

  /** The emulated machines stand still too, and go along. */
  leave(): SavedMachines {
    this.#machines.pause()
    return writeMachines(this.#machines.save())
  }

  /** It has taken back what a luod before the kexec handed over, and serves. */
  arrived(what: Arrived): void {
    this.tookOver('kexec', pausedSince(what))
    tellArrival(this.#state, what)
  }

  /**
   * Takes no request, but for these methods, and lets nothing happen, until `resume`: what is in the records and the
   * vault stays as it is.
   */
  pause(but: Parameters<Server['pause']>[0] = []): void {
    this.#server.pause(but)
    this.#turnstile.pause()
    this.#state.history.flush()
    this.#journal.commit()
  }

  resume(): void {
    this.#machines.resume()
    this.#turnstile.resume()
    this.#server.resume()
  }

  /**
   * Closes everything, and lets go of nothing: another luod has it all, or will have. Nobody is told, nobody is killed,
   * and the records stay as they are.
   */
  letGo(): void {
    this.#idle.close()
    this.#journal.close()
    this.#turnstile.close()
    this.#server.close()
    this.#state.letGo()
    this.#machines.close()
    this.#records.close()
    this.#kernel?.device.close()
  }

  close(): void {
    this.#idle.close()
    this.#journal.close()
    this.#server.close()
    this.#turnstile.close()
    for (const { member } of this.#state.workloads(0)) if (member) this.#state.dropMember(member)
    this.#state.sessions.close()
    this.#machines.close()
    this.#state.close()
    this.#records.close()
    this.#kernel?.device.close()
  }

  #kexecHost(
    { device, system }: KernelBackend,
    records: Records,
    version: string,
    replacement: Replacement,
  ): KexecHost {
    const state = this.#state
    return {
      ...{ state, device, system },
      store: () => replacement.store,
      content: () => contentToCross(state, records, version),
      standStill: () => this.pause(['AbortKexec', 'Status']),
      goOn: () => this.resume(),
    }
  }

  #isIdle(): boolean {
    const { workloadCount, sessions } = this.#state
    return workloadCount + sessions.index.size + this.#machines.size + this.#server.connections === 0
  }
}

/** Memory crosses by the kernel, and the rest by value. */
function whyNotCross(file: HeldFile): string | undefined {
  return crossesByKernel(file.info.kind) ? undefined : whyNotByValue(file)
}

function reportDefects(log: Logger): (error: unknown, action: string) => void {
  return (error, action) => log('error', `${action}: ${String(error)}`)
}
