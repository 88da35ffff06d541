/**
 * The parties of an update, all of them one puppet with a connection for each, so that an update takes some
 * milliseconds. What luod kills, and whose end it sees, is a process of its own for each version: one that sleeps, of
 * which luod believes that it is the puppet's.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { isLuoError } from '../../src/errors.js'
import { type Interference, SYS } from '../../src/sys/ffi.js'
import type { Puppet, Stage } from '../daemon/stage.js'
import { always } from './interference.js'

const SO_PEERPIDFD = 77
const WORKLOAD = 'web'
/** Somebody repeats what failed so often, as the library would. */
const ATTEMPTS = 4
/** Of an update that nothing goes wrong in, on any machine. */
const DEADLINE_MS = 10_000
const LIMIT_MS = 20_000

/** Whoever hears events, over a connection of its own. */
interface Listener {
  readonly events: string
  /** What its stream is called; another one each time. */
  stream: string
  listen(): Promise<void>
}

/** One version, from its start to its end. */
class Version implements Listener {
  readonly control: string
  readonly events: string
  readonly session: string
  readonly process: ChildProcess
  member = ''
  /** It was asked to let go. */
  asked = false
  stream = ''
  readonly #puppet: Puppet

  constructor(puppet: Puppet, number: number) {
    this.#puppet = puppet
    this.control = `control-${number}`
    this.events = `events-${number}`
    this.session = `session-${number}`
    this.process = spawn('sleep', ['60'], { stdio: 'ignore' })
  }

  get pid(): number {
    return this.process.pid ?? 0
  }

  async listen(): Promise<void> {
    await this.#puppet.do('disconnect', { on: this.events }).catch(() => {})
    const { events, member } = this
    this.stream = nextStream(events)
    const input = { member }
    const first = await this.#puppet.do('stream', { on: events, as: this.stream, method: 'Subscribe', input })
    // What it was asked for is over, if it was asked.
    if ((first as { update?: string }).update === undefined) this.asked = false
  }

  /** As the kernel ends a process. */
  async end(): Promise<void> {
    this.process.kill('SIGKILL')
    await this.#puppet.do('close', { name: this.session }).catch(() => {})
    for (const on of [this.control, this.events]) await this.#puppet.do('disconnect', { on }).catch(() => {})
  }
}

export class Parties {
  readonly #stage: Stage
  readonly #puppet: Puppet
  #running: Version
  #joining: Version | undefined
  #round = 0
  #update = ''
  readonly #supervisor: Listener = { events: 'supervisor', stream: '', listen: () => this.#supervise() }
  /** Nobody asks again. */
  #isOver = false
  readonly #asked: Promise<unknown>[] = []

  static async start(stage: Stage): Promise<Parties> {
    const parties = new Parties(stage, await stage.puppet())
    always(parties.#interference)
    await parties.#begin()
    return parties
  }

  private constructor(stage: Stage, puppet: Puppet) {
    this.#stage = stage
    this.#puppet = puppet
    this.#running = new Version(puppet, 0)
  }

  /** Of which process the kernel says that it has connected. */
  readonly #interference: Interference = (call, args) => {
    if (call === 'getsockopt' && args[2] === SO_PEERPIDFD) return 'ENOPROTOOPT'
    const asked = call === 'syscall' && args[0] === SYS.pidfdOpen && args[1] === this.#puppet.pid
    return asked && this.#joining ? [SYS.pidfdOpen, this.#joining.pid, ...args.slice(2)] : undefined
  }

