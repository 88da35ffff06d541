/**
 * Answers, as whoever asks checks them: what is not as the interface says is LUO_PROTOCOL, with the member. luod may be
 * of a later version: what the interface does not name yet is let through.
 */
import { LuoError } from '../errors.js'
import { type Interface, parseInterface, validateLater } from './idl.js'
import { INTERFACE_TEXT } from './interface.js'

let parsed: Interface | undefined

/** Whether files may come with an answer of this kind. */
export function checkAnswer(method: string, parameters: Record<string, unknown>): boolean {
  parsed ??= parseInterface(INTERFACE_TEXT)
  const output = parsed.methods.get(method)?.output
  if (!output) return true
  try {
    validateLater(parsed, output, parameters, '')
  } catch (error) {
    throw new LuoError('LUO_PROTOCOL', `read the answer to ${method}: ${(error as Error).message}`, { cause: error })
  }
  return output.fields.has('fds')
}
