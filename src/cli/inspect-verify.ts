/**
 * `luoctl inspect --verify [FILE]`: whether what `inspect` shows is sound: every checksum, every record, what they
 * name, and of a running luod whether what it counts is what is recorded. It lists everything that is wrong, and how
 * much a recovery would keep. EXIT.DAMAGED when anything is; what cannot be read at all, or is of another version, is
 * an error as ever.
 *
 * A luod that runs goes on writing: it makes a copy of its records between two transactions (`Inspect`). What it counts
 * is compared with them when they are the same before and after it was asked for its counts.
 */
import { CROSSING_VERSION, decodeCrossing } from '../abi/crossing.js'
import { checkCrossed } from '../abi/crossing-verify.js'
import { decodeKho, IMAGE_MAGIC, IMAGE_VERSION, KHO_COMPATIBLE, readImage } from '../abi/kho.js'
import { decodeLuo, decodeLuoSer, LUO_COMPATIBLE } from '../abi/luo.js'
import { decodeMemfd, MEMFD_COMPATIBLE } from '../abi/memfd.js'
import { RECORDS_VERSION } from '../abi/records.js'
import type { RecordEntries } from '../abi/records-check.js'
import { verifyRecords } from '../abi/records-verify.js'
import { isLuoError } from '../errors.js'
import type { Machine, Usage } from '../protocol/types.js'
import { FileReader } from '../sys/file-reader.js'
import type { ReconnectingClient } from '../wire/reconnecting.js'
import { type Context, EXIT, withClient } from './context.js'
import { clean, table } from './format.js'
import { type FormatName, formatOf, recordsFile, recordsOf, wholeFile } from './inspect-formats.js'

/** How often a luod in which something changes all the time is asked for its counts. */
const COUNT_ATTEMPTS = 20

interface Finding {
  what: string
  key: string
  why: string
}

/** Of a running luod. `busy`: something changed each time that it was asked. */
type Counts = 'compared' | 'busy'

interface Verdict {
  format: string
  version: string | number
  /** Of what was looked at. */
  bytes: number
  findings: Finding[]
  /** By type of record; an image, a tree or a luo_ser is taken as a whole or not at all. */
  kept?: Record<string, { records: number; kept: number }>
  counts?: Counts
}

const FORMATS: Readonly<Record<FormatName, (reader: FileReader) => Verdict>> = {
  records: (reader) => recordsVerdict(recordsFile(reader)).verdict,
  crossing: (reader) => {
    const bytes = wholeFile(reader)
    const about = { format: 'luod-crossing', version: CROSSING_VERSION, bytes: bytes.length }
    return wholeOrNot(about, () => {
      const { crossing, records } = decodeCrossing(bytes)
      const { verdict, entries } = recordsVerdict(records)
      return { ...verdict, ...about, findings: [...verdict.findings, ...checkCrossed(crossing, entries)] }
    })
  },
  image: (reader) => {
    const about = { format: IMAGE_MAGIC, version: IMAGE_VERSION, bytes: reader.size }
    return wholeOrNot(about, () => {
      const { memory, luo } = readImage(reader)
      for (const { files } of decodeLuo(memory, luo).sessions) {
        for (const { compatible, data } of files) if (compatible === MEMFD_COMPATIBLE) decodeMemfd(memory, data)
      }
      return { ...about, findings: [] }
    })
  },
  tree: (reader) => {
    const bytes = wholeFile(reader)
    return decoded({ format: 'kho', version: KHO_COMPATIBLE, bytes: bytes.length }, () => decodeKho(bytes))
  },
  luo: (reader) => {
    const bytes = wholeFile(reader)
    return decoded({ format: 'luo', version: LUO_COMPATIBLE, bytes: bytes.length }, () => decodeLuoSer(bytes))
  },
}

export async function verifyCommand(context: Context, file: string | undefined): Promise<number> {
  const verdict = file === undefined ? await withClient(context, ofDaemon) : ofFile(file)
  const sound = verdict.findings.length === 0
  if (context.json) context.out(JSON.stringify({ ...verdict, sound }))
  else for (const line of linesOf(file ?? `luod at ${context.socket}`, verdict)) context.out(line)
  return sound ? EXIT.OK : EXIT.DAMAGED
}

function ofFile(path: string): Verdict {
  using reader = FileReader.open(path)
  return FORMATS[formatOf(reader, path)](reader)
}

