/** A session, and what luod knows of it beside its files: whose it is and who holds it. */
import type { Orchestrator } from '../core/orchestrator.js'
import type { OutgoingSession, PreservedFile } from '../core/session.js'
import type { FileAbout, HeldFile } from '../handlers/held-file.js'
import { MAX_FILES_PAGE } from '../protocol/interface.js'
import type { Lifetime } from './lifetime.js'
import { Listing } from './listing.js'
import type { Member } from './member.js'
import type { Workload } from './workload.js'

export interface LuodAbout extends FileAbout {
  /** Of its record. */
  readonly key: string
}

export type LuodOrchestrator = Orchestrator<HeldFile, LuodAbout>
export type LuodSession = OutgoingSession<HeldFile, LuodAbout>
export type LuodFile = PreservedFile<HeldFile, LuodAbout>

export interface Holding {
  readonly session: LuodSession
  readonly uid: number
  readonly workload: Workload | undefined
  readonly createdAt: number
  readonly files: Listing<LuodFile>
  /** Of all its files, when they were preserved. */
  bytes: number
  /** How long it waits when nobody holds it any more. */
  readonly keepMs: number
  /** Who holds it: descriptors, and for which member of the workload each was given out. */
  readonly holds: Map<Lifetime, Member | undefined>
  /** The successor that made it and has not committed: if it fails, it was never there. */
  madeBy: Member | undefined
  /** In an update: the successor, until it has adopted it. */
  heir: Member | undefined
  /** The member that an update handed it to and that has not adopted it: it ends with this member. */
  keeper: Member | undefined
  /** Until when it waits, orphaned, and what ends it then. */
  expiry: { atMs: number; timer: NodeJS.Timeout } | undefined
}

/** Nobody holds it yet. */
export function newHolding(
  session: LuodSession,
  about: Pick<Holding, 'uid' | 'workload' | 'keepMs' | 'createdAt'>,
): Holding {
  return {
    ...about,
    session,
    files: new Listing(session.files, MAX_FILES_PAGE),
    bytes: 0,
    holds: new Map(),
    madeBy: undefined,
    heir: undefined,
    keeper: undefined,
    expiry: undefined,
  }
}

/** Whether it is the one that a workload's members hold. */
export function isOwn({ session, workload }: Holding): boolean {
  return workload?.session === session
}

/** What the next version gets: all but what it has made itself. Its own session is the first. */
export function handedOn(workload: Workload): Holding[] {
  return [...workload.sessions].filter(({ madeBy }) => madeBy === undefined)
}

export function ownHolding(workload: Workload | undefined): Holding | undefined {
  return workload && [...workload.sessions].find(isOwn)
}

export function frozenOf(workload: Workload): Holding[] {
  return [...workload.sessions].filter(({ session }) => session.custody === 'frozen')
}
