/**
 * The orchestrator once more, as plain as can be: arrays, and a search through all of it for every question. It was
 * written from what a live update orchestrator does, and shares no code with `core`. It also knows which operations of
 * the fakes are called, in which order, and which of them fail.
 */
import { FILES, type Side } from './steps.js'

/** What handler `a` adds to `data` when it freezes. */
const FROZEN = 2n ** 32n
const MAX_U64 = 18_446_744_073_709_551_615n

export class Refused extends Error {
  readonly code: string

  constructor(code: string) {
    super(code)
    this.code = code
  }
}

export interface ModelFile {
  token: string
  letter: string
  data: bigint
  /** The open file: of an outgoing one, and of one that was retrieved. */
  name: string | undefined
  /** Why it could not be retrieved. */
  failure: string | undefined
}

export interface ModelSession {
  name: string
  side: Side
  custody: string
  files: ModelFile[]
  retrieved: boolean
  finished: boolean
  gone: boolean
}

interface ModelFlb {
  name: string
  side: Side
  data: bigint
  count: bigint
  retrieved: boolean
  failure: string | undefined
}

const MOVES = [
  ['held', 'freeze', 'frozen'],
  ['held', 'orphan', 'orphaned'],
  ['frozen', 'unfreeze', 'held'],
  ['frozen', 'commit', 'held'],
  ['frozen', 'orphan', 'orphaned'],
  ['orphaned', 'claim', 'frozen'],
]

export class Model {
  sessions: ModelSession[] = []
  flbs: ModelFlb[] = []
  number = 0n
  phase = 'open'
  received = false
  /** What `a` is called; undefined: it is not there. */
  nameOfA: string | undefined = 'a-v1'
  memory: { data: bigint; name: string }[] = []
  next = 1n
  calls: string[] = []
  defects = 0
  faults: { operation: string; left: number; code: string }[] = []
  refusals = 0

  // --- operations of the fakes ---------------------------------------------------------------------------------------

  call(operation: string, ...about: unknown[]): void {
    this.calls.push([operation, ...about].join(' '))
    const fault = this.faults.find((one) => one.operation === operation)
    if (!fault) return
    fault.left -= 1
    if (fault.left > 0) return
    this.faults = this.faults.filter((one) => one !== fault)
    throw new Refused(fault.code)
  }

  /** What must not fail, and is only reported when it does. */
  surely(run: () => void): boolean {
    try {
      run()
      return true
    } catch {
      this.defects += 1
      return false
    }
  }

  fail(operation: string, nth: number, code: string): void {
    this.faults = this.faults.filter((one) => one.operation !== operation)
    this.faults.push({ operation, left: nth, code })
  }

  // --- sessions ------------------------------------------------------------------------------------------------------

  all(side: Side): ModelSession[] {
    return this.sessions.filter((session) => session.side === side && !session.gone)
  }

  mustBeOpen(): void {
    if (this.phase === 'frozen') throw new Refused('EBUSY')
    if (this.phase === 'ended') throw new Refused('LUO_WRONG_STATE')
  }

  mustBeThere(session: ModelSession): void {
    if (session.gone) throw new Refused('LUO_WRONG_STATE')
  }

  create(name: string): ModelSession {
    this.mustBeOpen()
    if (name === '') throw new Refused('EINVAL')
    if (this.all('outgoing').some((session) => session.name === name)) throw new Refused('EEXIST')
    const session = {
      name,
      side: 'outgoing' as const,
      custody: 'held',
      files: [],
      retrieved: false,
      finished: false,
      gone: false,
    }
    this.sessions.push(session)
    return session
  }

  retrieveSession(name: string): ModelSession {
    this.mustBeOpen()
    const session = this.all('incoming').find((one) => one.name === name)
    if (!session) throw new Refused('ENOENT')
    if (session.retrieved) throw new Refused('EINVAL')
    session.retrieved = true
    return session
  }

  // --- outgoing files ------------------------------------------------------------------------------------------------

  mustBeHeld(session: ModelSession): void {
    this.mustBeOpen()
    this.mustBeThere(session)
    if (session.side !== 'outgoing') throw new Refused('EINVAL')
    if (session.custody !== 'held') throw new Refused('EBUSY')
  }

