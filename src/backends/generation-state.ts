/**
 * All of a generation in the middle of its life, for one that goes on with it in another process of the same kernel:
 * values and descriptors. What is read is built anew by the same calls that check everything else: a token that is
 * there twice, a record that leads nowhere or a handler that is missing is an error, and the generation before goes on.
 */
import type { Allocation, HandoverMemory } from '../abi/handover-memory.js'
import type { LuoFlb } from '../abi/luo.js'
import type { Orchestrator } from '../core/orchestrator.js'
import type { IncomingFile } from '../core/session.js'
import { type ErrnoName, type LuoCode, LuoError } from '../errors.js'
import type { FileAbout, HeldFile } from '../handlers/held-file.js'
import type { SlottedFile } from '../handlers/slots.js'
import type { Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'

export interface SavedError {
  code: string
  message: string
}

interface SavedIncomingFile {
  token: string
  compatible: string
  data: bigint
  retrieved?: { fd: Fd } | { error: SavedError }
}

/** Descriptors are the generation's that was saved. */
export interface GenerationState {
  memory: Allocation[]
  outgoing: { name: string; files: { token: string; compatible: string; data: bigint; fd: Fd }[] }[]
  /** What came in; `read` when the device was opened. */
  came?: { image: Fd; slots: SlottedFile[]; read?: SavedReceived }
  /** Somebody has the device open. */
  open: boolean
}

export type SavedReceived =
  | { failure: SavedError }
  | {
      memory: Allocation[]
      liveupdateNumber: bigint
      flbs: LuoFlb[]
      sessions: { name: string; retrieved: boolean; finished: boolean; files: SavedIncomingFile[] }[]
    }

type Generations = Orchestrator<HeldFile, FileAbout>

export function saveOutgoing(orchestrator: Generations): GenerationState['outgoing'] {
  return [...orchestrator.outgoing()].map(({ name, files }) => ({
    name,
    files: [...files.values()].map(({ token, handler, kept, file }) => ({
      ...{ token, compatible: handler.compatible, data: kept.data, fd: file.fd },
    })),
  }))
}

export function saveReceived(orchestrator: Generations, memory: HandoverMemory, flbs: LuoFlb[]): SavedReceived {
  return {
    memory: [...memory.entries()],
    liveupdateNumber: orchestrator.liveupdateNumber,
    flbs,
    sessions: [...orchestrator.incoming()].map(({ name, retrieved, finished, files }) => ({
      ...{ name, retrieved, finished, files: [...files.values()].map(saveFile) },
    })),
  }
}

function saveFile({ token, handler, data, retrieved }: IncomingFile<HeldFile>): SavedIncomingFile {
  const saved = { token, compatible: handler.compatible, data }
  if (!retrieved) return saved
  return {
    ...saved,
    retrieved: 'file' in retrieved ? { fd: retrieved.file.fd } : { error: saveError(retrieved.error) },
  }
}

export function saveError({ code, message }: LuoError): SavedError {
  return { code, message }
}

export function restoreError({ code, message }: SavedError): LuoError {
  return new LuoError(code as LuoCode | ErrnoName, message)
}

/** Told of each file that a handler of this generation would know. */
type OnFile = (file: HeldFile, token: string) => void

/** The descriptors are the orchestrator's from here on, also when this fails. */
export function restoreSessions(orchestrator: Generations, { outgoing, came }: GenerationState, onFile: OnFile): void {
  const read = came?.read
  if (read && !('failure' in read)) orchestrator.receive(read)
  for (const { name, files } of outgoing) {
    const id = String(orchestrator.nextId)
    const session = orchestrator.adoptSession({ id, scope: '', name, custody: 'held' })
    for (const { fd, ...known } of files) {
      const file = heldFile(fd, known.token, onFile)
      const about = { kind: file.info.kind, format: undefined, bytes: file.info.size }
      orchestrator.adoptFile(session, { ...known, file, about })
    }
  }
  if (!read || 'failure' in read) return
  // After those that are outgoing: a file that was retrieved may have been preserved again, and not the other way.
  for (const { files, ...session } of read.sessions) {
    const made = new Map<string, { file: HeldFile } | { error: LuoError }>()
    for (const { token, retrieved } of files) {
      if (!retrieved) continue
      if ('error' in retrieved) made.set(token, { error: restoreError(retrieved.error) })
      else made.set(token, { file: heldFile(retrieved.fd, token, onFile) })
    }
    orchestrator.adoptIncoming('', { ...session, files: made })
  }
}

function heldFile(fd: Fd, token: string, onFile: OnFile): HeldFile {
  const file = { fd, info: fileInfo(fd) }
  onFile(file, token)
  return file
}
