/**
 * What the demo does, in order: the harness proves that it sees a loss; ten updates between two versions; versions and
 * moments that go wrong; luod itself upgraded, and killed; the service killed outside an update. Everything that is not
 * as it should be becomes a problem in the result, never an exception that hides the rest, except when the service
 * itself is out of reach.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Checker } from './checker.js'
import { LoadProcess } from './load-process.js'
import { serverCommand, type UpdateReport, type World } from './world.js'

export const UPDATES = 10
const LOAD = { connections: 64, rate: 1_500 }
/** MiB of values that are there before the first update and must be there after the last. */
const FILL_MIB = 128
const SETTLE_MS = 250
const MEMORY_BYTES = 256 * 2 ** 20

export interface Row {
  step: string
  outcome: string
  /** Which version answers afterwards. */
  version: string
  blackoutMs: number | undefined
  gapMs: number | undefined
  note: string
}

export interface Result {
  rows: Row[]
  problems: string[]
  updates: number
  rolledBack: number
  requests: number
  failed: number
  connectionsReset: number
  lostWrites: number
  acknowledgedWrites: number
  connections: number
  /** Of the ten good updates. */
  blackoutsMs: number[]
  gapsMs: number[]
  memoryBytes: number
  memoryIntact: boolean
  crash: { connections: number; requests: number; recovery_ms: number }
  /** For how long luod served nobody. */
  upgradePauseMs: number
  takeoverMs: number
}

interface Check {
  intact: boolean
  count: number
  checksum: string
  bytes: number
}

interface Failure {
  step: string
  command: string[]
  deadline?: string
  /** Asked of the running version before. */
  request?: string
  settleMs?: number
}

const FAILURES: readonly Failure[] = [
  { step: 'new version crashes while restoring', command: serverCommand('crash') },
  { step: 'new version throws while restoring', command: serverCommand('crash', '--throw') },
  { step: 'new version cannot read the state', command: serverCommand('newer') },
  { step: 'new version hangs before its commit', command: serverCommand('hang'), deadline: '1s' },
  {
    step: 'old version refuses',
    command: serverCommand('v2'),
    request: '/admin/refuse?reason=closing%20the%20books',
  },
  {
    step: 'old version misses its deadline',
    command: serverCommand('v2'),
    deadline: '1s',
    request: '/admin/late?ms=1500',
    // The old version's hook sleeps on past the rollback: let it end before anything else is asked of it.
    settleMs: 900,
  },
]

export class Scenario {
  readonly #world: World
  readonly #say: (line: string) => void
  readonly #load = new LoadProcess()
  readonly #checker: Checker
  readonly #processes: LoadProcess[] = [this.#load]
  #keys = 0
  #memoryKept = true
  readonly result: Result = {
    rows: [],
    problems: [],
    updates: 0,
    rolledBack: 0,
    requests: 0,
    failed: 0,
    connectionsReset: 0,
    lostWrites: 0,
    acknowledgedWrites: 0,
    connections: 0,
    blackoutsMs: [],
    gapsMs: [],
    memoryBytes: 0,
    memoryIntact: false,
    crash: { connections: 0, requests: 0, recovery_ms: 0 },
    upgradePauseMs: 0,
    takeoverMs: 0,
  }

  constructor(world: World, say: (line: string) => void) {
    this.#world = world
    this.#say = say
    this.#checker = new Checker(world.port)
  }

  async run(): Promise<void> {
    this.#say('starting the service: luoctl run kv --restart -- node examples/kv/server-v1.js')
    await this.#world.start('v1')
    await this.#proveHarness()
    await this.#world.request('PUT', `/admin/fill?mb=${FILL_MIB}`)
    const before = await this.#check()
    this.#keys = before.count
    await this.#load.call('start', { ...LOAD, port: this.#world.port })
    this.#checker.start()
    this.#say(`load: ${LOAD.connections} connections, ${LOAD.rate} requests a second, and a checker beside it`)
    await sleep(SETTLE_MS)

    for (let n = 1; n <= UPDATES; n++) await this.#goodUpdate(n, n % 2 === 1 ? 'v2' : 'v1')
    for (const failure of FAILURES) await this.#failedUpdate(failure)
    await this.#oldKilledWhileRestoring()
    await this.#luodUpgraded()
    await this.#luodKilled()
    await this.#luodKilledInUpdate()
    await this.#serviceKilled()
    await this.#account(before)
  }

