/**
 * What one user has under way at a server, of all of its connections: files and bytes of requests that wait, and of
 * answers that nobody reads, each with a limit; and its share of each turn of the loop. Beyond either its connections
 * wait. If that does not pass, those that have most end with LUO_LIMIT.
 */
import { LuoError } from '../errors.js'
import type { Amount, Connection } from './connection.js'

/** How long the connections of one user may be held up by what some of them have under way. */
const HELD_UP_MS = 1_000
/** What one user gets of one turn of the loop; then others have theirs. The longest requests take some milliseconds. */
export const MAX_TURN_MS = 10

export class Users {
  readonly #users = new Map<number, User>()
  readonly #max: Amount

  /** `max`: of one user, in each direction. */
  constructor(max: Amount) {
    this.#max = max
  }

  of(uid: number): User {
    let user = this.#users.get(uid)
    if (!user) {
      user = new User(this.#max)
      this.#users.set(uid, user)
    }
    return user
  }

  /** Kept while it has connections. */
  dropUnused(uid: number): void {
    const user = this.#users.get(uid)
    if (!user || user.connections > 0) return
    user.end()
    this.#users.delete(uid)
  }
}

export class User {
  connections = 0
  readonly #max: Amount
  /** Of requests that are not handled yet. */
  readonly #received: Amount = { files: 0, bytes: 0 }
  /** Of answers that nobody has read. */
  readonly #queued: Amount = { files: 0, bytes: 0 }
  /** Both, of those that have any. */
  readonly #underWay = new Map<Connection, Amount>()
  /** Called when there is room again. */
  readonly #waiting = new Set<() => void>()
  #heldUp: NodeJS.Timeout | undefined
  /** When its first request in this turn of the loop came; undefined before that. */
  #turnBegan: number | undefined
  /** Called in the next turn. */
  readonly #onTurn: (() => void)[] = []

  constructor(max: Amount) {
    this.#max = max
  }

  /** `connection` has so much more of it, or less. */
  change(connection: Connection, direction: 'received' | 'queued', by: Amount): void {
    const queued = direction === 'queued'
    add(queued ? this.#queued : this.#received, by)
    const all = add(this.#underWay.get(connection) ?? { files: 0, bytes: 0 }, by)
    if (all.files > 0 || all.bytes > 0) this.#underWay.set(connection, all)
    else this.#underWay.delete(connection)
    if (by.files < 0 || by.bytes < 0) for (const run of [...this.#waiting]) run()
    else if (queued && this.#isFull(this.#queued)) this.#watchHeldUp()
  }

  /** Whether it may send more. */
  hasRoom(): boolean {
    const room = !this.#isFull(this.#received)
    if (!room) this.#watchHeldUp()
    return room
  }

  /** Called whenever there may be room again, until it is taken away. */
  wait(run: () => void): void {
    this.#waiting.add(run)
  }

  stopWaiting(run: () => void): void {
    this.#waiting.delete(run)
  }

  /** What a peer does not take is ours: its next request waits until it has, and others of its user too. */
  async mayAnswer(connection: Connection): Promise<void> {
    while (!connection.closed && this.#isFull(this.#queued)) {
      this.#watchHeldUp()
      await new Promise<void>((resolve) => {
        const run = () => {
          this.#waiting.delete(run)
          resolve()
        }
        this.#waiting.add(run)
      })
    }
  }

  /** Others may have requests that wait just as long. */
  hasHadTurn(): boolean {
    const now = performance.now()
    if (this.#turnBegan === undefined) {
      this.#turnBegan = now
      setImmediate(() => {
        this.#turnBegan = undefined
        for (const run of this.#onTurn.splice(0)) run()
      })
    }
    return now - this.#turnBegan > MAX_TURN_MS
  }

  nextTurn(): Promise<void> {
    return new Promise((resolve) => this.#onTurn.push(resolve))
  }

  end(): void {
    clearTimeout(this.#heldUp)
  }

  #isFull({ files, bytes }: Amount): boolean {
    return files >= this.#max.files || bytes >= this.#max.bytes
  }

  /** A connection with much behind a request that lasts, or that reads no answer, holds up others no longer. */
  #watchHeldUp(): void {
    this.#heldUp ??= setTimeout(() => {
      this.#heldUp = undefined
      const max = this.#max
      const share = ({ files, bytes }: Amount) => Math.max(files / max.files, bytes / max.bytes)
      const most = [...this.#underWay].sort(([, a], [, b]) => share(b) - share(a))
      for (const [connection, { files, bytes }] of most) {
        if (!this.#isFull(this.#received) && !this.#isFull(this.#queued)) return
        const wait = `${files} files and ${bytes} bytes wait here`
        const may = `of all of one user ${max.files} and ${max.bytes} may`
        connection.fail(new LuoError('LUO_LIMIT', `${wait}, and ${may}`))
      }
    }, HELD_UP_MS)
  }
}

/** Changes and answers the first. */
function add(to: Amount, by: Amount): Amount {
  to.files += by.files
  to.bytes += by.bytes
  return to
}
