/**
 * Whether records make sense: each has its fields, what it names is there, and for each that needs a descriptor there
 * is one. Nothing is changed, and nothing is thrown: what is wrong is listed.
 */
import { type Json, RECORD_TYPES, type RecordType } from './records.js'

export interface Finding {
  /** Type of a record, or `records`, `descriptor`. */
  what: RecordType | 'records' | 'descriptor'
  /** Of the record, or of the descriptor. */
  key: string
  /** For people. */
  why: string
}

export type RecordEntries = ReadonlyMap<RecordType, ReadonlyMap<string, Json>>

type Check = (value: unknown) => boolean
const text: Check = (value) => typeof value === 'string'
const number: Check = (value) => typeof value === 'number' && Number.isFinite(value)
const count: Check = (value) => number(value) && (value as number) >= 0
const flag: Check = (value) => typeof value === 'boolean'
const object: Check = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
const texts: Check = (value) => Array.isArray(value) && value.every(text)
const list: Check = (value) => Array.isArray(value) && value.every(object)
const u64: Check = (value) => text(value) && /^\d{1,20}$/.test(value as string)
const optional =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value)
const oneOf =
  (...values: readonly unknown[]): Check =>
  (value) =>
    values.includes(value)

const FIELDS: Readonly<Record<RecordType, Readonly<Record<string, Check>>>> = {
  meta: { version: text, pid: count, started_at: number, next_session: count },
  workload: {
    ...{ uid: count, name: text, keep_ms: count, generation: count, after: texts },
    ...{ member: optional(u64), session: optional(u64), supervisor: optional(object), last_update: optional(object) },
  },
  session: {
    ...{ uid: count, name: text, custody: oneOf('held', 'frozen', 'orphaned'), keep_ms: count, created_at: number },
    ...{ workload: optional(u64), expires_at: optional(number), expires_at_ms: optional(number) },
    ...{ made_by: optional(u64), heir: optional(u64), keeper: optional(u64) },
  },
  file: {
    ...{ session: u64, token: u64, kind: text, compatible: text, format: optional(text), bytes: count, data: u64 },
    until: optional(oneOf('update')),
  },
  update: {
    ...{ id: text, workload: u64, name: text, phase: text, outcome: optional(text), group: optional(text) },
    ...{ deadline_ms: count, by: object, old: optional(u64), successor: optional(u64), ticket: flag, targets: list },
    ...{ asked: flag, checked: flag, failure: object, started_ms: number, asked_at_ms: number, timeline: list },
    purpose: optional(oneOf('kexec')),
  },
  history: { number: count, event: text, at: text, uid: count },
  member: {
    ...{ id: text, workload: u64, uid: count, pid: count, accepts: texts, after: texts, ready: flag },
    ...{ origin: oneOf('new', 'update', 'crash'), lifetime: optional(u64) },
  },
  lifetime: {
    ...{ session: u64, pid: count, member: optional(u64), inode: text, request: optional(text) },
    ...{ given_at: number, given_at_ms: optional(number) },
  },
  answer: { uid: count, id: text, digest: text, method: text, updates: optional(texts) },
  flb: { compatible: text, state: object },
}

const CHECKS: ReadonlyMap<RecordType, readonly [string, Check][]> = new Map(
  RECORD_TYPES.map((type) => [type, Object.entries(FIELDS[type])]),
)

/** Which record a field names. Of an update that is over nothing is needed any more. */
const NAMES: Readonly<Partial<Record<RecordType, Readonly<Record<string, RecordType>>>>> = {
  workload: { member: 'member', session: 'session' },
  session: { workload: 'workload', made_by: 'member', heir: 'member', keeper: 'member' },
  file: { session: 'session' },
  update: { workload: 'workload', old: 'member', successor: 'member' },
  member: { workload: 'workload' },
  lifetime: { session: 'session', member: 'member' },
}

export interface CheckOptions {
  /** Those that are known to be good, with all that they name: they are passed over. */
  known?: { type: RecordType; size: number; has(key: string): boolean }
  /** Told of each of the others, with whether it has its fields. */
  onChecked?: (type: RecordType, key: string, good: boolean) => void
}

/** `has`: whether there is a descriptor under a key; without it none is looked for. */
export function checkRecords(
  entries: RecordEntries,
  has: (key: string) => boolean = () => true,
  { known, onChecked }: CheckOptions = {},
): Finding[] {
  const findings: Finding[] = []
  const of = (type: RecordType) => entries.get(type) ?? new Map<string, Json>()
  if (!of('meta').has('0')) findings.push({ what: 'records', key: 'meta/0', why: 'it is not there' })
  for (const type of RECORD_TYPES) {
    const passed = known?.type === type ? known : undefined
    if (passed?.size === of(type).size) continue
    for (const [key, record] of of(type)) {
      if (passed?.has(key)) continue
      const wrong = wrongFields(type, record)
      onChecked?.(type, key, wrong.length === 0)
      if (wrong.length > 0) {
        findings.push({ what: type, key, why: `it has no good ${wrong.join(', ')}` })
        continue
      }
      if (type === 'update' && record.outcome !== undefined) continue
      for (const [field, named] of Object.entries(NAMES[type] ?? {})) {
        const name = record[field]
        if (name === undefined || of(named).has(String(name))) continue
        findings.push({ what: type, key, why: `its ${field}, ${named} ${name}, is not there` })
      }
      for (const needed of descriptorsOf(type, key, record)) {
        if (!has(needed)) findings.push({ what: type, key, why: `its descriptor, ${needed}, is not there` })
      }
    }
  }
  for (const needed of ['listener', 'records']) {
    if (!has(needed)) findings.push({ what: 'descriptor', key: needed, why: 'it is not there' })
  }
  return findings
}

/** Names of fields that are missing, or are something else. */
export function wrongFields(type: RecordType, record: Json): string[] {
  const wrong: string[] = []
  for (const [field, good] of CHECKS.get(type) ?? []) if (!good(record[field])) wrong.push(field)
  return wrong
}

/** Keys of the descriptors that a record needs. */
export function descriptorsOf(type: RecordType, key: string, record: Json): string[] {
  switch (type) {
    case 'file':
      return [`file/${key}`]
    case 'lifetime':
      return [`lifetime/${key}`]
    case 'member':
      return [`pidfd/${key}`]
    case 'update': {
      if (record.outcome !== undefined) return []
      const targets = (record.targets as Json[]).map((target) => `target/${key}/${target.key}`)
      return record.ticket ? [`ticket/${key}`, ...targets] : targets
    }
    default:
      return []
  }
}
