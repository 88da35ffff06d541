/**
 * What has happened to each workload, in memory and in the records: the last events of each, also of one that has
 * ended, until other events of the same user push it out. A user's history has a limit, so that names that are made up
 * fill nothing; whose workload was silent for longest loses first.
 *
 * A refusal that is repeated is one event with a number. Events are noted at once and recorded a moment later, when no
 * update holds requests back; `flush` records them now. What cannot be recorded is told to `onDefect` and stays in
 * memory.
 */
import type { Change, Json, Records } from '../abi/records.js'
import type { HistoryEvent } from '../protocol/types.js'
import { HISTORY_POSTPONE_MS, HISTORY_REPEAT_MS, LIMITS, NOTIFY_DELAY_MS } from './limits.js'

export interface HistoryOptions {
  records: Records
  /** Whether requests are held back just now. */
  busy(): boolean
  onDefect(error: unknown): void
}

interface Row {
  /** Its key in the records; a later event has a higher one. */
  readonly key: number
  /** Counted from 1 in its log: what is missing before it was forgotten. */
  readonly number: number
  /** Of a refusal: those of one sort are counted. */
  readonly sort: string | undefined
  event: HistoryEvent
  recorded: boolean
}

/** Of one workload; '' is what belongs to none. */
interface Log {
  rows: Row[]
  next: number
  /** The last refusal of each sort. */
  refusals: Map<string, Row>
}

interface User {
  /** The one that was silent for longest comes first. */
  logs: Map<string, Log>
  rows: number
}

export interface HistoryPart {
  events: HistoryEvent[]
  /** Older ones that are forgotten. */
  dropped: number
}

export class History {
  readonly #options: HistoryOptions
  readonly #users = new Map<number, User>()
  /** What the records do not have yet; undefined for what they still have. */
  readonly #unwritten = new Map<number, Row | undefined>()
  #nextKey = 1
  #timer: NodeJS.Timeout | undefined
  #postponed = 0

  constructor(options: HistoryOptions) {
    this.#options = options
  }

