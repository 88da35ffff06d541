/**
 * The check of a whole records file by somebody who only reads it: its bytes, the fields of each record, what records
 * name, names that are there twice; and how much of it is kept by a luod that recovers with it. Nothing is thrown for
 * damage: it is listed. Another version is LUO_RECORDS_VERSION.
 *
 * Whether the descriptors are there too is not seen from here.
 */
import { type Json, RECORD_TYPES, type RecordType, salvageRecords } from './records.js'
import { checkRecords, type Finding, type RecordEntries, wrongFields } from './records-check.js'

export interface KeptRecords {
  /** That can be read. */
  records: number
  /** By a luod that recovers, if their descriptors are there. */
  kept: number
}

export interface RecordsVerdict {
  entries: RecordEntries
  findings: Finding[]
  kept: Map<RecordType, KeptRecords>
}

export function verifyRecords(bytes: Uint8Array): RecordsVerdict {
  const { entries, damage } = salvageRecords(bytes)
  const damaged = damage.map((why): Finding => ({ what: 'records', key: '', why }))
  const doubles = twice(entries)
  const findings = [...damaged, ...checkRecords(entries), ...doubles]
  return { entries, findings, kept: keptOf(entries, findings, doubles) }
}

/** In one scope there is one of each name. */
const NAMES: Readonly<Partial<Record<RecordType, (record: Json) => string>>> = {
  workload: ({ uid, name }) => `the name ${name} of uid ${uid}`,
  session: ({ uid, name }) => `the name ${name} of uid ${uid}`,
  file: ({ session, token }) => `the token ${token} of session ${session}`,
}

function twice(entries: RecordEntries): Finding[] {
  const findings: Finding[] = []
  for (const [type, nameOf] of Object.entries(NAMES) as [RecordType, (record: Json) => string][]) {
    const first = new Map<string, string>()
    for (const [key, record] of good(entries, type)) {
      const name = nameOf(record)
      const other = first.get(name)
      if (other === undefined) first.set(name, key)
      else findings.push({ what: type, key, why: `${type} ${other} has ${name} too` })
    }
  }
  return findings
}

/** With all of their fields, in the order of their keys. */
function good(entries: RecordEntries, type: RecordType): [string, Json][] {
  const all = [...(entries.get(type) ?? [])].filter(([, record]) => wrongFields(type, record).length === 0)
  return all.sort(([a], [b]) => (BigInt(a) < BigInt(b) ? -1 : 1))
}

/** As a recovery decides: what a record cannot be without must be kept too, and the first of a name is. */
function keptOf(
  entries: RecordEntries,
  findings: readonly Finding[],
  doubles: readonly Finding[],
): Map<RecordType, KeptRecords> {
  const bad = new Set(findings.map(({ what, key }) => `${what}/${key}`))
  const later = new Set(doubles.map(({ what, key }) => `${what}/${key}`))
  const kept = new Map<RecordType, Set<string>>()
  const has = (type: RecordType, key: unknown) => kept.get(type)?.has(String(key)) === true
  const keep = (type: RecordType, wanted: (record: Json, key: string) => boolean = () => true) => {
    const keys = good(entries, type).filter(([key, record]) => !later.has(`${type}/${key}`) && wanted(record, key))
    kept.set(type, new Set(keys.map(([key]) => key)))
  }
  for (const type of ['meta', 'history', 'flb', 'workload', 'session'] as const) keep(type)
  keep('file', ({ session }, key) => has('session', session) && !bad.has(`file/${key}`))
  const takesPart = new Set<unknown>(good(entries, 'workload').map(([, { member }]) => member))
  for (const [, { outcome, old, successor }] of good(entries, 'update')) {
    if (outcome === undefined) takesPart.add(old).add(successor)
  }
  keep('member', ({ workload }, key) => has('workload', workload) && takesPart.has(key))
  keep('lifetime', ({ session }) => has('session', session))
  const updating = new Set<unknown>()
  keep('update', ({ outcome, workload, old, successor }) => {
    if (outcome !== undefined) return true
    const lost = [old, successor].some((key) => key !== undefined && !has('member', key))
    if (lost || !has('workload', workload) || updating.has(workload)) return false
    updating.add(workload)
    return true
  })
  keep('answer', ({ updates }) => ((updates ?? []) as string[]).every((key) => has('update', key)))
  return new Map(
    RECORD_TYPES.map((type) => [type, { records: entries.get(type)?.size ?? 0, kept: kept.get(type)?.size ?? 0 }]),
  )
}
