/**
 * A luod that changes hands, with a load, a client, and a supervised service, and somebody who is killed at a step
 * (`strike.mjs`). One world lives through many such deaths, as a machine would.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { RECORDS_VERSION } from '../../src/abi/records.js'
import { MACHINES_VERSION } from '../../src/daemon/machines-state.js'
import type { Step } from '../../src/daemon/steps.js'
import type { Methods } from '../../src/protocol/types.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { FakeManager } from '../daemon/fake-manager.js'
import { eventually } from '../daemon/stage.js'
import { Random } from '../soak/random.js'
import { Load } from './load.js'
import type { MachineFate, StepRow } from './step-table.js'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const LUOD = here('../../dist/daemon/main.js')
const LUOCTL = here('../../dist/cli/main.js')
const STRIKE = here('./strike.mjs')
const CLIENT = here('./client.mjs')
const SERVICE = here('./held.mjs')
const NOTIFIER = here('./notifier.mjs')
const MACHINE = 'held'
const STORE_FILES = 512
/** Of the service: its memory, and what says which memory that is. */
const SERVICE_FILES = 2
/** A build of luod that ends when it is told to go on. */
const FAILING_BUILD = `
  const { readSync, writeSync } = require('node:fs')
  const reads = { records: [${RECORDS_VERSION}], machines: [${MACHINES_VERSION}] }
  const hello = { version: '9', pid: process.pid, ...reads, claims: true }
  for (const message of [{ hello }, { ready: { entries: 0 } }]) writeSync(3, JSON.stringify(message))
  const bytes = Buffer.alloc(65536)
  setInterval(() => {
    try {
      for (;;) {
        const length = readSync(3, bytes)
        if (length === 0 || bytes.toString('utf8', 0, length).includes('"go"')) process.exit(1)
      }
    } catch {
      // Nothing is there yet.
    }
  }, 1)`

export type Status = Methods['Status']['output']

export class ChangingLuod implements AsyncDisposable {
  readonly socket: string
  readonly seed = randomUUID()
  readonly #directory = mkdtempSync(join(tmpdir(), 'luo-changing-'))
  readonly #manager: FakeManager | undefined
  #log = ''
  #load: Load | undefined
  #client: ChildProcess | undefined
  #supervisor: ChildProcess | undefined
  #notifier: ChildProcess | undefined
  /** The process that runs of the service. */
  #version: number | undefined
  /** What it said last. */
  #said = ''
  #clients = 0
  #over = false

  static async start(protection: 'standby' | 'store'): Promise<ChangingLuod> {
    const world = new ChangingLuod(protection)
    try {
      world.#startLuod()
      await world.#startOthers()
      return world
    } catch (error) {
      await world[Symbol.asyncDispose]()
      throw error
    }
  }