  add(event: HistoryEvent): void {
    const user = this.#userOf(event.uid)
    const name = event.workload ?? ''
    const log = this.#logOf(user, name)
    const sort = sortOf(event)
    const before = sort === undefined ? undefined : log.refusals.get(sort)
    if (before && Date.parse(event.at) - Date.parse(before.event.at) < HISTORY_REPEAT_MS) {
      before.event = { ...event, at: before.event.at, last_at: event.at, times: (before.event.times ?? 1) + 1 }
      this.#note(before)
      return
    }
    const row: Row = { key: this.#nextKey++, number: log.next++, sort, event, recorded: false }
    log.rows.push(row)
    user.rows += 1
    if (sort !== undefined) log.refusals.set(sort, row)
    this.#note(row)
    if (log.rows.length > LIMITS.history_events) this.#dropFirst(user, name, log)
    if (user.rows > LIMITS.history_user_events) {
      const [oldest] = user.logs
      if (oldest) this.#dropFirst(user, ...oldest)
    }
  }

  /** Whether something is known of a workload of this name. */
  has(uid: number, workload: string): boolean {
    return this.#users.get(uid)?.logs.has(workload) === true
  }

  /** Users that something is known of a workload of this name of. */
  usersWith(workload: string): number[] {
    return [...this.#users.keys()].filter((uid) => this.has(uid, workload))
  }

  /** The last events of a workload, oldest first. */
  of(uid: number, workload: string, limit: number): HistoryPart {
    const log = this.#users.get(uid)?.logs.get(workload)
    return { events: (log?.rows ?? []).slice(-limit).map(({ event }) => event), dropped: log ? droppedOf(log) : 0 }
  }

  /** The last events of everything of a user, or of all users. */
  all(uid: number | undefined, limit: number): HistoryPart {
    const users = [...this.#users].flatMap(([owner, user]) => (uid === undefined || owner === uid ? user : []))
    const logs = users.flatMap((user) => [...user.logs.values()])
    const rows = logs.flatMap((log) => log.rows.slice(-limit)).sort((a, b) => a.key - b.key)
    const dropped = logs.reduce((sum, log) => sum + droppedOf(log), 0)
    return { events: rows.slice(-limit).map(({ event }) => event), dropped }
  }

  /** What is not recorded yet, if this is a moment for that: it counts as recorded from here on. */
  takeChanges(): Change[] {
    return this.#options.busy() ? [] : this.#take()
  }

  /** What a luod before this one has recorded, in any order. Answers why something cannot be, by key. */
  restore(records: ReadonlyMap<string, Json>): Map<string, string> {
    const wrong = new Map<string, string>()
    for (const key of [...records.keys()].sort((a, b) => Number(a) - Number(b))) {
      const { number, ...event } = records.get(key) as Json & HistoryEvent
      if (typeof number !== 'number' || typeof event.event !== 'string' || typeof event.uid !== 'number') {
        wrong.set(key, 'it is no event')
        continue
      }
      const user = this.#userOf(event.uid)
      const log = this.#logOf(user, event.workload ?? '')
      const row: Row = { key: Number(key), number, sort: sortOf(event), event, recorded: true }
      log.rows.push(row)
      log.next = number + 1
      user.rows += 1
      if (row.sort !== undefined) log.refusals.set(row.sort, row)
      this.#nextKey = row.key + 1
    }
    return wrong
  }

  /** Records what is not recorded yet. */
  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#postponed = 0
    if (this.#unwritten.size === 0) return
    try {
      this.#options.records.transaction(this.#take())
      this.#options.records.tidy()
    } catch (error) {
      this.#options.onDefect(error)
    }
  }

  close(): void {
    this.flush()
  }

  /** Nothing is recorded any more. */
  letGo(): void {
    clearTimeout(this.#timer)
    this.#unwritten.clear()
  }

  #take(): Change[] {
    if (this.#unwritten.size === 0) return []
    const changes = [...this.#unwritten].map(([key, row]): Change => {
      if (row) row.recorded = true
      return { type: 'history', key: String(key), value: row && recordOf(row) }
    })
    this.#unwritten.clear()
    return changes
  }

  #note(row: Row): void {
    this.#unwritten.set(row.key, row)
    this.#schedule()
  }

  #schedule(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#postponed += NOTIFY_DELAY_MS
      if (this.#options.busy() && this.#postponed < HISTORY_POSTPONE_MS) this.#schedule()
      else this.flush()
    }, NOTIFY_DELAY_MS)
  }

  #dropFirst(user: User, name: string, log: Log): void {
    const row = log.rows.shift()
    if (!row) return
    user.rows -= 1
    if (log.rows.length === 0) user.logs.delete(name)
    if (row.sort !== undefined && log.refusals.get(row.sort) === row) log.refusals.delete(row.sort)
    if (row.recorded) this.#unwritten.set(row.key, undefined)
    else this.#unwritten.delete(row.key)
  }

  /** It is the one that was heard of last. */
  #logOf(user: User, name: string): Log {
    const log: Log = user.logs.get(name) ?? { rows: [], next: 1, refusals: new Map() }
    user.logs.delete(name)
    user.logs.set(name, log)
    return log
  }

  #userOf(uid: number): User {
    const user = this.#users.get(uid) ?? { logs: new Map(), rows: 0 }
    this.#users.set(uid, user)
    return user
  }
}

/** Of a refusal: those of one sort are counted. */
function sortOf(event: HistoryEvent): string | undefined {
  return event.event === 'refused' ? [event.code, event.method, event.by_uid].join(' ') : undefined
}

function droppedOf({ rows, next }: Log): number {
  return (rows[0]?.number ?? next) - 1
}

function recordOf({ number, event }: Row): Json {
  return { number, ...event }
}
