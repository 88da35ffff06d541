/** Everything that can be seen of what a luod is to be restored from, before anything is done: what of it is sound. */
import type { RecordShapes } from '../abi/record-shapes.js'
import { compareKeys, type Json, RECORD_TYPES, type RecordType } from '../abi/records.js'
import { checkRecords, type Finding } from '../abi/records-check.js'
import type { HandlerRegistry } from '../core/handler.js'
import { LuoError } from '../errors.js'
import type { HeldFile } from '../handlers/held-file.js'
import type { Fd } from '../sys/fd.js'
import { type FileInfo, fileInfo } from '../sys/file-info.js'
import { pidfdOwner } from '../sys/pidfd.js'
import { type Gathered, isOfKind } from './restore-source.js'

export interface Checked {
  findings: Finding[]
  /** Records that have all of their fields, in the order of their keys; files that are built ahead are left out. */
  good<T extends RecordType>(type: T): [string, RecordShapes[T]][]
  /** Those that have not. */
  wrong: { type: RecordType; key: string }[]
}

export function check(gathered: Gathered, registry: HandlerRegistry<HeldFile>): Checked {
  const { records, descriptors, ahead, damage } = gathered
  const good = new Map<RecordType, string[]>(RECORD_TYPES.map((type) => [type, []]))
  const wrong: Checked['wrong'] = []
  const findings: Finding[] = damage.map((why) => ({ what: 'records', key: '', why }))
  const entries = new Map(RECORD_TYPES.map((type) => [type, records.entries(type)]))
  const found = checkRecords(entries, (key) => descriptors.has(key), {
    known: { type: 'file', size: ahead.size, has: ahead.has },
    onChecked: (type, key, isGood) => {
      if (isGood) good.get(type)?.push(key)
      else wrong.push({ type, key })
    },
  })
  for (const finding of found) findings.push(finding)
  for (const [key, fd] of descriptors) {
    const why = wrongDescriptor(key, fd, gathered)
    if (why !== undefined) findings.push({ what: 'descriptor', key, why })
  }
  for (const keys of good.values()) keys.sort(compareKeys)
  for (const key of good.get('file') ?? []) {
    const compatible = String(records.get('file', key)?.compatible)
    if (!registry.get(compatible)) findings.push({ what: 'file', key, why: `there is no handler ${compatible}` })
  }
  return {
    findings,
    wrong,
    good: <T extends RecordType>(type: T) =>
      (good.get(type) ?? []).map((key) => [key, records.get(type, key) as Json as unknown as RecordShapes[T]]),
  }
}

/** LUO_RECORDS that names the first of what is wrong, if anything is. */
export function refuse(action: string, findings: readonly Finding[]): void {
  const [first] = findings
  if (!first) return
  const more = findings.length > 1 ? `, and ${findings.length - 1} more` : ''
  throw new LuoError('LUO_RECORDS', `${action}: ${first.what} ${first.key}: ${first.why}${more}; nothing was changed`)
}

function infoOf({ infos }: Gathered, key: string, fd: Fd): FileInfo {
  const known = infos.get(key)
  if (known) return known
  const info = fileInfo(fd)
  infos.set(key, info)
  return info
}

function wrongDescriptor(key: string, fd: Fd, gathered: Gathered): string | undefined {
  const { records } = gathered
  const [kind = '', number = ''] = key.split('/')
  const info = infoOf(gathered, key, fd)
  const is = (wanted: string) => (isOfKind(info, wanted) ? undefined : `it is of kind ${info.kind}, not ${wanted}`)
  switch (kind) {
    case 'listener':
      return is('unix') ?? (info.listening ? undefined : 'it does not listen')
    case 'lifetime':
    case 'ticket':
      return is('unix')
    case 'records':
      return is('memfd')
    case 'file': {
      const wanted = records.get('file', number)?.kind
      return wanted === undefined ? undefined : is(String(wanted))
    }
    case 'pidfd': {
      const pid = records.get('member', number)?.pid
      const owner = is('pidfd') === undefined ? pidfdOwner(fd) : undefined
      const other = owner && pid !== undefined && owner.pid !== pid
      return is('pidfd') ?? (other ? `it is of pid ${owner.pid}, not ${pid}` : undefined)
    }
    case 'target':
      return is('pidfd')
    default:
      return undefined
  }
}
