/**
 * What luoctl prints, as pure functions from values to text: tables, sizes, an update's timeline, errors. Nothing here
 * writes; text from other processes is cleaned of control characters, so that a reason cannot drive a terminal.
 */
import { showBytes } from '../abi/bytes.js'
import { LUO_CODES, type LuoCode, LuoError } from '../errors.js'
import type { File, Methods, Phase, Session, Workload } from '../protocol/types.js'
import { formatDuration } from './durations.js'

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g
/** Of a table; no name is as long. */
const MAX_COLUMN = 100
const SHORT_WORD = 100
/** Of what has no columns of its own. */
const LINE_COLUMNS = 100
const LONG_WORD = new RegExp(`\\S{${2 * SHORT_WORD},}`, 'g')

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 || Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`
}

/**
 * Text that came from elsewhere: control characters become `?`, so that it stays on its line, and the bytes of a name
 * that are not UTF-8 (`decodeName`) become `\xff`.
 */
export function clean(text: string): string {
  return showBytes(text.replace(CONTROLS, '?'))
}

/**
 * A line as it may be written to a terminal, whatever is in it. `json`: it is JSON, and stays the same value: what JSON
 * itself leaves as it is (DEL, C1, what turns text round) is escaped.
 */
export function printable(line: string, json: boolean): string {
  return json ? line.replace(CONTROLS, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`) : clean(line)
}

/**
 * Columns padded to their widest cell, two spaces between; no trailing blanks. A cell that is too wide sticks out, and
 * leaves the other rows as they are.
 */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((cell, column) =>
    rows.reduce(
      (widest, { [column]: { length } = '' }) => (length > MAX_COLUMN ? widest : Math.max(widest, length)),
      cell.length,
    ),
  )
  return [head, ...rows].map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

/** Below a line of its own. Line by line: a call takes some hundred thousand arguments, and there may be more rows. */
export function addTable(lines: string[], head: readonly string[], rows: readonly (readonly string[])[]): void {
  for (const line of table(head, rows)) lines.push(`    ${line}`)
}

export function workloadRows(workloads: readonly Workload[]): string[] {
  if (workloads.length === 0) return ['No workloads. Start one: luoctl run NAME -- COMMAND']
  return table(
    ['NAME', 'STATE', 'PID', 'GENERATION', 'FILES', 'SUPERVISED', 'KEEP'],
    workloads.map((workload) => [
      clean(workload.name),
      workload.state,
      workload.pid === undefined ? '-' : String(workload.pid),
      String(workload.generation),
      String(workload.files),
      workload.supervised ? 'yes' : 'no',
      workload.keep_ms > 0 ? formatDuration(workload.keep_ms) : '-',
    ]),
  )
}

/** A session, with all its files. */
export interface SessionContent {
  session: Session
  files: readonly File[]
}

export function workloadDetails(workload: Workload, contents: readonly SessionContent[]): string[] {
  const lines = [
    `${clean(workload.name)}: ${workload.state}, generation ${workload.generation}`,
    `  process        ${workload.pid ?? 'none'}${workload.supervised ? ', supervised by luoctl run' : ', not supervised'}`,
    `  user           ${workload.uid}`,
    `  after a crash  ${workload.keep_ms > 0 ? `kept for ${formatDuration(workload.keep_ms)}` : 'released at once'}`,
    `  state formats  ${workload.formats.map(clean).join(', ') || 'none recorded'}`,
  ]
  if (workload.after?.length) lines.push(`  needs          ${workload.after.map(clean).join(', ')}`)
  if (workload.update) lines.push(`  update         ${clean(workload.update)} is under way`)
  for (const { session, files } of contents) {
    const expires = session.expires_ms === undefined ? '' : `, expires in ${formatDuration(session.expires_ms)}`
    lines.push('', `  session ${clean(session.name)}: ${session.custody}, ${contentOf(session)}${expires}`)
    const rows = files.map((file) => [
      file.token,
      clean(file.kind),
      file.bytes === undefined ? '-' : formatBytes(Number(file.bytes)),
      clean(file.format ?? '-'),
      file.until ?? '-',
    ])
    const head = ['TOKEN', 'KIND', 'SIZE', 'FORMAT', 'UNTIL']
    if (rows.length > 0) addTable(lines, head, rows)
  }
  return lines
}

