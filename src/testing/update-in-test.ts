/**
 * An old and a new command through a real update, in a test: a private luod in a folder of its own, `luoctl run`, and
 * as many updates as the test wants. Everything ends with the test: `await using`, or `dispose()`.
 *
 * It fails with LUO_DEADLINE when the workload does not come up in time, and with LUO_GONE when it ends; both carry
 * what the processes wrote. An update that does not commit is a result, not an error.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { connect } from '../cli/context.js'
import { builtFile } from '../cli/private-daemon.js'
import { failureOf, followUpdate, type UpdateOutcome, type UpdateResult } from '../cli/update.js'
import { checkNumbers } from '../client/numbers.js'
import { isLuoError, LuoError } from '../errors.js'
import type { Phase, Workload } from '../protocol/types.js'

const START_LIMIT_MS = 20_000
const STOP_LIMIT_MS = 5_000
const POLL_MS = 20
/** Of what the processes wrote, this much is kept for the message of a failure. */
const MAX_OUTPUT = 64 * 1024

/** A fault at one point: `victim` is killed, or `self` stands still, when the faulty version calls luod. */
export interface FaultPoint {
  action: 'kill' | 'hang'
  victim: 'self' | 'supervisor' | 'old'
  when: 'before' | 'after'
  /** Old version: Ready, Released. New version: Join, Claim, Commit. */
  call: 'Join' | 'Claim' | 'Commit' | 'Ready' | 'Released'
}

/**
 * What goes wrong in an update on purpose. crash-at-start: the new version ends before it joins. crash-before-commit
 * and hang-before-commit: it is killed, or stands still, when it would say that it is whole. refuse: the old version
 * refuses to let go. kill-old: the old version is killed when the new one has everything. All but the first need
 * commands that are Node.js programs.
 */
export type Fault = 'crash-at-start' | 'crash-before-commit' | 'hang-before-commit' | 'refuse' | 'kill-old' | FaultPoint

const NAMED_FAULTS: Record<Exclude<Fault, FaultPoint>, string> = {
  'crash-at-start': '',
  'crash-before-commit': 'kill self before Commit',
  'hang-before-commit': 'hang self before Commit',
  refuse: 'refuse self before Ready',
  'kill-old': 'kill old before Commit',
}

export interface StartOptions {
  /** The command of the old version. */
  from: readonly string[]
  workload?: string
  env?: NodeJS.ProcessEnv
  cwd?: string
  restart?: boolean
  /** `refuse`, or a point at which this version fails when it is updated. */
  fault?: 'refuse' | FaultPoint
  /** How long the first start may take. */
  timeoutMs?: number
}

export interface UpdateTestOptions {
  deadlineMs?: number
  check?: 'successor' | 'prepare'
  fault?: Fault
  onPhase?: (phase: Phase) => void
}

export interface UpdateTestResult {
  outcome: UpdateOutcome
  phases: Phase[]
  blackoutMs: number | undefined
  /** Why it did not commit. */
  reason: string | undefined
  code: string | undefined
}

export interface RunningTest extends AsyncDisposable {
  readonly workload: string
  readonly socket: string
  /** What luoctl, luod and the workload wrote so far. */
  output(): string
  show(): Promise<Workload>
  /** Pid of the running version. */
  pid(): Promise<number>
  update(to: readonly string[], options?: UpdateTestOptions): Promise<UpdateTestResult>
  /** A signal to luoctl, which passes it on. */
  signal(signal: NodeJS.Signals): void
  /** Ends everything; answers the exit code of luoctl run. */
  dispose(): Promise<number | null>
}

/** Starts a workload under a private luod and waits until it runs. */
export async function startInTest(given: StartOptions): Promise<RunningTest> {
  const options = checkNumbers(given)
  const test = new Running(options)
  try {
    await test.waitUntilRunning(options.timeoutMs ?? START_LIMIT_MS)
    return test
  } catch (error) {
    await test.dispose()
    throw error
  }
}

export interface UpdateTest extends UpdateTestResult, AsyncDisposable {
  /** Still there: look at what the new version made of the state. */
  readonly running: RunningTest
}

/** Starts `from`, lets `drive` use it, updates it to `to`. The workload runs on until the result is disposed of. */
export async function updateInTest({
  fault,
  ...options
}: Omit<StartOptions, 'fault'> &
  UpdateTestOptions & {
    to: readonly string[]
    drive?: (running: RunningTest) => Promise<void> | void
  }): Promise<UpdateTest> {
  const ofOld = ofOldVersion(fault)
  const running = await startInTest(ofOld ? { ...options, fault: ofOld } : options)
  try {
    await options.drive?.(running)
    const result = await running.update(options.to, ofOld || !fault ? options : { ...options, fault })
    return { ...result, running, [Symbol.asyncDispose]: () => running[Symbol.asyncDispose]() }
  } catch (error) {
    await running.dispose()
    throw error
  }
}

/** Faults that happen in the old version, which must be started with them. */
function ofOldVersion(fault: Fault | undefined): 'refuse' | FaultPoint | undefined {
  if (fault === 'refuse') return fault
  return typeof fault === 'object' && ['Ready', 'Released'].includes(fault.call) ? fault : undefined
}

