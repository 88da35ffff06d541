/**
 * A machine whose kexecs are emulated, with a luod in this process: what the next kernel finds is what this one was
 * handed. With a service manager, luod serves as it does in its own process, and the manager's store crosses as that of
 * systemd 261 does: sessions of the kernel under their names, and memory files; nothing else.
 */
import { expect } from 'vitest'
import type { LiveDevice, LiveSession } from '../../src/backends/contract.js'
import { type Device, Generation } from '../../src/backends/generation.js'
import { Beginning } from '../../src/daemon/backend.js'
import { beginAtLast, endArrival } from '../../src/daemon/begin.js'
import type { Daemon, DaemonOptions } from '../../src/daemon/daemon.js'
import { receivedFiles } from '../../src/daemon/fd-store.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import type { Keeper } from '../../src/daemon/kexec-keeper.js'
import type { IncomingSession, KexecSystem } from '../../src/daemon/kexec-system.js'
import type { Replacement } from '../../src/daemon/rpc-luod.js'
import { Serving } from '../../src/daemon/serve.js'
import { receivedSessions } from '../../src/daemon/session-store.js'
import { userLimits } from '../../src/daemon/user-limits.js'
import { registerReferenceHandlers } from '../../src/handlers/reference.js'
import type { Methods } from '../../src/protocol/types.js'
import type { Fd } from '../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../src/sys/memfd.js'
import { listenUnix } from '../../src/sys/unix.js'
import type { FakeManager } from './fake-manager.js'
import { type Puppet, Stage } from './stage.js'

export type Progress = Methods['Kexec']['output']

export interface Running {
  puppet: Puppet
  session: string
  member: string
}

/** Long enough to be asked in the meantime. */
const RETRY_MS = 1_000
const UNUSED = { metrics: undefined, readyFd: undefined }

const ALONE: Replacement = {
  protection: { kind: 'none', ready: false, lost: 0 },
  settled: () => undefined,
  upgrade: () => Promise.reject(new Error()),
}

/** What stands for the descriptor of an emulated session has the session's name in it. */
function carried(session: LiveSession): LiveSession {
  const descriptor = () => {
    const file = createMemfd('session')
    writeAt(file, Buffer.from(session.name), 0)
    return file
  }
  return Object.assign(session, { descriptor })
}

function nameIn(file: Fd): string {
  const bytes = new Uint8Array(64)
  return Buffer.from(bytes.subarray(0, readAt(file, bytes, 0))).toString()
}

export class Machine implements AsyncDisposable {
  readonly log: string[] = []
  readonly did: string[] = []
  incoming: IncomingSession[] = []
  reboot = () => {}
  askManager = () => Promise.resolve()
  keeper: () => Promise<Keeper> = () => Promise.resolve('luod')
  /** Errors of the next calls for a session that came in. */
  readonly retrieveFails: Error[] = []
  serving: Serving | undefined
  /** The kernel's sessions of the last kexec are. */
  finished = false
  stage!: Stage
  daemon!: Daemon
  /** luod is whole. */
  begun!: Promise<void>
  #generation = Generation.begin({ register: registerReferenceHandlers })
  #device!: Device

  static async boot(manager?: FakeManager): Promise<Machine> {
    const machine = new Machine(manager)
    await machine.#start()
    return machine
  }

  readonly #manager: FakeManager | undefined

  private constructor(manager: FakeManager | undefined) {
    this.#manager = manager
  }

  /** The next kernel, and a luod under it. */
  async next(): Promise<void> {
    this.#manager?.cross()
    const handover = this.#generation.kexec()
    await this.stage[Symbol.asyncDispose]()
    this.daemon.letGo()
    this.#generation = Generation.begin({ register: registerReferenceHandlers, handover })
    this.finished = false
    await this.#start()
  }