/** What a crash of luod would cost, and whose place this one took. */
export function protectionLines({
  protection,
  takeover,
}: Pick<Methods['Status']['output'], 'protection' | 'takeover'>) {
  const { kind, ready, pid, lost } = protection
  const standby = ready ? `ready (pid ${pid})` : 'not ready: until it is, a crash would lose all that luod holds'
  const kinds: Record<string, string> = {
    none: 'none: a crash of luod would lose all that it holds (luod --standby)',
    standby: `standby, ${standby}${lost > 0 ? `; ${lost} lost so far` : ''}`,
    store: 'the file descriptor store of the service manager',
  }
  const lines = [`  protection ${Object.hasOwn(kinds, kind) ? kinds[kind] : kind}`]
  if (takeover) {
    const { how, at, from_pid: from, from_version: version, pause_ms: pause, findings } = takeover
    const damage = findings > 0 ? `; ${findings} findings: luoctl history` : ''
    lines.push(
      `  took the place of luod ${clean(version)}, pid ${from}, at ${clean(at)} (${how}), in ${pause.toFixed(1)} ms${damage}`,
    )
  }
  return lines
}

/** What each user has of what is limited, then the limits that nothing is counted for. */
export function usageLines({ limits, usage }: Pick<Methods['Status']['output'], 'limits' | 'usage'>): string[] {
  const shown = (name: string, value: number) => (name === 'bytes' ? formatBytes(value) : String(value))
  const users = usage.flatMap(({ uid, ...counts }) => [
    `  user ${uid}`,
    ...Object.entries(counts).map(([name, has]) => {
      const limit = limits[name]
      return `    ${name} ${shown(name, has)}${limit === undefined ? '' : ` of ${shown(name, limit)}`}`
    }),
  ])
  const counted = new Set(usage.flatMap((counts) => Object.keys(counts)))
  const others = Object.entries(limits).filter(([name]) => !counted.has(name))
  return [
    ...users,
    ...wrapped(
      '  other limits ',
      others.map(([name, limit]) => `${clean(name)} ${limit}`),
    ),
  ]
}

/** `parts`, with commas, in lines that begin below the first one's text; none without parts. */
function wrapped(title: string, parts: readonly string[]): string[] {
  const lines: string[] = []
  for (const [index, part] of parts.entries()) {
    const text = index === parts.length - 1 ? part : `${part},`
    const line = lines.at(-1)
    if (line !== undefined && line.length + 1 + text.length <= LINE_COLUMNS) lines[lines.length - 1] = `${line} ${text}`
    else lines.push(`${line === undefined ? title : ' '.repeat(title.length)}${text}`)
  }
  return lines
}

/** How much is in a session: `3 files, 256 MiB`. */
export function contentOf({ files, bytes }: Pick<Session, 'files' | 'bytes'>): string {
  const size = bytes === '0' ? '' : `, ${formatBytes(Number(bytes))}`
  return `${files} ${files === 1 ? 'file' : 'files'}${size}`
}

export function sessionRows(sessions: readonly Session[]): string[] {
  if (sessions.length === 0) return ['No sessions.']
  return table(
    ['ID', 'NAME', 'WORKLOAD', 'CUSTODY', 'PID', 'FILES', 'SIZE', 'AGE', 'KEEP', 'EXPIRES'],
    sessions.map((session) => [
      session.session,
      clean(session.name),
      session.workload === undefined ? '-' : clean(session.workload),
      session.custody,
      session.pid === undefined ? '-' : String(session.pid),
      String(session.files),
      session.bytes === '0' ? '-' : formatBytes(Number(session.bytes)),
      formatDuration(session.age_ms),
      session.keep_ms > 0 ? formatDuration(session.keep_ms) : '-',
      session.expires_ms === undefined ? '-' : `in ${formatDuration(session.expires_ms)}`,
    ]),
  )
}

