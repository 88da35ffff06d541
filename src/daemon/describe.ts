/** What luod knows, as the protocol says it. */
import { LuoError } from '../errors.js'
import type * as wire from '../protocol/types.js'
import { monotonicMs } from './clock.js'
import { type Holding, handedOn, type LuodFile, ownHolding } from './holding.js'
import type { Workload } from './workload.js'

export function stateOf(workload: Workload): wire.Workload['state'] {
  const { update, member, session } = workload
  if (update && !update.isClaim) return 'updating'
  if (member) return member.ready ? 'running' : 'starting'
  if (update) return 'starting'
  return session?.custody === 'orphaned' ? 'orphaned' : 'stopped'
}

/** What it needs, as its supervisor, the version that runs and the one that is to come say. */
export function afterOf({ supervisor, member, update }: Workload): string[] {
  const declared = [supervisor?.after, member?.after, update?.successor?.after]
  return [...new Set(declared.flatMap((names) => names ?? []))].sort()
}

/** Of all that the next version gets. */
export function formatsOf(workload: Workload): string[] {
  const formats = new Set<string>()
  for (const { session } of handedOn(workload)) {
    for (const {
      about: { format },
    } of session.files.values())
      if (format !== undefined) formats.add(format)
  }
  return [...formats]
}

/** LUO_STATE_VERSION when the state has a format that `accepts` does not name; `*` accepts every one. */
export function checkFormats(workload: Workload, accepts: readonly string[], who: string): void {
  if (accepts.includes('*')) return
  const unknown = formatsOf(workload).filter((format) => !accepts.includes(format))
  if (unknown.length === 0) return
  throw new LuoError(
    'LUO_STATE_VERSION',
    `${who} does not accept the state: it is ${unknown.join(', ')}, accepted: ${accepts.join(', ') || 'none'}`,
  )
}

export function describeFile(file: LuodFile): wire.File {
  const { token, handler } = file
  const { kind, format, bytes, until } = file.about
  const described: wire.File = { token, kind, compatible: handler.compatible }
  if (format !== undefined) described.format = format
  if (bytes > 0) described.bytes = String(bytes)
  if (until) described.until = until
  return described
}

export function describeSession(holding: Holding): wire.Session {
  const { session, uid, workload, bytes, keepMs, createdAt, holds, keeper } = holding
  const { id, name, custody, files } = session
  const described: wire.Session = {
    session: id,
    name,
    uid,
    custody,
    files: files.size,
    bytes: String(bytes),
    keep_ms: keepMs,
    age_ms: Math.max(0, Date.now() - createdAt),
  }
  if (workload) described.workload = workload.name
  const own = ownHolding(workload)
  const pid = own === holding ? workload?.member?.pid : ([...holds.keys()].at(-1)?.pid ?? keeper?.pid)
  if (pid !== undefined) described.pid = pid
  // Sessions whose workload waits for a restart wait with it.
  const expiry = holding.expiry ?? (custody === 'orphaned' ? own?.expiry : undefined)
  if (expiry) described.expires_ms = Math.max(0, Math.round(expiry.atMs - monotonicMs()))
  return described
}

export function describeWorkload(workload: Workload): wire.Workload {
  const { name, uid, member, supervisor, generation, keepMs, sessions, update } = workload
  const described: wire.Workload = {
    name,
    uid,
    state: stateOf(workload),
    supervised: supervisor !== undefined,
    generation,
    keep_ms: keepMs,
    formats: formatsOf(workload),
    sessions: sessions.size,
    files: sum(sessions, ({ session }) => session.files.size),
    bytes: String(sum(sessions, ({ bytes }) => bytes)),
  }
  if (member) described.pid = member.pid
  const after = afterOf(workload)
  if (after.length > 0) described.after = after
  if (update) described.update = update.id
  return described
}

function sum(holdings: Iterable<Holding>, of: (holding: Holding) => number): number {
  let total = 0
  for (const holding of holdings) total += of(holding)
  return total
}
