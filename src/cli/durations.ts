/**
 * Durations as people write them (`10s`, `500ms`, `2m`, `1h`) and as they read them (`4.1 ms`). Pure. A duration
 * without a unit is refused, because nobody can know which one was meant.
 */
import { usageError } from './arguments.js'

const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const

/** The longest duration the protocol's timers take: a signed 32 bit number of milliseconds, about 24 days. */
const MAX_MS = 2 ** 31 - 1

/** Reads the value of this option. */
export function durationOf(option: string): (text: string) => number {
  return (text) => parseDuration(text, option)
}

/** Milliseconds, a whole number from 1 to 24 days. Throws LUO_INVALID_PARAMETER naming the option and the text. */
export function parseDuration(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text.trim())
  const unit = match?.[2] as keyof typeof UNIT_MS | undefined
  if (!match || !unit) {
    throw usageError(`${option} "${text}": it is no duration: write 500ms, 10s, 2m or 1h`)
  }
  const ms = Math.round(Number(match[1]) * UNIT_MS[unit])
  if (ms < 1 || ms > MAX_MS) {
    throw usageError(`${option} "${text}": it is out of range: from 1ms to 24 days`)
  }
  return ms
}

/** Milliseconds with the unit that reads best: `0.42 ms`, `4.1 ms`, `120 ms`, `3.2 s`, `2 min 5 s`. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return '-'
  if (ms < 0) return `-${formatDuration(-ms)}`
  if (ms < 1) return `${ms.toFixed(2)} ms`
  if (ms < 99.95) return `${ms.toFixed(1)} ms`
  if (ms < 999.5) return `${Math.round(ms)} ms`
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`
  const seconds = Math.round(ms / 1000)
  if (seconds < 3600) return join(Math.floor(seconds / 60), 'min', seconds % 60, 's')
  const minutes = Math.round(seconds / 60)
  return join(Math.floor(minutes / 60), 'h', minutes % 60, 'min')
}

function join(big: number, bigUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`
}