  async #start(): Promise<void> {
    const registry = await loadHandlers([])
    const system: KexecSystem = {
      mustBePossible: () => {},
      incoming: () => this.incoming,
      sync: () => this.did.push('sync'),
      remountReadOnly: () => ({ readOnly: ['/data'], failed: [{ path: '/busy', code: 'EBUSY' }] }),
      remountWritable: (paths) => this.did.push(`writable ${paths}`),
      reboot: () => {
        this.did.push('reboot')
        this.reboot()
      },
      keeper: () => this.keeper(),
      askManager: () => this.askManager(),
    }
    const options: Omit<DaemonOptions, 'listener'> = {
      version: '1',
      nofile: 20_000,
      limits: userLimits({}, { nofile: 20_000, shared: true, memory: 2 ** 30 }),
      registry,
      replacement: ALONE,
      log: (level, message) => {
        if (level !== 'info') this.log.push(`${level}: ${message}`)
      },
    }
    const about = { path: '/nonexistent/luod.sock', main: '/nonexistent/main.js', args: [], standby: false }
    const serving = this.#manager && new Serving({ ...about, ...UNUSED, version: '1', log: options.log })
    this.serving = serving
    this.#device = this.#generation.open()
    const fails = this.retrieveFails.length > 0
    const device = this.#carried(this.#device)
    const adoptSession = (fd: Fd) => carried(this.#device.retrieveSession(nameIn(fd)))
    const received = receivedFiles((this.#manager?.kept ?? []).map(({ name, fd }) => ({ name, fd: fd.dup() })))
    const taken = receivedSessions(received, adoptSession, options.log)
    const beginning = new Beginning({ device, adoptSession, system }, taken)
    this.stage = await Stage.around((socket) => {
      this.begun = this.#begin(beginning, listenUnix(socket, 0o666), received, {
        ...options,
        replacement: serving ?? ALONE,
      })
    })
    if (!fails) await this.begun
  }

  async #begin(
    beginning: Beginning,
    listener: Fd,
    received: ReturnType<typeof receivedFiles>,
    options: Omit<DaemonOptions, 'listener'>,
  ): Promise<void> {
    const env = this.#manager ? process.env : {}
    const begun = await beginAtLast({ beginning, listener, options, received, firstRetryMs: RETRY_MS, env })
    listener.close()
    this.daemon = begun.daemon
    await this.serving?.begin(begun.daemon, createMemfd('lock'), { how: begun.arrived ? 'next' : 'first', received })
    for (const { fd } of received.entries.values()) fd.close()
    const finish = () => {
      const refused = begun.finish()
      expect(refused).toEqual([])
      this.finished = true
      return refused
    }
    endArrival({ ...begun, finish }, this.serving?.storeFailed === true, options.log)
  }

  #carried(device: Device): LiveDevice {
    return {
      createSession: (name) => carried(device.createSession(name)),
      retrieveSession: (name) => {
        const error = name.startsWith('luod-session') ? this.retrieveFails.shift() : undefined
        if (error) throw error
        return carried(device.retrieveSession(name))
      },
      close: () => device.close(),
      [Symbol.dispose]: () => device.close(),
    }
  }

  /** What a kexec says to its end, as whoever asked for it. */
  async kexec(input: Partial<Methods['Kexec']['input']> = {}): Promise<Progress[]> {
    const client = await this.stage.client()
    const said: Progress[] = []
    const request = { id: `kexec ${Math.random()}`, ...input }
    for await (const { parameters } of client.stream('Kexec', request)) said.push(parameters)
    return said
  }

  /** A workload that has `text` in memory, with its session. */
  async workload(name: string, more: { after?: string[] } = {}): Promise<Running> {
    const puppet = await this.stage.supervised(name, ['--keep', '60s'])
    const { member, session } = await puppet.join(name, ['*'], more)
    await puppet.do('memfd', { name: 'store', size: 4096 })
    const files = [{ token: '1', fd: 0, format: 'store/1' }]
    await puppet.call('Preserve', { id: `keep ${name}`, session, files, fds: 1 }, { send: ['store'] })
    await puppet.call('Commit', { id: `first ${name}`, member })
    return { puppet, session, member }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stage[Symbol.asyncDispose]()
    this.daemon.close()
    this.#generation.close()
  }
}

/** Lets go when it is asked to. It may not live to hear the answer, and the kexec may be over by then. */
export async function letsGo({ puppet, member }: Running): Promise<void> {
  await puppet.event('prepare')
  const { update = '' } = puppet.events.findLast(({ event }) => event === 'prepare') ?? {}
  puppet.call('Ready', { id: `ready ${update}`, member, update }).catch(() => {})
}

export const steps = (said: readonly Progress[]) => said.flatMap(({ step }) => step ?? [])
