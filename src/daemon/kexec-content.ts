/**
 * What of luod's content goes over a kexec: the sessions that have files, orphaned, since every process ends, with
 * their owners, names, workloads and history. Who took part in what, and what nobody will ask about again, stays
 * behind; so do files that are for updates only.
 */
import type { FileRecord, SessionRecord, WorkloadRecord } from '../abi/record-shapes.js'
import { type Change, type Json, Records, type RecordType } from '../abi/records.js'
import { MemoryStorage } from '../abi/records-memory.js'
import type { ContentToCross, SessionToCross } from '../backends/crossing.js'
import { KEPT_KINDS } from '../handlers/kinds.js'
import type { State } from './state.js'

export function contentToCross(state: State, records: Records, luod: string): ContentToCross {
  const { index } = state.sessions
  const sessions: SessionToCross[] = []
  for (const { session } of index.all()) {
    const crossing = [...session.files.values()].filter(({ about }) => about.until === undefined)
    if (crossing.length === 0) continue
    const { id, name } = session
    const described = crossing.map(({ token, file, about }) => ({ key: about.key, token, file }))
    sessions.push({ session: id, name, files: described })
  }
  return { luod, sessions, records: recordsOf(sessions, records) }
}

function recordsOf(sessions: readonly SessionToCross[], records: Records): Uint8Array {
  const changes: Change[] = []
  const copy = (type: RecordType, key: string, value: Json | undefined) => {
    if (value) changes.push({ type, key, value })
  }
  const workloads = new Set<string>()
  const crossing = new Set(sessions.map(({ session }) => session))
  for (const { session: id, files } of sessions) {
    const session = records.get('session', id) as SessionRecord | undefined
    if (session?.workload !== undefined) workloads.add(session.workload)
    copy('session', id, session && orphaned(session))
    for (const { key } of files) {
      const file = records.get('file', key) as FileRecord | undefined
      copy('file', key, file && ({ ...file, ...MEMORY_OF[file.kind] } as FileRecord))
    }
  }
  for (const id of workloads) {
    const workload = records.get('workload', id) as WorkloadRecord | undefined
    copy('workload', id, workload && withoutProcesses(workload))
    // Its own session is there even when only its other ones have files.
    const own = workload?.session
    if (own !== undefined && !crossing.has(own)) {
      const session = records.get('session', own) as SessionRecord | undefined
      copy('session', own, session && orphaned(session))
    }
  }
  copy('meta', '0', records.get('meta', '0'))
  for (const [key, event] of records.entries('history')) copy('history', key, event)
  const storage = new MemoryStorage()
  Records.create(storage).transaction(changes)
  return storage.bytes
}

/** The kernel gives memory without a name back as a memory file. */
const MEMORY_OF: Readonly<Record<string, Pick<FileRecord, 'kind' | 'compatible'>>> = {
  shmem: { kind: 'memfd', compatible: KEPT_KINDS.memfd.compatible },
}

/** Until it is claimed or released: what crossed a kexec does not expire while services are slow to start. */
function orphaned({ workload, uid, name, keep_ms, created_at }: SessionRecord): SessionRecord {
  const session: SessionRecord = { uid, name, custody: 'orphaned', keep_ms, created_at }
  if (workload !== undefined) session.workload = workload
  return session
}

function withoutProcesses({ uid, name, keep_ms, generation, after, session }: WorkloadRecord): WorkloadRecord {
  const workload: WorkloadRecord = { uid, name, keep_ms, generation, state: 'orphaned', after }
  if (session !== undefined) workload.session = session
  return workload
}