  private constructor(protection: 'standby' | 'store') {
    this.socket = join(this.#directory, 'luod.sock')
    if (protection === 'store') this.#manager = new FakeManager(join(this.#directory, 'notify.sock'), STORE_FILES)
  }

  get log(): string {
    return this.#log
  }

  async ask<M extends keyof Methods>(method: M, input: Methods[M]['input']): Promise<Methods[M]['output']> {
    const client = await VarlinkClient.connect(this.socket)
    try {
      return (await client.call(method, input)).parameters
    } finally {
      client.close()
    }
  }

  /** The luod that answers, once it is as well protected as it can be. */
  whole(): Promise<Status> {
    return eventually(
      () => this.ask('Status', {}),
      ({ protection }) => protection.ready,
      `luod is not whole: ${this.#log}`,
    )
  }

  /** Who answers before, and who stands by; resolves when the victim was killed at the step. */
  async strike({ step, during, victim, machine }: StepRow): Promise<Status> {
    const before = await this.whole()
    if (machine) await this.#startNotifier()
    const pids = {
      client: this.#client?.pid,
      notifier: this.#notifier?.pid,
      supervisor: this.#supervisor?.pid,
      version: this.#version,
    }
    const whom = victim === 'luod' || victim === 'next' ? victim : pids[victim]
    rmSync(this.#struck, { force: true })
    // Whoever stands by comes to its steps too: not before it has become luod.
    const twoHeirs = during === 'crash, two heirs'
    const after: Step | undefined =
      during === 'new standby' ? 'takeover.listen' : twoHeirs ? 'upgrade.alone' : undefined
    writeFileSync(`${this.#order}.new`, JSON.stringify({ step, victim: whom, after, dies: twoHeirs }))
    renameSync(`${this.#order}.new`, this.#order)
    if (during === 'upgrade' || twoHeirs) await this.#upgrade()
    else if (during === 'failing upgrade') await this.#upgrade({ to: this.#failingBuild() })
    else if (!during.startsWith('requests')) process.kill(before.pid, 'SIGKILL')
    await eventually(
      () => existsSync(this.#struck),
      (struck) => struck,
      `nobody came to ${step}: ${this.#log}`,
    )
    return before
  }

  /** Whoever was killed is started again, as an operator would. */
  async mend(victim: StepRow['victim']): Promise<void> {
    if (victim === 'client') this.#startClient()
    // That it has ended may not be known yet.
    let ended = victim === 'version' ? this.#version : undefined
    if (victim === 'supervisor') {
      ended = (await this.ask('Show', { workload: 'web' })).workload.pid
      if (ended !== undefined) process.kill(ended, 'SIGKILL')
      this.#startService()
    }
    const { workload } = await eventually(
      () => this.ask('Show', { workload: 'web' }),
      ({ workload: { state, pid, supervised, files } }) =>
        state === 'running' && pid !== undefined && pid !== ended && supervised && files === SERVICE_FILES,
      `the service is not whole: ${this.#log}`,
    )
    this.#version = workload.pid
  }

  /** With nothing under way: what was acknowledged, and what is there. */
  async compare(): Promise<{ acknowledged: string[][]; there: string[][] }> {
    const writers = this.#load?.writers ?? []
    await this.#load?.pause()
    try {
      return {
        acknowledged: writers.map((writer) => writer.acknowledged),
        there: await Promise.all(writers.map((writer) => writer.there())),
      }
    } finally {
      this.#load?.resume()
    }
  }

  /** Descriptors of luod that are nobody's: neither a file, nor of a connection. */
  async spareFds(): Promise<number> {
    let last = Number.NaN
    await this.#load?.pause()
    try {
      await eventually(
        async () => {
          const { open_fds, files, connections } = await this.ask('Status', {})
          const spare = open_fds - files - 2 * connections
          const same = spare === last
          last = spare
          return same
        },
        (same) => same,
        'luod is never at rest',
      )
      return last
    } finally {
      this.#load?.resume()
    }
  }

  /** Processes of luod: what they are started with names the socket. */
  luods(): number[] {
    return this.#processes((command) => command.includes(LUOD))
  }

  async #startOthers(): Promise<void> {
    await eventually(
      () => this.ask('Status', {}),
      () => true,
      `luod does not start: ${this.#log}`,
    )
    const random = new Random(this.seed)
    this.#load = await Load.start(this.socket, () => random.next())
    this.#startClient()
    this.#startService()
    await this.mend('luod')
  }

  #startLuod(): void {
    const args = ['--import', STRIKE, LUOD, '--socket', this.socket]
    const env = { ...process.env, LUO_TEST_STRIKE: this.#directory }
    const luod = this.#manager
      ? this.#manager.start(process.execPath, args, env)
      : spawn(process.execPath, [...args, '--standby'], { env, stdio: ['ignore', 'ignore', 'pipe'] })
    this.#listen(luod)
    if (this.#manager) luod.once('exit', () => this.#over || this.#startLuod())
  }

  #startClient(): void {
    this.#clients += 1
    this.#client = this.#spawn(CLIENT, `client-${this.#clients}`, this.socket)
  }

  async #startNotifier(): Promise<void> {
    const notifier = spawn(process.execPath, [NOTIFIER, this.socket, MACHINE], { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#notifier = notifier
    this.#listen(notifier)
    notifier.stdout.on('data', (text) => {
      this.#said += text
    })
    // It may be killed before it has read what it is asked.
    notifier.stdin.on('error', () => {})
    await this.#expectMachine()
  }

  /** Its program has what it had. */
  async #expectMachine(): Promise<void> {
    await eventually(
      () => this.#said,
      (said) => said === `${MACHINE}\n`,
      `the machine does not go on: ${this.#log}`,
    )
    this.#said = ''
  }

  /** What has become of the machine; nothing is left of it afterwards. */
  async endMachine(fate: MachineFate): Promise<void> {
    const notifier = this.#notifier
    if (!notifier) return
    if (fate === 'goes on') {
      notifier.stdin?.write('?\n')
      await this.#expectMachine()
      notifier.kill('SIGKILL')
    }
    await eventually(
      () => notifier.exitCode ?? notifier.signalCode,
      (ended) => ended !== null,
      'the notifier does not end',
    )
    await eventually(
      () => this.ask('Machines', {}),
      ({ machines }) => machines.length === 0,
      'the machine is left',
    )
  }

  #startService(): void {
    const service = [process.execPath, SERVICE, this.socket]
    this.#supervisor = this.#spawn(LUOCTL, '--socket', this.socket, 'run', 'web', '--restart', '--', ...service)
  }

  #spawn(...args: string[]): ChildProcess {
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#listen(child)
    return child
  }

  #listen(child: ChildProcess): void {
    child.stderr?.on('data', (chunk) => {
      this.#log += chunk
    })
  }

  #failingBuild(): string {
    const main = join(this.#directory, 'failing.cjs')
    writeFileSync(main, FAILING_BUILD, { mode: 0o600 })
    return main
  }

  async #upgrade(request: { to?: string } = {}): Promise<void> {
    const client = await VarlinkClient.connect(this.socket)
    try {
      for await (const _ of client.stream('Upgrade', { id: randomUUID(), ...request }));
    } catch {
      // Who was killed decides how it ends, and the rows say who serves then.
    } finally {
      client.close()
    }
  }

  get #order(): string {
    return join(this.#directory, 'order')
  }

  get #struck(): string {
    return join(this.#directory, 'struck')
  }

  #processes(wanted: (command: string) => boolean): number[] {
    return readdirSync('/proc').flatMap((name) => {
      if (!/^\d+$/.test(name) || Number(name) === process.pid) return []
      try {
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8')
        return command.includes(this.#directory) && wanted(command) ? [Number(name)] : []
      } catch {
        // It has ended meanwhile.
        return []
      }
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true
    this.#load?.close()
    const left = () => this.#processes(() => true)
    await eventually(
      () => {
        for (const pid of left()) {
          try {
            process.kill(pid, 'SIGKILL')
          } catch {
            // It has ended meanwhile.
          }
        }
        return left()
      },
      (pids) => pids.length === 0,
      'processes are left',
    )
    this.#manager?.[Symbol.dispose]()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}
