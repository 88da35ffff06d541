/** Names and tokens: what is good. Names are bytes for the kernel; `abi/bytes.ts` says how they are text here. */
import { encodeName } from '../abi/bytes.js'
import { LuoError } from '../errors.js'

/** The kernel's limit: 64 bytes with the NUL. */
export const MAX_NAME_BYTES = 63
const MAX_TOKEN = 2n ** 64n - 1n

/** EINVAL when it is empty, too long, or has a NUL in it. */
export function checkName(name: string): string {
  const bytes = encodeName(name).length
  if (bytes >= 1 && bytes <= MAX_NAME_BYTES && !name.includes('\0')) return name
  throw new LuoError('EINVAL', `the name ${JSON.stringify(name)} has ${bytes} bytes: 1 to ${MAX_NAME_BYTES}, no NUL`)
}

/** A u64 as a decimal string without leading zeros, the one way to write it. */
export function checkToken(token: string): string {
  if (/^(0|[1-9]\d{0,19})$/.test(token) && (token.length < 20 || BigInt(token) <= MAX_TOKEN)) return token
  throw new LuoError('EINVAL', `the token ${JSON.stringify(token)} is not a u64 in decimal`)
}
