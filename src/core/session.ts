/**
 * A session: a named container of files, each under a token. Here is its data and the rules of custody; the
 * orchestrator does the work.
 *
 * An outgoing session was made in this generation, and is to be handed to the next. An incoming one was handed over by
 * the generation before; its files exist as `data` until somebody retrieves them.
 *
 * Custody says whose word ends an outgoing session: `held` by its holders (the last close releases it), `frozen` by
 * luod while an update decides who goes on, `orphaned` by luod because no holder is left. Illegal moves are
 * LUO_WRONG_STATE. The kernel's sessions are always held.
 */
import { LuoError } from '../errors.js'
import type { Flb } from './flb.js'
import type { FileHandler, Kept } from './handler.js'
import type { Holder } from './held-files.js'
import { checkToken } from './names.js'

export type Custody = 'held' | 'frozen' | 'orphaned'
export type CustodyMove = 'freeze' | 'unfreeze' | 'commit' | 'orphan' | 'claim'

/** What each move makes of each custody; what is not here is illegal. */
export const CUSTODY_MOVES: Readonly<Record<Custody, Partial<Record<CustodyMove, Custody>>>> = {
  held: { freeze: 'frozen', orphan: 'orphaned' },
  frozen: { unfreeze: 'held', commit: 'held', orphan: 'orphaned' },
  orphaned: { claim: 'frozen' },
}

/** `A`: what whoever preserved it wants to know of it, such as its kind. */
export interface PreservedFile<F, A> {
  readonly token: string
  readonly handler: FileHandler<F>
  /** Owned by the orchestrator. */
  readonly file: F
  readonly about: A
  readonly kept: Kept
  /** Those that were taken for it, also if its handler has got more since. */
  readonly flbs: readonly Flb[]
  readonly holder: Holder<F>
}

/** What `retrieve` made of a file (owned by the orchestrator), or why it cannot. */
export type Retrieved<F> = { file: F; holder: Holder<F> } | { error: LuoError }

export interface IncomingFile<F> {
  readonly token: string
  readonly handler: FileHandler<F>
  readonly data: bigint
  /** Undefined: nobody has asked for it yet. */
  retrieved?: Retrieved<F>
}

interface SessionBase {
  readonly id: string
  readonly name: string
  /** Whose names it competes with. */
  readonly scope: string
}

export interface OutgoingSession<F, A> extends SessionBase {
  readonly direction: 'outgoing'
  /** By token, in order of preservation. */
  readonly files: Map<string, PreservedFile<F, A>>
  custody: Custody
}

export interface IncomingSession<F> extends SessionBase {
  readonly direction: 'incoming'
  readonly files: Map<string, IncomingFile<F>>
  /** Somebody has, or had, its descriptor. */
  retrieved: boolean
  finished: boolean
}

/** An outgoing session as an orchestrator before this one had it. */
export type SessionToAdopt = Pick<OutgoingSession<unknown, unknown>, 'id' | 'scope' | 'name' | 'custody'>

/** What became of an incoming session, and of those of its files that were asked for. */
export type IncomingToAdopt<F> = Pick<IncomingSession<F>, 'name' | 'retrieved' | 'finished'> & {
  readonly files: ReadonlyMap<string, { file: F } | { error: LuoError }>
}

export type Session<F, A> = OutgoingSession<F, A> | IncomingSession<F>

export function move(session: OutgoingSession<unknown, unknown>, change: CustodyMove): Custody {
  const next = CUSTODY_MOVES[session.custody][change]
  if (next === undefined) {
    throw new LuoError('LUO_WRONG_STATE', `${change} session ${session.name}: it is ${session.custody}`)
  }
  return next
}

/** EINVAL for an incoming one. */
export function outgoingOnly<F, A>(session: Session<F, A>, action: string): OutgoingSession<F, A> {
  if (session.direction === 'outgoing') return session
  throw new LuoError('EINVAL', `${action} in session ${session.name}: it is incoming`)
}

/** EINVAL for what is no token, ENOENT for one that is not there. */
export function fileOf<F, A>(session: OutgoingSession<F, A>, token: string, action: string): PreservedFile<F, A> {
  const file = session.files.get(checkToken(token))
  if (file) return file
  throw new LuoError('ENOENT', `${action} token ${token}: session ${session.name} has no such file`)
}