function recordsVerdict(bytes: Uint8Array): { verdict: Verdict; entries: RecordEntries } {
  const { entries, findings, kept } = verifyRecords(bytes)
  const about = { format: 'luod-records', version: RECORDS_VERSION, bytes: bytes.length }
  return { verdict: { ...about, findings, kept: Object.fromEntries(kept) }, entries }
}

/** Damage is its one finding: behind it nothing can be read. */
function wholeOrNot(about: Omit<Verdict, 'findings'>, verify: () => Verdict): Verdict {
  try {
    return verify()
  } catch (error) {
    if (!isLuoError(error, 'LUO_RECORDS')) throw error
    return { ...about, findings: [{ what: about.format, key: '', why: error.message }] }
  }
}

function decoded(about: Omit<Verdict, 'findings'>, decode: () => unknown): Verdict {
  return wholeOrNot(about, () => {
    decode()
    return { ...about, findings: [] }
  })
}

// --- a luod that runs ------------------------------------------------------------------------------------------------

async function ofDaemon(client: ReconnectingClient): Promise<Verdict> {
  let before = await recordsOf(client)
  for (let attempt = 1; ; attempt++) {
    const { usage } = (await client.call('Status', {})).parameters
    const { machines } = (await client.call('Machines', {})).parameters
    const bytes = await recordsOf(client)
    const { verdict, entries } = recordsVerdict(bytes)
    const same = Buffer.compare(before, bytes) === 0
    if (same)
      return {
        ...verdict,
        findings: [...verdict.findings, ...wrongCounts(entries, usage, machines)],
        counts: 'compared',
      }
    if (attempt === COUNT_ATTEMPTS) return { ...verdict, counts: 'busy' }
    before = bytes
  }
}

/** What luod counts, of those users that it tells of. Files of emulated machines are counted, and not recorded. */
function wrongCounts(entries: RecordEntries, usage: readonly Usage[], machines: readonly Machine[]): Finding[] {
  const recorded = countsOf(entries)
  return usage.flatMap((counts) =>
    COUNTED.flatMap((what) => {
      const { [what]: counted, uid } = counts
      const known = recorded.get(uid)?.[what] ?? 0
      const more = what === 'files' && machines.some((machine) => machine.uid === uid)
      if (known === counted || (more && known < counted)) return []
      return [{ what: 'count', key: `uid ${uid}`, why: `luod counts ${counted} ${what}, and ${known} are recorded` }]
    }),
  )
}

const COUNTED = ['workloads', 'sessions', 'files'] as const
type Recorded = Record<(typeof COUNTED)[number], number>

function countsOf(entries: RecordEntries): Map<unknown, Recorded> {
  const users = new Map<unknown, Recorded>()
  const count = (uid: unknown, what: keyof Recorded) => {
    const counts = users.get(uid) ?? { workloads: 0, sessions: 0, files: 0 }
    counts[what] += 1
    users.set(uid, counts)
  }
  const sessions = entries.get('session')
  for (const { uid } of entries.get('workload')?.values() ?? []) count(uid, 'workloads')
  for (const { uid } of sessions?.values() ?? []) count(uid, 'sessions')
  for (const { session } of entries.get('file')?.values() ?? []) count(sessions?.get(String(session))?.uid, 'files')
  return users
}

// --- for people ------------------------------------------------------------------------------------------------------

function linesOf(source: string, { format, version, bytes, findings, kept, counts }: Verdict): string[] {
  const sound =
    findings.length === 0 ? 'sound' : `damaged, ${findings.length} ${findings.length === 1 ? 'finding' : 'findings'}`
  const lines = [`${clean(source)}: ${format} ${version}, ${bytes} bytes: ${sound}`]
  for (const { what, key, why } of findings) lines.push(`  ${clean([what, key].join(' ').trim())}: ${clean(why)}`)
  if (counts === 'compared') lines.push('  what luod counts was compared with what is recorded')
  if (counts === 'busy') lines.push('  what luod counts was not compared: it changed all the time; try again')
  if (kept) {
    const rows = Object.entries(kept).map(([type, one]) => [type, String(one.records), String(one.kept)])
    lines.push('', ...table(['TYPE', 'RECORDS', 'A RECOVERY KEEPS'], rows))
  } else if (findings.length > 0) lines.push('  nothing of it is kept: it is taken as a whole or not at all')
  return lines
}
