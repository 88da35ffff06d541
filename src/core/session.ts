/**
 * A session: a named container of preserved files, each under a token. Here is its data and the rules of names, tokens
 * and custody; the orchestrator does the work.
 *
 * Custody says whose word ends a session: `held` by its holders (the last close releases it), `frozen` by luod while an
 * update decides who goes on, `orphaned` by luod because no holder is left. Illegal moves are LUO_WRONG_STATE.
 */
import { LuoError } from '../errors.js'
import type { FileHandler } from './handler.js'

/** The kernel's limit: 64 bytes with the NUL. */
export const MAX_NAME_BYTES = 63
const MAX_TOKEN = 2n ** 64n - 1n

export type Direction = 'outgoing' | 'incoming'
export type Custody = 'held' | 'frozen' | 'orphaned'
export type CustodyMove = 'freeze' | 'unfreeze' | 'commit' | 'orphan' | 'claim'

/** What each move makes of each custody; what is not here is illegal. */
export const CUSTODY_MOVES: Readonly<Record<Custody, Partial<Record<CustodyMove, Custody>>>> = {
  held: { freeze: 'frozen', orphan: 'orphaned' },
  frozen: { unfreeze: 'held', commit: 'held', orphan: 'orphaned' },
  orphaned: { claim: 'frozen' },
}

export interface PreservedFile<F, D> {
  readonly token: string
  readonly handler: FileHandler<F, D>
  readonly data: D
  /** Identity for "already preserved". */
  readonly id: string
  /** What kind of file it is, for people: "memfd", "tcp". */
  readonly kind: string
  /** The version of the state in it: "store/1". */
  readonly format: string | undefined
}

export interface Session<F, D> {
  readonly id: string
  readonly name: string
  /** Whose names it competes with. */
  readonly scope: string
  readonly direction: Direction
  readonly files: Map<string, PreservedFile<F, D>>
  custody: Custody
}

export function move(session: Session<unknown, unknown>, change: CustodyMove): Custody {
  const next = CUSTODY_MOVES[session.custody][change]
  if (next === undefined) {
    throw new LuoError('LUO_WRONG_STATE', `${change} session ${session.name}: it is ${session.custody}`)
  }
  return next
}

/** EINVAL when it is empty, too long, or has a NUL in it. */
export function checkName(name: string): string {
  const bytes = new TextEncoder().encode(name).length
  if (bytes >= 1 && bytes <= MAX_NAME_BYTES && !name.includes('\0')) return name
  throw new LuoError('EINVAL', `the name ${JSON.stringify(name)} has ${bytes} bytes: 1 to ${MAX_NAME_BYTES}, no NUL`)
}

/** A u64 as a decimal string without leading zeros, the one way to write it. */
export function checkToken(token: string): string {
  if (/^(0|[1-9]\d{0,19})$/.test(token) && BigInt(token) <= MAX_TOKEN) return token
  throw new LuoError('EINVAL', `the token ${JSON.stringify(token)} is not a u64 in decimal`)
}
