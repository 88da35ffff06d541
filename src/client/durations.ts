/** Durations in options. What no timer of Node.js can wait for it would wait 1 ms for: it waits for as long as it can. */
import { LuoError } from '../errors.js'

/** A timer's number is a signed one of 32 bits: 24.8 days. */
const MOST_MS = 2 ** 31 - 1
const NAMES = ['reconnectMs', 'kexecWaitMs', 'drainMs', 'settleMs'] as const

/** The same options, with each duration such that a timer takes it. EINVAL for what is none. */
export function withDurations<T extends Partial<Record<(typeof NAMES)[number], number>>>(options: T): T {
  const checked = { ...options }
  for (const name of NAMES) {
    const ms: unknown = options[name]
    if (ms === undefined) continue
    if (typeof ms === 'number' && ms >= 0) Object.assign(checked, { [name]: Math.min(ms, MOST_MS) })
    else throw new LuoError('EINVAL', `the option ${name} is ${String(ms)}: milliseconds are needed, 0 or more`)
  }
  return checked
}
