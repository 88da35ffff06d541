/**
 * For tests: what something fails with, as a code. Nothing failed is `undefined`, and what is no LuoError comes back.
 */
import { isLuoError } from '../src/errors.js'

export function codeOf(run: () => unknown): unknown {
  try {
    run()
    return undefined
  } catch (error) {
    return known(error)
  }
}

/** The same of a promise. */
export function rejectionOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(() => undefined, known)
}

function known(error: unknown): unknown {
  return isLuoError(error) ? error.code : error
}
