/** What `--trace` shows of a call. */

/** Set as soon as it is known; empty for a call that is none of live update. */
export interface Trace {
  text: string
}

/** As in C: what is not UTF-8 by its number. */
export function quoted(name: string): string {
  // JSON writes out a surrogate that stands alone, and doubles each backslash of the name itself.
  return JSON.stringify(name).replace(/\\\\|\\udc([89a-f][0-9a-f])/g, (all, byte) => (byte ? `\\x${byte}` : all))
}
