/**
 * What luod knows: workloads, who runs them, the session of each, and the records of it all. Every change is recorded
 * before the request that made it is answered.
 *
 * A session ends with its last holder, unless the workload asked to keep its state: then it is orphaned, and ends when
 * nobody has claimed it in time. During an update neither side's end ends anything; `update.ts` decides.
 */
import type { Change, Records } from '../abi/records.js'
import type { FileToPreserve } from '../core/file-set.js'
import type { Orchestrator } from '../core/orchestrator.js'
import type { OutgoingSession, PreservedFile } from '../core/session.js'
import { LuoError } from '../errors.js'
import type { FileAbout, HeldFile } from '../handlers/held-file.js'
import type * as wire from '../protocol/types.js'
import { Events } from './events.js'
import { LEFT_BEHIND_KEEP_MS } from './limits.js'
import type { Logger } from './log.js'
import type { Member } from './member.js'
import type { Update } from './update.js'
import type { Usage } from './usage.js'

export type LuodOrchestrator = Orchestrator<HeldFile, FileAbout>
export type LuodSession = OutgoingSession<HeldFile, FileAbout>
export type LuodFile = PreservedFile<HeldFile, FileAbout>

export interface SupervisorLink {
  pid: number
  /** False when it is gone. */
  tell(event: wire.Methods['Supervise']['output'], fds?: Parameters<SupervisorSend>[1]): boolean
}
type SupervisorSend = (event: wire.Methods['Supervise']['output'], fds?: readonly HeldFile['fd'][]) => boolean

export interface Workload {
  readonly id: string
  readonly uid: number
  readonly name: string
  /** 0: the state ends with its last holder. */
  keepMs: number
  /** How many versions have run on this state. */
  generation: number
  session: LuodSession | undefined
  member: Member | undefined
  supervisor: SupervisorLink | undefined
  update: Update | undefined
  /** Until when an orphaned session waits, and what ends it. */
  expiry: { at: number; timer: NodeJS.Timeout } | undefined
}

const MEMORY_KINDS: ReadonlySet<string> = new Set(['memfd', 'shmem', 'hugetlb'])

export class State {
  readonly orchestrator: LuodOrchestrator
  readonly events: Events
  readonly usage: Usage
  readonly log: Logger
  readonly #records: Records
  /** uid, NUL, name. */
  readonly #workloads = new Map<string, Workload>()
  readonly #members = new Map<string, { member: Member; workload: Workload }>()
  readonly #sessions = new Map<string, Workload>()
  #nextWorkload = 1n
  /** Called whenever a workload has ended. */
  onWorkloadEnded: () => void = () => {}

  constructor(orchestrator: LuodOrchestrator, records: Records, { log, usage }: { log: Logger; usage: Usage }) {
    this.usage = usage
    this.events = new Events(usage)
    this.orchestrator = orchestrator
    this.#records = records
    this.log = log
  }

  // --- finding ------------------------------------------------------------------------------------------------------

  get workloadCount(): number {
    return this.#workloads.size
  }