  async #begin(): Promise<void> {
    await this.#supervise()
    const session = await this.#join(this.#running, [])
    const { control, member } = this.#running
    await this.#puppet.do('memfd', { name: 'state', size: 4096 })
    const files = [{ token: '1', fd: 0 }]
    await this.#puppet.call('Preserve', { id: 'p', session, files, fds: 1 }, { on: control, send: ['state'] })
    await this.#puppet.call('Commit', { id: 'c', member }, { on: control })
  }

  async #supervise(): Promise<void> {
    const { events } = this.#supervisor
    await this.#puppet.do('disconnect', { on: events }).catch(() => {})
    this.#supervisor.stream = nextStream(events)
    const input = { id: 'supervisor', workload: WORKLOAD, keep_ms: 60_000 }
    const about = { on: events, as: this.#supervisor.stream, keep: ['ticket'] }
    await this.#puppet.do('stream', { ...about, method: 'Supervise', input })
  }

  async #join(version: Version, send: string[]): Promise<string> {
    this.#joining = version
    try {
      const input = { id: `join-${version.pid}-${this.#round}`, workload: WORKLOAD, accepts: ['*'], fds: send.length }
      const files = { on: version.control, send, keep: [version.session] }
      const { member, session } = await this.#surely(files.on, () => this.#puppet.call('Join', input, files))
      version.member = member
      await this.#surely(version.events, () => version.listen())
      return session
    } finally {
      this.#joining = undefined
    }
  }

  /** What has failed was not done, and what was not answered is asked again, as the library does. */
  async #surely<T>(on: string, ask: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await ask()
      } catch (error) {
        if (!isLuoError(error) || attempt === ATTEMPTS || this.#isOver) throw error
        await this.#puppet.do('disconnect', { on }).catch(() => {})
      }
    }
  }

  /** Whoever has lost the connection for events comes back, and hears them again. */
  async #event(who: Listener, name: string, over: () => boolean): Promise<string | undefined> {
    const { events } = this.#puppet
    return soon(
      async () => {
        const index = events.findIndex(({ as }) => as === who.stream)
        const [event] = index < 0 ? [] : events.splice(index, 1)
        // It goes on, whatever else it is waited for.
        if (event?.event === 'resume') this.#running.asked = false
        if (event?.event === 'ended') await this.#surely(who.events, () => who.listen())
        return event?.event === name ? event.update : over() ? '' : undefined
      },
      (found) => found !== undefined,
      `${who.stream} does not hear of ${name}`,
    )
  }

  /** Answers how the update ended, or the code of why there was none. `abort`: when the old version has let go. */
  async update(abort: boolean): Promise<string> {
    this.#round += 1
    this.#isOver = false
    const old = this.#running
    await this.#listenAll()
    old.asked = false
    const next = new Version(this.#puppet, this.#round)
    let outcome: string | undefined
    const asked = this.#ask().then((answer) => {
      outcome = answer
    })
    const over = () => outcome !== undefined
    const driven = this.#drive(old, next, abort, over).catch(async (error) => {
      if (!isLuoError(error)) throw error
      // It cannot go on, and ends.
      next.process.kill('SIGKILL')
      const input = { id: `failed-${this.#round}`, workload: WORKLOAD, update: this.#update, reason: error.message }
      if (!over()) await this.#puppet.call('SpawnFailed', input, { on: 'spawned' }).catch(() => {})
    })
    await asked
    this.#isOver = true
    if (outcome === 'committed') {
      this.#running = next
      await driven
      await old.end()
    } else {
      await next.end()
      await driven
      // It may have connected meanwhile.
      await next.end()
      // Or it waits for ever.
      const goesOn = () => !old.asked
      if (old.asked) await this.#event(old, 'resume', goesOn)
    }
    await Promise.all(this.#asked.splice(0))
    return outcome ?? ''
  }

  async #ask(): Promise<string> {
    const request = { id: `update-${this.#round}`, workload: WORKLOAD, deadline_ms: DEADLINE_MS }
    for (;;) {
      try {
        return (await this.#puppet.call('Update', request, { on: 'asker' })).outcome ?? ''
      } catch (error) {
        if (!isLuoError(error)) throw error
        if (error.code !== 'LUO_GONE') return error.code
        await this.#puppet.do('disconnect', { on: 'asker' }).catch(() => {})
      }
    }
  }

  async #drive(old: Version, next: Version, abort: boolean, over: () => boolean): Promise<void> {
    const id = (what: string) => `${what}-${this.#round}`
    const puppet = this.#puppet
    const update = await this.#event(this.#supervisor, 'start', over)
    if (!update) return
    this.#update = update
    await puppet.do('pidfd', { name: 'process', pid: next.pid })
    const spawned = { id: id('spawned'), workload: WORKLOAD, update, pid: next.pid, fds: 1 }
    await this.#surely('spawned', () => puppet.call('Spawned', spawned, { on: 'spawned', send: ['process'] }))
    await this.#join(next, ['ticket'])
    const on = next.control
    const claimed = this.#surely(on, () => puppet.call('Claim', { id: id('claim'), member: next.member }, { on }))
    this.#asked.push(claimed.catch(() => {}))
    if (!(await this.#event(old, 'prepare', over))) return
    old.asked = true
    const ready = { id: id('ready'), member: old.member, update }
    await this.#surely(old.control, () => puppet.call('Ready', ready, { on: old.control }))
    const { session } = await claimed
    await this.#surely(on, () => puppet.call('Retrieve', { session, offset: 0 }, { on }))
    if (abort) {
      const input = { id: id('abort'), workload: WORKLOAD }
      await this.#surely('abort', () => puppet.call('Abort', input, { on: 'abort' }))
      return
    }
    const committed = this.#surely(on, () => puppet.call('Commit', { id: id('commit'), member: next.member }, { on }))
    this.#asked.push(committed.catch(() => {}))
    if (!(await this.#event(old, 'release', over))) return
    const released = { id: id('released'), member: old.member, update }
    // What was said is true, whether it arrives or not.
    await this.#surely(old.control, () => puppet.call('Released', released, { on: old.control })).catch(() => {})
    await committed
  }

  /** The version that runs is killed, and another one claims what it has left. Answers the code of a failure. */
  async claim(): Promise<string> {
    this.#round += 1
    this.#isOver = false
    await this.#running.end()
    await soon(
      () => this.#surely('asker', () => this.#puppet.call('Show', { workload: WORKLOAD }, { on: 'asker' })),
      ({ workload }) => workload.state === 'orphaned',
      'its state is not orphaned',
    )
    for (let attempt = 1; ; attempt++) {
      const next = new Version(this.#puppet, this.#round)
      const on = next.control
      try {
        await this.#join(next, [])
        const { member } = next
        for (const method of ['Claim', 'Commit'] as const) {
          const input = { id: `${method}-${this.#round}-${attempt}`, member }
          await this.#surely(on, () => this.#puppet.call(method, input, { on }))
        }
        this.#running = next
        return ''
      } catch (error) {
        await next.end()
        if (!isLuoError(error)) throw error
        // Whoever keeps it starts it again.
        if (attempt === ATTEMPTS) return error.code
      }
    }
  }

  /** The supervisor loses its connection, and comes back. */
  async superviseAgain(): Promise<string> {
    this.#isOver = false
    await this.#surely('supervisor', () => this.#supervise())
    return ''
  }

  /** With one version that runs and has everything: how many descriptors luod has then. */
  async rest(where: string): Promise<number> {
    const { process: running, control, pid } = this.#running
    if (running.signalCode !== null) throw new Error(`${where}: the version that runs was killed`)
    await this.#listenAll()
    for (const on of ['asker', 'abort', 'spawned', control]) await this.#puppet.do('disconnect', { on }).catch(() => {})
    await soon(
      () => this.#stage.call('Show', { workload: WORKLOAD }),
      ({ workload: { state, supervised, files } }) => state === 'running' && supervised && files === 1,
      `${where}: it does not run (pid ${pid})`,
    )
    return (await this.#stage.atRest()).open_fds
  }

  /** Whoever has lost its connection for events comes back, as always. */
  async #listenAll(): Promise<void> {
    const lost = new Set(this.#puppet.events.filter(({ event }) => event === 'ended').map(({ as }) => as))
    this.#puppet.events.length = 0
    for (const who of [this.#supervisor, this.#running]) if (lost.has(who.stream)) await who.listen()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running.end()
    always(() => undefined)
  }
}

/** What `look` sees once it is good: looked for without a pause that anybody would notice. */
async function soon<T>(look: () => Promise<T> | T, good: (value: T) => boolean, what: string): Promise<T> {
  for (const end = performance.now() + LIMIT_MS; ; ) {
    const value = await look()
    if (good(value)) return value
    if (performance.now() > end) throw new Error(`${what}: ${JSON.stringify(value)}`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

let streams = 0

function nextStream(of: string): string {
  streams += 1
  return `${of}, stream ${streams}`
}
