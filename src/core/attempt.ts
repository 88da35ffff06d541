/** What somebody else's code throws, as a LuoError: EIO when it is none. */
import { asLuoError } from '../errors.js'

export function attempt<T>(action: string, run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw asLuoError(error, 'EIO', action)
  }
}