/** What is going on while a phase lasts, and whose turn it is. */
const PHASE_WAIT: Partial<Record<Phase['phase'], readonly ['new' | 'old' | 'luod', string]>> = {
  starting: ['new', 'to start and join'],
  joined: ['new', 'to load and ask for the state'],
  preparing: ['old', 'to let go of its state'],
  restoring: ['new', 'to take everything back'],
  committing: ['old', 'to say that it has let go'],
  aborting: ['new', 'to end'],
}

export interface TimelineRow {
  phase: string
  at_ms: number
  /** Until the next phase began; undefined for the last one. */
  took_ms: number | undefined
  waited_for: string | undefined
}

/** How long each phase took, and who was waited for in it. */
export function timelineRows(timeline: readonly Phase[]): TimelineRow[] {
  const newPid = timeline.find((phase) => phase.phase === 'joined')?.who
  const oldPid = timeline.find((phase) => phase.phase === 'restoring')?.who
  return timeline.map((phase, index) => {
    const next = timeline[index + 1]
    const wait = next === undefined ? undefined : PHASE_WAIT[phase.phase]
    const pid = wait?.[0] === 'new' ? newPid : wait?.[0] === 'old' ? oldPid : undefined
    const side = wait?.[0] === 'new' ? 'the new version' : wait?.[0] === 'old' ? 'the old version' : 'luod'
    return {
      phase: phase.phase,
      at_ms: phase.at_ms,
      took_ms: next === undefined ? undefined : next.at_ms - phase.at_ms,
      waited_for: wait && `${side}${pid === undefined ? '' : ` (pid ${pid})`} ${wait[1]}`,
    }
  })
}

export function timelineTable(timeline: readonly Phase[]): string[] {
  return table(
    ['PHASE', 'TOOK', 'WAITED FOR'],
    timelineRows(timeline).map((row) => [
      row.phase,
      row.took_ms === undefined ? '' : formatDuration(row.took_ms),
      row.waited_for ?? '',
    ]),
  )
}

/** One phase as it happens: `  41.2 ms  joined (pid 12)`. */
export function phaseLine(phase: Phase): string {
  const who = phase.who === undefined ? '' : ` (pid ${phase.who})`
  const reason = phase.reason === undefined ? '' : `: ${clean(phase.reason)}`
  const code = phase.code === undefined ? '' : ` (${clean(phase.code)})`
  return `${formatDuration(phase.at_ms).padStart(10)}  ${phase.phase}${who}${reason}${code}`
}

/** What to do about a code, from the one table of codes. */
export function advice(code: string): string | undefined {
  // Whoever uses luoctl has given the parameter as an argument.
  if (code === 'LUO_INVALID_PARAMETER') return 'luoctl COMMAND --help shows examples.'
  return Object.hasOwn(LUO_CODES, code) ? LUO_CODES[code as LuoCode] : undefined
}

/** Only the beginning of what no line has room for, so that what follows it is seen. */
function shortened(text: string): string {
  return text.replace(LONG_WORD, (word) => `${word.slice(0, SHORT_WORD)}…`)
}

/**
 * `luoctl: MESSAGE (CODE)`, then the advice on a line of its own. What is no LuoError is a defect, shown with its
 * stack.
 */
export function errorLines(error: unknown): string[] {
  if (!(error instanceof LuoError)) {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return `luoctl: unexpected failure, please report it: ${stack}`.split('\n')
  }
  const hint = advice(error.code)
  const first = `luoctl: ${shortened(clean(error.message))} (${error.code})`
  return hint === undefined ? [first] : [first, `  ${hint}`]
}
