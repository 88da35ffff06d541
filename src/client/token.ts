/** Tokens, as applications write them: a u64 as bigint, as a safe integer, or as a decimal string. */
import { LuoError } from '../errors.js'
import type { Token } from './types.js'

const MAX_TOKEN = 2n ** 64n - 1n

export function isToken(text: string): boolean {
  return /^(0|[1-9]\d{0,19})$/.test(text) && BigInt(text) <= MAX_TOKEN
}

/** The one way to write it. EINVAL for what is no u64. */
export function tokenText(token: Token): string {
  const text = typeof token === 'number' && !Number.isSafeInteger(token) ? '' : String(token)
  if (isToken(text)) return text
  throw new LuoError('EINVAL', `the token ${String(token)} is not a u64: a bigint, a safe integer, or decimal text`)
}

/** As luod says it; LUO_PROTOCOL for what is no u64. */
export function receivedToken(text: string): bigint {
  if (isToken(text)) return BigInt(text)
  throw new LuoError('LUO_PROTOCOL', `read what luod sent: the token ${text} is not a u64`)
}