  /** Ends the processes of this scenario. */
  close(): void {
    for (const process of this.#processes) process.kill()
  }

  /** With a connection dropped on purpose and a write that never happened, the harness must report exactly these. */
  async #proveHarness(): Promise<void> {
    const load = new LoadProcess()
    this.#processes.push(load)
    await load.call('start', { port: this.#world.port, connections: 8, rate: 400 })
    await sleep(100)
    await this.#world.request('PUT', '/admin/drop')
    await sleep(200)
    const stats = await load.call('stop')
    load.kill()
    const checker = new Checker(this.#world.port)
    checker.remember('never-written', 'nothing')
    const lost = await checker.verify()
    const seen = stats.lost === 1 && stats.failed === 1 && stats.sent === stats.answered + 1 && lost.length === 1
    const report = `${stats.lost} connection and ${stats.failed} request of ${stats.sent}, and ${lost.length} write`
    if (!seen) throw new Error(`the harness is blind: with one of each lost on purpose it reported ${report}`)
    this.#say(`the harness sees a loss: one of each lost on purpose, and it reports ${report}`)
  }

  async #goodUpdate(n: number, version: string): Promise<void> {
    const { report, gapMs } = await this.#measured(() => this.#world.update(serverCommand(version)))
    await this.#row(`update ${n}`, 'committed', version, report, gapMs)
    if (report.outcome !== 'committed') return
    this.result.gapsMs.push(gapMs)
    if (report.blackoutMs !== undefined) this.result.blackoutsMs.push(report.blackoutMs)
  }

  async #failedUpdate(failure: Failure): Promise<void> {
    const before = await this.#world.version()
    if (failure.request !== undefined) await this.#world.request('PUT', failure.request)
    const { report, gapMs } = await this.#measured(() =>
      this.#world.update(failure.command, failure.deadline === undefined ? {} : { deadline: failure.deadline }),
    )
    await this.#row(failure.step, 'rolledBack', before.version, report, gapMs, before.pid)
    await sleep(failure.settleMs ?? 0)
  }

