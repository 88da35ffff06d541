/**
 * What came over a kexec, until all of it is taken up: says what the kexec cost, in two events of everybody. `kexec`,
 * once luod has everything back, has the parts of the way there; `kexecOver`, once every workload that crossed is
 * claimed or released, the times of the first claim and of the last commit, counted from the reboot call.
 *
 * The times before and after are of the wall clock: there is no other that both kernels have. The next kernel reads it
 * from the machine's clock chip, which has whole seconds, so that what spans the reboot is that much off.
 */
import type { LuoError } from '../errors.js'
import type { State } from './state.js'

const CLOCK = 'by the wall clock, which the kernel has read from the clock chip anew: 1 s off at most, if that is right'
const NS_PER_MS = 1e6

type Told = Pick<State, 'events' | 'sessions' | 'tellOf' | 'workloads'>

export interface Arrived {
  /** Version of the luod that handed it over. */
  luod: string
  /** Of the wall clock, in ms: when its steps began. */
  times: Readonly<Record<string, number>>
  /** Files that did not come back. */
  lost: readonly { session: string; token: string; error: LuoError }[]
}

/** Since when the workloads were let go of, of the monotonic clock. */
export function pausedSince({ times }: Pick<Arrived, 'times'>): bigint {
  const ms = Date.now() - (times.preserving ?? Date.now())
  return process.hrtime.bigint() - BigInt(Math.round(ms)) * BigInt(NS_PER_MS)
}

/** At the start of a luod that has taken back what one before the kexec handed over. */
export function tellArrival(state: Told, { luod, times, lost }: Arrived): void {
  const uid = process.getuid?.() ?? 0
  const now = Date.now()
  const kernelStart = now - Number(process.hrtime.bigint()) / NS_PER_MS
  const { asking, preserving, preserved, stopping, rebooting } = times
  const marks: [string, number | undefined][] = [
    ['letGo', asking],
    ['preserve', preserving],
    ['stop', stopping ?? preserved],
    ['reboot', rebooting],
    ['boot', kernelStart],
    ['luod', performance.timeOrigin],
  ]
  const known = marks.flatMap(([name, at]) => (at === undefined ? [] : [[name, at] as const]))
  const spans = known.map(([name, at], index) => [name, (known[index + 1]?.[1] ?? now) - at] as const)
  state.events.emit(uid, 'kexec', {
    pid: process.pid,
    detail: `what luod ${luod} handed over is back; ${CLOCK}`,
    duration_ms: now - (asking ?? now),
    spans: Object.fromEntries(spans),
  })
  for (const { session, error } of lost) {
    const holding = state.sessions.index.find(session)
    const { code, message: detail } = error
    if (holding) state.tellOf(holding, 'fileLost', { code, detail })
  }
  watchClaims(state, uid, rebooting ?? stopping ?? now)
}

function watchClaims(state: Told, uid: number, rebootAt: number): void {
  const waiting = new Set(state.workloads(0).map(({ uid: owner, name }) => `${owner} ${name}`))
  const total = waiting.size
  let firstClaim: number | undefined
  if (total === 0) return
  const stop = state.events.onEvent(({ event, uid: owner, workload, outcome }) => {
    const key = `${owner} ${workload}`
    if (!waiting.has(key)) return
    if (event === 'joined') firstClaim ??= Date.now()
    const over = (event === 'claimed' && outcome === 'committed') || event === 'released' || event === 'expired'
    if (!over) return
    waiting.delete(key)
    if (waiting.size > 0) return
    stop()
    const now = Date.now()
    const spans = {
      ...(firstClaim === undefined ? {} : { firstClaim: firstClaim - rebootAt }),
      lastCommit: now - rebootAt,
    }
    const detail = `all ${total} workloads that crossed the kexec are taken up; ${CLOCK}`
    state.events.emit(uid, 'kexecOver', { detail, duration_ms: now - rebootAt, spans })
  })
}