  /** Those that this user may see. */
  workloads(uid: number): Workload[] {
    return [...this.#workloads.values()].filter((workload) => uid === 0 || workload.uid === uid)
  }

  /** A user's own workload; root also finds the only one of that name. LUO_NOT_FOUND otherwise. */
  find(uid: number, name: string): Workload {
    const own = this.#workloads.get(keyOf(uid, name))
    if (own) return own
    const others = uid === 0 ? this.workloads(0).filter((workload) => workload.name === name) : []
    const [other] = others
    if (other && others.length === 1) return other
    const why = others.length > 1 ? `${others.length} users have one` : 'there is none'
    throw new LuoError('LUO_NOT_FOUND', `find the workload ${name}: ${why}`)
  }

  lookup(uid: number, name: string): Workload | undefined {
    return this.#workloads.get(keyOf(uid, name))
  }

  /** The workload of this user, made if there is none. */
  ensure(uid: number, name: string): Workload {
    const key = keyOf(uid, name)
    const known = this.#workloads.get(key)
    if (known) return known
    this.usage.check(uid, 'workloads', 1, `start the workload ${name}`)
    const workload: Workload = {
      id: String(this.#nextWorkload++),
      uid,
      name,
      keepMs: 0,
      generation: 0,
      session: undefined,
      member: undefined,
      supervisor: undefined,
      update: undefined,
      expiry: undefined,
    }
    this.#workloads.set(key, workload)
    this.usage.change(uid, 'workloads', 1)
    return workload
  }

  addMember(workload: Workload, member: Member): void {
    this.#members.set(member.id, { member, workload })
  }

  /** The member and its workload, for its own user and root. */
  member(uid: number, id: string): { member: Member; workload: Workload } {
    const found = this.#members.get(id)
    if (found && (uid === 0 || found.workload.uid === uid)) return found
    throw new LuoError('LUO_NOT_FOUND', `find the member ${id}: there is none; it has left, or another took its place`)
  }

  session(uid: number, id: string): { session: LuodSession; workload: Workload } {
    const session = this.orchestrator.session(id)
    const workload = this.#sessions.get(id)
    if (session?.direction === 'outgoing' && workload && (uid === 0 || workload.uid === uid))
      return { session, workload }
    throw new LuoError('LUO_NOT_FOUND', `find the session ${id}: there is none`)
  }

  // --- sessions -----------------------------------------------------------------------------------------------------

  createSession(workload: Workload): LuodSession {
    this.usage.check(workload.uid, 'sessions', 1, `create the session ${workload.name}`)
    const session = this.orchestrator.createSession(String(workload.uid), workload.name)
    this.usage.change(workload.uid, 'sessions', 1)
    this.#sessions.set(session.id, workload)
    workload.session = session
    workload.generation = 0
    return session
  }

  /** Ends the state of a workload. */
  releaseSession(workload: Workload): void {
    const { session } = workload
    if (!session) return
    this.#stopExpiry(workload)
    const files = [...session.files.values()]
    const changes = files.map(({ token }) => this.#fileChange(session, token, undefined))
    this.orchestrator.release(session)
    this.#countFiles(workload.uid, files, -1)
    this.usage.change(workload.uid, 'sessions', -1)
    this.#sessions.delete(session.id)
    workload.session = undefined
    this.#record([...changes, { type: 'session', key: session.id, value: undefined }])
    this.tell(workload, 'released')
  }

  /** Nobody holds the session: it waits for a restart when the workload asked for that, or when `always`. */
  abandon(workload: Workload, options: { always: boolean }): 'orphaned' | 'released' {
    const { session } = workload
    if (!session) return 'released'
    const keepMs = workload.keepMs > 0 ? workload.keepMs : options.always ? LEFT_BEHIND_KEEP_MS : 0
    if (keepMs === 0 || session.files.size === 0) {
      this.releaseSession(workload)
      return 'released'
    }
    this.orchestrator.orphan(session)
    this.#startExpiry(workload, Date.now() + keepMs)
    this.recordWorkload(workload)
    this.tell(workload, 'orphaned', { detail: `kept for ${keepMs / 1000} s` })
    return 'orphaned'
  }

  /** Somebody came for an orphaned session; the time that it waits stands still. Answers until when it would. */
  claim(workload: Workload): void {
    if (!workload.session) return
    this.orchestrator.claim(workload.session)
    this.#stopExpiry(workload)
  }

  #startExpiry(workload: Workload, at: number): void {
    this.#stopExpiry(workload)
    const timer = setTimeout(() => {
      workload.expiry = undefined
      this.tell(workload, 'expired', { detail: 'nobody claimed its state in time' })
      this.releaseSession(workload)
      this.endIfUnused(workload)
    }, at - Date.now())
    workload.expiry = { at, timer }
  }

  #stopExpiry(workload: Workload): void {
    if (workload.expiry) clearTimeout(workload.expiry.timer)
    workload.expiry = undefined
  }

  // --- files --------------------------------------------------------------------------------------------------------

  /** All of them or none; LUO_LIMIT when the session's user would have too many, or too much. */
  preserve(session: LuodSession, files: readonly FileToPreserve<HeldFile, FileAbout>[]): LuodFile[] {
    const uid = Number(session.scope)
    const bytes = memoryOf(files)
    this.usage.check(uid, 'files', files.length, `preserve ${files.length} files`)
    this.usage.check(uid, 'bytes', bytes, `preserve ${files.length} files of ${bytes} bytes`)
    const preserved = this.orchestrator.preserve(session, files)
    try {
      this.#record(preserved.map((file) => this.#fileChange(session, file.token, file)))
    } catch (error) {
      // What is not recorded is not held.
      const tokens = preserved.map(({ token }) => token)
      this.orchestrator.unpreserve(session, tokens)
      throw error
    }
    this.#countFiles(uid, preserved, 1)
    return preserved
  }

  unpreserve(session: LuodSession, tokens: readonly string[]): void {
    const files = [...new Set(tokens)].flatMap((token) => session.files.get(token) ?? [])
    this.orchestrator.unpreserve(session, tokens)
    this.#countFiles(Number(session.scope), files, -1)
    this.#record(files.map(({ token }) => this.#fileChange(session, token, undefined)))
  }

  #countFiles(uid: number, files: readonly LuodFile[], sign: 1 | -1): void {
    this.usage.change(uid, 'files', sign * files.length)
    this.usage.change(uid, 'bytes', sign * memoryOf(files))
  }

  // --- members ------------------------------------------------------------------------------------------------------

  /** Forgets a member; its session is somebody else's matter. */
  dropMember(member: Member): void {
    this.#members.delete(member.id)
    member.close()
  }

  /** The running version's hold on its session has ended, and no update is there to decide what that means. */
  memberReleased(workload: Workload, member: Member): void {
    if (workload.member !== member) return
    workload.member = undefined
    this.dropMember(member)
    this.tell(workload, 'left', { pid: member.pid })
    this.abandon(workload, { always: false })
    this.endIfUnused(workload)
  }