  async #oldKilledWhileRestoring(): Promise<void> {
    await this.#killedWhileRestoring('kill -9 of the old version while restoring', await this.#world.workloadPid())
  }

  /** The update goes on where it was, led by the standby. */
  async #luodKilledInUpdate(): Promise<void> {
    const { pid } = await this.#world.protectedBy()
    await this.#killedWhileRestoring('kill -9 of luod in the middle of an update', pid)
    await this.#world.protectedBy(pid)
  }

  async #killedWhileRestoring(step: string, pid: number): Promise<void> {
    let killed = false
    const { report, gapMs } = await this.#measured(() =>
      this.#world.update(serverCommand('slow'), {
        onPhase: (phase) => {
          if (phase !== 'restoring' || killed) return
          killed = true
          process.kill(pid, 'SIGKILL')
        },
      }),
    )
    if (!killed) this.result.problems.push(`${step}: the phase was never seen`)
    await this.#row(step, 'committed', 'slow', report, gapMs)
  }

  async #serviceKilled(): Promise<void> {
    const before = await this.#world.version()
    await this.#load.call('expectCrash', true)
    this.#checker.expectCrash(true)
    const { gapMs, report } = await this.#measured(async () => {
      const startedAt = performance.now()
      process.kill(before.pid, 'SIGKILL')
      const after = await this.#world.answering(undefined, before.pid)
      this.result.crash.recovery_ms = round(performance.now() - startedAt)
      await this.#load.call('replace')
      await this.#load.call('expectCrash', false)
      this.#checker.expectCrash(false)
      return after
    })
    const step = 'kill -9 of the service, no update'
    await this.#stateKept(step)
    const again = report.version === before.version ? 'restarted' : `restarted as ${report.version}`
    this.#add({
      step,
      outcome: again,
      version: report.version,
      blackoutMs: undefined,
      gapMs,
      note: 'its connections ended with it',
    })
  }

  async #luodUpgraded(): Promise<void> {
    const { report: pauseMs, gapMs } = await this.#measured(() => this.#world.upgradeLuod())
    const note = `luod itself served nobody for ${pauseMs.toFixed(1)} ms`
    this.result.upgradePauseMs = round(pauseMs)
    await this.#luodRow('luoctl upgrade', 'another luod serves', gapMs, note)
  }

  async #luodKilled(): Promise<void> {
    const { pid } = await this.#world.protectedBy()
    const { report, gapMs } = await this.#measured(async () => {
      process.kill(pid, 'SIGKILL')
      return this.#world.protectedBy(pid)
    })
    const pauseMs = report.takeover?.pause_ms ?? 0
    this.result.takeoverMs = round(pauseMs)
    await this.#luodRow(
      'kill -9 of luod',
      'the standby serves',
      gapMs,
      `luod itself served nobody for ${pauseMs.toFixed(1)} ms`,
    )
  }

  /** The service has noticed nothing: the same process, with the same state. */
  async #luodRow(step: string, outcome: string, gapMs: number, note: string): Promise<void> {
    const { version } = await this.#world.version()
    await this.#world.protectedBy()
    await this.#stateKept(step)
    this.#add({ step, outcome, version, blackoutMs: undefined, gapMs, note })
  }

  async #measured<T>(act: () => Promise<T>): Promise<{ report: T; gapMs: number }> {
    await this.#load.call('markGap')
    const report = await act()
    await sleep(SETTLE_MS)
    return { report, gapMs: round(await this.#load.call('gap')) }
  }

  /** Compares how an update ended, and who answers now, with what must be. */
  async #row(
    step: string,
    wanted: 'committed' | 'rolledBack',
    wantedVersion: string,
    report: UpdateReport,
    gapMs: number,
    wantedPid?: number,
  ): Promise<void> {
    const { version, pid } = await this.#world.version()
    const reason = report.reason ?? ''
    const { problems } = this.result
    if (report.outcome === 'committed') this.result.updates += 1
    if (report.outcome === 'rolledBack') this.result.rolledBack += 1
    if (report.outcome !== wanted) problems.push(`${step}: ${report.outcome} instead of ${wanted}: ${reason}`)
    if (version !== wantedVersion) problems.push(`${step}: ${version} answers instead of ${wantedVersion}`)
    if (wantedPid !== undefined && pid !== wantedPid) problems.push(`${step}: pid ${pid} answers, not ${wantedPid}`)
    await this.#stateKept(step)
    this.#add({ step, outcome: report.outcome, version, blackoutMs: report.blackoutMs, gapMs, note: reason })
  }

  #add(row: Row): void {
    this.result.rows.push(row)
    const blackout = row.blackoutMs === undefined ? '' : `, blackout ${row.blackoutMs.toFixed(1)} ms`
    this.#say(`${row.step}: ${row.outcome}, ${row.version} answers${blackout}${row.note ? ` (${row.note})` : ''}`)
  }

  /** Keys are only ever added: a version that has fewer than the one before has lost its memory. */
  async #stateKept(step: string): Promise<void> {
    const { count, bytes } = JSON.parse(await this.#world.request('GET', '/stats')) as Check
    if (count >= this.#keys && bytes === MEMORY_BYTES) this.#keys = count
    else {
      this.#memoryKept = false
      this.result.problems.push(`${step}: ${count} keys in ${bytes} bytes, and there were ${this.#keys}`)
    }
  }

  async #check(): Promise<Check> {
    return JSON.parse(await this.#world.request('GET', '/check')) as Check
  }

  async #account(before: Check): Promise<void> {
    const { result } = this
    await this.#checker.stop()
    const load = await this.#load.call('stop')
    const lostWrites = await this.#checker.verify()
    const after = await this.#check()
    const checker = this.#checker.stats()
    const unanswered = load.sent - load.answered - load.failed - load.crash.requests

    result.requests = load.sent + checker.sent
    result.failed = load.failed + unanswered + checker.failed
    result.connections = load.opened
    result.connectionsReset = load.lost + checker.lost
    result.crash.connections = load.crash.connections + checker.crash.connections
    result.crash.requests = load.crash.requests + checker.crash.requests
    result.acknowledgedWrites = checker.acknowledged
    result.lostWrites = lostWrites.length
    result.memoryBytes = after.bytes
    result.memoryIntact =
      this.#memoryKept &&
      before.intact &&
      after.intact &&
      after.bytes === MEMORY_BYTES &&
      after.count >= before.count + checker.acknowledged
    if (result.failed > 0) result.problems.push(`${result.failed} requests failed`)
    if (result.connectionsReset > 0) result.problems.push(`${result.connectionsReset} connections were lost`)
    if (result.lostWrites > 0) result.problems.push(`${result.lostWrites} acknowledged writes are gone`)
    if (!result.memoryIntact) result.problems.push(`the memory is not as it was: ${JSON.stringify({ before, after })}`)
    result.problems.push(...load.errors, ...checker.errors)
  }
}

export function round(ms: number): number {
  return Math.round(ms * 100) / 100
}