  preserve(session: ModelSession, files: { token: string; file: string }[]): void {
    this.mustBeHeld(session)
    const done: ModelFile[] = []
    try {
      for (const { token, file } of files) done.push(this.preserveOne(session, token, file))
    } catch (error) {
      for (const file of done.reverse()) this.undo(session, file)
      throw error
    }
  }

  preserveOne(session: ModelSession, token: string, name: string): ModelFile {
    checkToken(token)
    if (session.files.some((file) => file.token === token)) throw new Refused('EEXIST')
    const letters = this.nameOfA === undefined ? ['b'] : ['a', 'b']
    const letter = letters.find((one) => {
      this.call(`${one}.canPreserve`, name)
      return name.startsWith(one)
    })
    if (letter === undefined) throw new Refused('ENOENT')
    if (this.isTaken(letter, name)) throw new Refused('EBUSY')
    const taken: string[] = []
    try {
      for (const flb of flbsOf(letter)) {
        this.takeFlb(flb)
        taken.push(flb)
      }
      this.call(`${letter}.preserve`, name)
    } catch (error) {
      for (const flb of taken.reverse()) this.surely(() => this.put('outgoing', flb))
      throw error
    }
    const data = this.next++
    this.memory.push({ data, name })
    const file = { token, letter, data, name, failure: undefined }
    session.files.push(file)
    return file
  }

  /** Preserved in any session, or retrieved and not finished. */
  isTaken(letter: string, name: string): boolean {
    return this.sessions.some((session) =>
      session.files.some(
        (file) =>
          file.letter === letter &&
          file.name !== undefined &&
          (letter === 'a' ? inodeOf(file.name) === inodeOf(name) : file.name === name),
      ),
    )
  }

  undo(session: ModelSession, file: ModelFile): void {
    session.files = session.files.filter((one) => one !== file)
    this.surely(() => {
      this.call(`${file.letter}.unpreserve`, file.name, file.data)
      this.free(file.data)
    })
    for (const flb of flbsOf(file.letter).reverse()) this.surely(() => this.put('outgoing', flb))
  }

  unpreserve(session: ModelSession, tokens: string[]): void {
    this.mustBeHeld(session)
    const files = tokens.map((token) => this.fileOf(session, token))
    const backwards = files.reverse()
    for (const file of backwards.filter((one, index) => backwards.indexOf(one) === index)) {
      this.unpreserveOne(session, file)
    }
  }

  unpreserveOne(session: ModelSession, file: ModelFile): void {
    this.undo(session, file)
    this.surely(() => this.call('close', file.name))
  }

  /** The names of the files. */
  reference(session: ModelSession, tokens: string[]): string[] {
    this.mustBeThere(session)
    if (session.side !== 'outgoing') throw new Refused('EINVAL')
    const files = tokens.map((token) => this.fileOf(session, token))
    const done: string[] = []
    try {
      for (const { name = '' } of files) {
        this.call('duplicate', name)
        done.push(name)
      }
    } catch (error) {
      for (const name of done) this.surely(() => this.call('close', name))
      throw error
    }
    return done
  }

  fileOf(session: ModelSession, token: string): ModelFile {
    checkToken(token)
    const file = session.files.find((one) => one.token === token)
    if (!file) throw new Refused('ENOENT')
    return file
  }

  free(data: bigint): void {
    this.memory = this.memory.filter((one) => one.data !== data % FROZEN)
  }

  // --- incoming files ------------------------------------------------------------------------------------------------

  mustBeRetrieved(session: ModelSession): void {
    this.mustBeOpen()
    this.mustBeThere(session)
    if (session.side !== 'incoming' || !session.retrieved) throw new Refused('EINVAL')
  }

  /** The name of the file. */
  retrieve(session: ModelSession, token: string): string {
    this.mustBeRetrieved(session)
    const file = this.fileOf(session, token)
    if (file.failure !== undefined) throw new Refused(file.failure)
    if (file.name === undefined) {
      try {
        this.call(`${file.letter}.retrieve`, file.data)
        file.name = this.memory.find((one) => one.data === file.data % FROZEN)?.name
        if (file.name === undefined) throw new Refused('ENOENT')
      } catch (error) {
        file.failure = (error as Refused).code
        throw error
      }
    }
    this.call('duplicate', file.name)
    return file.name
  }

