/** Times that another process of this machine understands, as long as the kernel runs. */

/** The monotonic clock of the kernel, in ms; its zero is the same for all processes. */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1_000 + nanoseconds / 1_000_000
}

/** To the microsecond. */
export function millisecondsSince(start: number): number {
  return Math.round((monotonicMs() - start) * 1_000) / 1_000
}

/** What the wall clock shows, or showed, at a time of the monotonic one: in whole ms, as it is set now. */
export function wallClockOf(atMs: number): number {
  return Math.round(Date.now() + atMs - monotonicMs())
}