  /** Takes away a workload that nothing is left of. */
  endIfUnused(workload: Workload): void {
    const { session, member, supervisor, update } = workload
    if (session || member || supervisor || update) {
      this.recordWorkload(workload)
      return
    }
    if (!this.#workloads.delete(keyOf(workload.uid, workload.name))) return
    this.usage.change(workload.uid, 'workloads', -1)
    this.#record([{ type: 'workload', key: workload.id, value: undefined }])
    this.onWorkloadEnded()
  }

  // --- records and events ---------------------------------------------------------------------------------------------

  /** The workload, its session and its update, as they are now. */
  recordWorkload(workload: Workload, more: readonly Change[] = []): void {
    const { id, uid, name, keepMs, generation, session, member, update, expiry } = workload
    const value = {
      uid,
      name,
      keep_ms: keepMs,
      generation,
      state: stateOf(workload),
      pid: member?.pid,
      session: session?.id,
      expires_at: expiry?.at,
    }
    const changes: Change[] = [{ type: 'workload', key: id, value }]
    if (session) {
      const { name: sessionName, custody } = session
      changes.push({ type: 'session', key: session.id, value: { workload: id, name: sessionName, custody } })
    }
    const updateValue = update && { id: update.id, phase: update.phase, successor: update.successor?.pid }
    if (updateValue || this.#records.get('update', id)) changes.push({ type: 'update', key: id, value: updateValue })
    this.#record([...changes, ...more])
  }

  readonly #fileKeys = new Map<string, string>()
  #nextFile = 1n

  #fileChange(session: LuodSession, token: string, file: LuodFile | undefined): Change {
    const name = `${session.id} ${token}`
    let key = this.#fileKeys.get(name)
    if (key === undefined) {
      key = String(this.#nextFile++)
      this.#fileKeys.set(name, key)
    }
    if (!file) this.#fileKeys.delete(name)
    const value = file && {
      session: session.id,
      token,
      kind: file.about.kind,
      compatible: file.handler.compatible,
      format: file.about.format,
    }
    return { type: 'file', key, value }
  }

  #record(changes: readonly Change[]): void {
    this.#records.transaction(changes)
  }

  tell(workload: Workload, event: string, more: { pid?: number; update?: string; detail?: string } = {}): void {
    this.events.emit(workload.uid, { event, workload: workload.name, ...more })
  }
}

/** Bytes of memory that cannot be freed while these files are held. */
function memoryOf(files: readonly { about: FileAbout }[]): number {
  return files.reduce((sum, { about }) => sum + (MEMORY_KINDS.has(about.kind) ? about.bytes : 0), 0)
}

function keyOf(uid: number, name: string): string {
  return `${uid}\0${name}`
}

export function stateOf(workload: Workload): wire.Workload['state'] {
  const { update, member, session } = workload
  if (update && !update.isClaim) return 'updating'
  if (member) return member.ready ? 'running' : 'starting'
  if (update) return 'starting'
  return session?.custody === 'orphaned' ? 'orphaned' : 'stopped'
}

export function formatsOf(session: LuodSession | undefined): string[] {
  const formats = [...(session?.files.values() ?? [])].map(({ about }) => about.format)
  return [...new Set(formats.filter((format) => format !== undefined))]
}

/** LUO_STATE_VERSION when the state has a format that `accepts` does not name; `*` accepts every one. */
export function checkFormats(session: LuodSession | undefined, accepts: readonly string[], who: string): void {
  if (accepts.includes('*')) return
  const unknown = formatsOf(session).filter((format) => !accepts.includes(format))
  if (unknown.length === 0) return
  throw new LuoError(
    'LUO_STATE_VERSION',
    `${who} does not accept the state: it is ${unknown.join(', ')}, accepted: ${accepts.join(', ') || 'none'}`,
  )
}

export function describeFile(file: LuodFile): wire.File {
  const { token, handler } = file
  const { kind, format, bytes } = file.about
  const described: wire.File = { token, kind, compatible: handler.compatible }
  if (format !== undefined) described.format = format
  if (bytes > 0) described.bytes = String(bytes)
  return described
}

export function describeWorkload(workload: Workload): wire.Workload {
  const { name, uid, member, supervisor, generation, keepMs, session, update, expiry } = workload
  const described: wire.Workload = {
    name,
    uid,
    state: stateOf(workload),
    supervised: supervisor !== undefined,
    generation,
    keep_ms: keepMs,
    formats: formatsOf(session),
    sessions: [],
  }
  if (member) described.pid = member.pid
  if (update) described.update = update.id
  if (session) {
    const { id, name: sessionName, custody, files } = session
    const shown: wire.Session = {
      session: id,
      name: sessionName,
      custody,
      files: [...files.values()].map(describeFile),
    }
    if (expiry) shown.expires_ms = Math.max(0, Math.round(expiry.at - Date.now()))
    described.sessions.push(shown)
  }
  return described
}
