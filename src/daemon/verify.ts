/** Whether the records and the descriptors that luod held fit together: what a luod that is to go on with them asks first. */
import { decodeRecords } from '../abi/records.js'
import { checkRecords, type Finding } from '../abi/records-check.js'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { fileSize, readAt } from '../sys/memfd.js'

/** Bytes of a records file that is open. */
function recordsBytes(fd: Fd): Uint8Array {
  const bytes = new Uint8Array(fileSize(fd))
  return bytes.subarray(0, readAt(fd, bytes, 0))
}

/** By the keys of the vault. LUO_RECORDS, LUO_RECORDS_VERSION when the records cannot be read at all. */
function findingsOf(descriptors: ReadonlyMap<string, Fd>): Finding[] {
  const file = descriptors.get('records')
  if (!file) throw new LuoError('LUO_RECORDS', 'verify what luod holds: there is no descriptor of its records')
  const { entries } = decodeRecords(recordsBytes(file))
  const findings = checkRecords(entries, (key) => descriptors.has(key))
  for (const [key, record] of entries.get('file') ?? []) {
    const fd = descriptors.get(`file/${key}`)
    const kind = fd && fileInfo(fd).kind
    if (kind !== undefined && kind !== record.kind) {
      findings.push({
        what: 'file',
        key,
        why: `its descriptor is of kind ${kind}, and ${String(record.kind)} is recorded`,
      })
    }
  }
  return findings
}

/** LUO_RECORDS that names the first of what is wrong. */
export function verify(descriptors: ReadonlyMap<string, Fd>): void {
  const [first, ...others] = findingsOf(descriptors)
  if (!first) return
  const more = others.length > 0 ? `, and ${others.length} more` : ''
  throw new LuoError('LUO_RECORDS', `verify what luod holds: ${first.what} ${first.key}: ${first.why}${more}`)
}
