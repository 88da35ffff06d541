/** Whether what one luod tells the next over a kexec fits together: the files that cross, and the records of them. */
import type { Crossing } from './crossing.js'
import type { Finding, RecordEntries } from './records-check.js'

/** Nothing is thrown, and nothing is changed: what is wrong is listed. */
export function checkCrossed({ sessions }: Crossing, entries: RecordEntries): Finding[] {
  const findings: Finding[] = []
  const files = entries.get('file') ?? new Map()
  const crossed = new Set<string>()
  for (const { session, name, files: crossing } of sessions) {
    if (!entries.get('session')?.has(session)) {
      findings.push({ what: 'session', key: session, why: 'it crosses, and there is no record of it' })
    }
    for (const { key, token, description } of crossing) {
      const wrong = (why: string) => findings.push({ what: 'file', key, why })
      const record = files.get(key)
      if (crossed.has(key)) wrong('it crosses twice')
      crossed.add(key)
      if (!record) wrong(`it crosses as ${token} of session ${session}, and there is no record of it`)
      else if (record.session !== session || record.token !== token) {
        wrong(`it crosses as ${token} of session ${session}; recorded is ${record.token} of ${record.session}`)
      }
      if (description === undefined && name === undefined) {
        wrong('it crosses by the kernel, and no session of the kernel is named')
      }
    }
  }
  for (const [key, { until }] of files) {
    if (!crossed.has(key) && until === undefined)
      findings.push({ what: 'file', key, why: 'it is recorded, and does not cross' })
  }
  return findings
}