  finish(session: ModelSession): void {
    this.mustBeRetrieved(session)
    for (const file of session.files) {
      if (file.letter !== 'a') continue
      this.call('a.canFinish', ...told(file))
      if (this.refusals === 0) continue
      this.refusals -= 1
      throw new Refused('EBUSY')
    }
    this.finishAll(session)
    session.finished = true
  }

  finishAll(session: ModelSession): void {
    for (const file of [...session.files].reverse()) {
      session.files = session.files.filter((one) => one !== file)
      this.surely(() => {
        this.call(`${file.letter}.finish`, ...told(file))
        this.free(file.data)
      })
      for (const flb of flbsOf(file.letter).reverse()) this.surely(() => this.put('incoming', flb))
      if (file.name !== undefined) this.surely(() => this.call('close', file.name))
    }
  }

  release(session: ModelSession): void {
    if (session.gone) return
    this.mustBeOpen()
    if (session.side === 'incoming') {
      this.mustBeRetrieved(session)
      try {
        this.finish(session)
      } catch {
        return
      }
    } else {
      if (session.custody === 'frozen') this.thawFiles(session.files)
      for (const file of [...session.files].reverse()) this.unpreserveOne(session, file)
    }
    session.gone = true
  }

  // --- custody and the transition ------------------------------------------------------------------------------------

  moves(sessions: ModelSession[], change: string): string[] {
    return sessions.map((session) => {
      this.mustBeOpen()
      this.mustBeThere(session)
      const move = MOVES.find(([from, how]) => from === session.custody && how === change)
      if (!move?.[2]) throw new Refused('LUO_WRONG_STATE')
      return move[2]
    })
  }

  change(sessions: ModelSession[], change: string): void {
    const next = this.moves(sessions, change)
    const wasFrozen = sessions.filter(({ custody }) => custody === 'frozen')
    if (next.every((custody) => custody === 'frozen')) this.freezeFiles(sessions.flatMap(({ files }) => files))
    else this.thawFiles(wasFrozen.flatMap(({ files }) => files))
    for (const [index, session] of sessions.entries()) session.custody = next[index] ?? ''
  }

  freezeFiles(files: ModelFile[]): void {
    const done: ModelFile[] = []
    for (const file of files) {
      try {
        if (file.letter === 'a') this.call('a.freeze', file.name, file.data)
      } catch (error) {
        this.thawFiles(done)
        throw error
      }
      if (file.letter === 'a') file.data += FROZEN
      done.push(file)
    }
  }

  thawFiles(files: ModelFile[]): void {
    for (const file of [...files].reverse()) {
      if (file.letter !== 'a') continue
      if (this.surely(() => this.call('a.unfreeze', file.name, file.data))) file.data -= FROZEN
    }
  }

  freezeAll(): void {
    this.mustBeOpen()
    if (this.all('outgoing').some(({ custody }) => custody === 'frozen')) throw new Refused('EBUSY')
    this.freezeFiles(this.all('outgoing').flatMap(({ files }) => files))
    this.phase = 'frozen'
  }

  unfreezeAll(): void {
    if (this.phase !== 'frozen') throw new Refused('LUO_WRONG_STATE')
    this.thawFiles(this.all('outgoing').flatMap(({ files }) => files))
    this.phase = 'open'
  }

  serialize() {
    if (this.phase !== 'frozen') throw new Refused('LUO_WRONG_STATE')
    const sessions = this.all('outgoing').map(({ name, files }) => ({
      name,
      files: files.map(({ letter, data, token }) => ({
        compatible: letter === 'a' ? (this.nameOfA ?? '') : 'b-v1',
        data,
        token,
      })),
    }))
    const flbs = ['x', 'y'].flatMap((name) =>
      this.flbs
        .filter((flb) => flb.name === name && flb.side === 'outgoing' && flb.count > 0n)
        .map(({ data, count }) => ({ compatible: name, data, count })),
    )
    return { liveupdateNumber: this.number + 1n, sessions, flbs }
  }