class Running implements RunningTest {
  readonly workload: string
  readonly socket: string
  readonly #directory: string
  readonly #process: ChildProcess
  #output = ''

  constructor(options: StartOptions) {
    this.workload = options.workload ?? 'test'
    this.#directory = mkdtempSync(join(tmpdir(), 'luo-test-'))
    this.socket = join(this.#directory, 'luod.sock')
    const { LUO_TICKET, LUO_WORKLOAD, NOTIFY_SOCKET, ...inherited } = process.env
    const from = options.fault ? withFault(options.from, options.fault) : options.from
    const flags = ['--socket', this.socket, ...(options.restart ? ['--restart'] : [])]
    this.#process = spawn(process.execPath, [builtFile('cli/main.js'), 'run', this.workload, ...flags, '--', ...from], {
      cwd: options.cwd ?? process.cwd(),
      env: { ...inherited, PWD: options.cwd ?? process.cwd(), ...options.env, LUO_SOCKET: this.socket },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const keep = (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString()).slice(-MAX_OUTPUT)
    }
    this.#process.stdout?.on('data', keep)
    this.#process.stderr?.on('data', keep)
  }

  output(): string {
    return this.#output
  }

  async waitUntilRunning(limitMs: number): Promise<void> {
    const end = performance.now() + limitMs
    while (performance.now() < end) {
      if (this.#ended) {
        throw new LuoError('LUO_GONE', `start ${this.workload}: luoctl run ended with ${this.#process.exitCode}`, {
          params: { output: this.#output },
        })
      }
      if ((await this.#look())?.state === 'running') return
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
    throw new LuoError('LUO_DEADLINE', `start ${this.workload}: not running after ${limitMs} ms\n${this.#output}`)
  }

  async show(): Promise<Workload> {
    const { client } = await connect(this.socket)
    try {
      return (await client.call('Show', { workload: this.workload })).parameters.workload
    } finally {
      client.close()
    }
  }

  async pid(): Promise<number> {
    const { pid } = await this.show()
    if (pid === undefined || pid === null) throw new LuoError('LUO_GONE', `${this.workload} has no process`)
    return pid
  }

  async update(to: readonly string[], options: UpdateTestOptions = {}): Promise<UpdateTestResult> {
    const { client } = await connect(this.socket)
    try {
      const command = successorCommand(to, options.fault, await this.pid())
      const { deadlineMs, check, onPhase = () => {} } = options
      const result = await followUpdate(client, { workload: this.workload, command, deadlineMs, check }, onPhase)
      return testResult(result)
    } finally {
      client.close()
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }

  async dispose(): Promise<number | null> {
    if (!this.#ended) {
      // A workload that will not end is killed by its own pid: killing luoctl alone would leave it behind.
      const pid = (await this.#look())?.pid
      const exit = once(this.#process, 'exit')
      this.#process.kill('SIGTERM')
      const hard = setTimeout(() => {
        if (pid) kill(pid)
        setTimeout(() => this.#process.kill('SIGKILL'), STOP_LIMIT_MS).unref()
      }, STOP_LIMIT_MS)
      await exit
      clearTimeout(hard)
    }
    await this.#endDaemon()
    rmSync(this.#directory, { recursive: true, force: true })
    return this.#process.exitCode
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }

  /** The private luod ends by itself, but not while it keeps the state of a crashed workload. */
  async #endDaemon(): Promise<void> {
    try {
      const { client, status } = await connect(this.socket)
      try {
        process.kill(status.pid, 'SIGTERM')
      } finally {
        client.close()
      }
    } catch {
      // It has ended.
    }
  }

  get #ended(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null
  }

  async #look(): Promise<Workload | undefined> {
    try {
      return await this.show()
    } catch (error) {
      if (isLuoError(error)) return undefined
      throw error
    }
  }
}

function successorCommand(to: readonly string[], fault: Fault | undefined, old: number): readonly string[] {
  if (fault === undefined) return to
  return fault === 'crash-at-start' ? [process.execPath, '-e', 'process.exit(70)'] : withFault(to, fault, old)
}

/** The command with `fault.js` loaded first; env(1) execs it, so the pid stays its own. */
function withFault(command: readonly string[], fault: Fault, old?: number): string[] {
  const options = `${process.env.NODE_OPTIONS ?? ''} --import=${pathToFileURL(builtFile('testing/fault.js'))}`.trim()
  const text =
    typeof fault === 'string' ? NAMED_FAULTS[fault] : [fault.action, fault.victim, fault.when, fault.call].join(' ')
  return ['env', `LUO_TEST_FAULT=${text}`, `LUO_TEST_OLD=${old ?? ''}`, `NODE_OPTIONS=${options}`, ...command]
}

function testResult(result: UpdateResult): UpdateTestResult {
  const failure = result.outcome === 'committed' ? undefined : failureOf(result.timeline)
  return {
    outcome: result.outcome,
    phases: result.timeline,
    blackoutMs: result.blackoutMs,
    reason: failure?.reason,
    code: failure?.code,
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended already, which is what was wanted.
  }
}
