/** Numbers of a measurement: every figure says how often it was measured, and its spread. */

/** The value that this share of the values does not exceed. */
export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Three digits that mean something. */
export function round(value) {
  if (!Number.isFinite(value)) return null
  return Math.abs(value) >= 1000 ? Math.round(value) : Number(value.toPrecision(3))
}

/** Of few values: median, least, greatest. */
export function summary(values) {
  return {
    median: round(median(values)),
    min: round(Math.min(...values)),
    max: round(Math.max(...values)),
    n: values.length,
  }
}

/** Of many: what most calls take, and the slow ones. */
export function distribution(values) {
  const [p50, p95, p99] = [0.5, 0.95, 0.99].map((share) => round(percentile(values, share)))
  return { p50, p95, p99, min: round(Math.min(...values)), max: round(Math.max(...values)), n: values.length }
}

/**
 * How many times as much `b` is as `a`: of the medians; `a` and `b` were measured in turn, so each pair gives the
 * spread.
 */
export function ratio(a, b) {
  const pairs = b.slice(0, a.length).map((value, index) => value / a[index])
  return {
    ratio: round(median(b) / median(a)),
    min: round(Math.min(...pairs)),
    max: round(Math.max(...pairs)),
    n: pairs.length,
  }
}