  /** To the next generation; when that cannot take what is handed over, everything is as it was. */
  transition(nameOfA: string | undefined): void {
    if (this.phase === 'open') this.freezeAll()
    const { sessions, flbs } = this.serialize()
    const known = [nameOfA, 'b-v1']
    if (sessions.some(({ files }) => files.some(({ compatible }) => !known.includes(compatible)))) {
      this.unfreezeAll()
      throw new Refused('ENOENT')
    }
    const number = this.number + 1n
    const handedOver = this.all('outgoing').map(({ name, files }) => ({
      name,
      side: 'incoming' as const,
      custody: '',
      files: files.map((file) => ({ ...file, name: undefined })),
      retrieved: false,
      finished: false,
      gone: false,
    }))
    for (const { files } of this.all('outgoing').reverse()) {
      for (const { name } of files) this.surely(() => this.call('close', name))
    }
    for (const session of this.all('incoming').reverse()) this.finishAll(session)
    this.sessions = handedOver
    this.flbs = flbs.map(({ compatible, data, count }) => ({
      name: compatible,
      side: 'incoming',
      data,
      count,
      retrieved: false,
      failure: undefined,
    }))
    this.number = number
    this.nameOfA = nameOfA
    this.phase = 'open'
    this.received = true
    this.refusals = 0
  }

  /** The end of a generation that hands nothing over. */
  end(): void {
    if (this.phase === 'frozen') this.unfreezeAll()
    for (const session of this.all('outgoing').reverse()) this.release(session)
    for (const session of this.all('incoming').reverse()) {
      this.finishAll(session)
      session.gone = true
    }
    this.phase = 'ended'
  }

  // --- FLBs ----------------------------------------------------------------------------------------------------------

  flb(side: Side, name: string): ModelFlb | undefined {
    return this.flbs.find((one) => one.side === side && one.name === name)
  }

  count(side: Side, name: string): bigint {
    return this.flb(side, name)?.count ?? 0n
  }

  takeFlb(name: string): void {
    const known = this.flb('outgoing', name)
    if (known) {
      known.count += 1n
      return
    }
    this.call(`${name}.preserve`)
    this.flbs.push({ name, side: 'outgoing', data: this.next++, count: 1n, retrieved: true, failure: undefined })
  }

  /** The object. */
  get(side: Side, name: string): string {
    const known = this.flb(side, name)
    if (side === 'outgoing' && !known) throw new Refused('ENOENT')
    if (!known) throw new Refused(this.received ? 'ENOENT' : 'ENODATA')
    if (known.count === 0n) throw new Refused('ENODATA')
    this.retrieveFlb(known)
    known.count += 1n
    return `object ${known.data}`
  }

  retrieveFlb(flb: ModelFlb): void {
    if (flb.failure !== undefined) throw new Refused(flb.failure)
    if (flb.retrieved) return
    try {
      this.call(`${flb.name}.retrieve`, flb.data)
      flb.retrieved = true
    } catch (error) {
      flb.failure = (error as Refused).code
      throw error
    }
  }

  put(side: Side, name: string): void {
    const known = this.flb(side, name)
    if (side === 'outgoing') {
      if (!known) throw new Refused('LUO_WRONG_STATE')
      known.count -= 1n
      if (known.count > 0n) return
      this.flbs = this.flbs.filter((one) => one !== known)
      this.call(`${name}.unpreserve`, known.data, `object ${known.data}`)
      return
    }
    if (!known || known.count === 0n) return
    if (known.count === 1n) {
      try {
        this.retrieveFlb(known)
      } catch {
        known.count = 0n
        return
      }
    }
    known.count -= 1n
    if (known.count === 0n) this.call(`${name}.finish`, known.data, `object ${known.data}`)
  }

  // --- what can be seen ----------------------------------------------------------------------------------------------

  /** Files that the orchestrator has a reference to. */
  references(): number {
    return this.sessions.flatMap(({ files }) => files).filter(({ name }) => name !== undefined).length
  }
}

/** What `canFinish` and `finish` are told. */
function told({ name, data, failure }: ModelFile): unknown[] {
  return name === undefined ? [data, failure ?? 'no'] : [name, data, 'yes']
}

function flbsOf(letter: string): string[] {
  return letter === 'a' ? ['x', 'y'] : ['y']
}

function inodeOf(name: string): string | undefined {
  return FILES.find((file) => file.name === name)?.inode
}

function checkToken(token: string): void {
  if (!/^[0-9]+$/.test(token) || String(BigInt(token)) !== token || BigInt(token) > MAX_U64) throw new Refused('EINVAL')
}
