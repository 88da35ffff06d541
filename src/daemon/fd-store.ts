/**
 * Copies of luod's descriptors in the service manager's store, so that a luod that is started again has them: what is
 * put into the vault goes there, under its key. `flush` resolves when the manager has taken all that went before; a
 * change must not be acknowledged before.
 *
 * The manager says nothing, also when it drops a file because its store is full. So what is stored is counted here, and
 * more than `FileDescriptorStoreMax=` is ENOSPC, before anything is sent. A manager that is gone, or does not answer in
 * time, ends this store: every later call fails with the same error, and whoever uses it says so.
 *
 * A key that gets another descriptor is stored under another name first, and the name before is removed after: at no
 * moment is there none. The manager ignores a descriptor of an open file that it has already, so one that is the same
 * inode is not stored again.
 */
import { LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { inodeKey } from '../sys/file-info.js'
import type { InheritedFile } from '../sys/listen-fds.js'
import { BARRIER_MESSAGE, NotifyChannel, storeMessage, unstoreMessage } from '../sys/notify.js'
import { Poller, type Registration } from '../sys/poller.js'
import { socketPair } from '../sys/unix.js'
import { step } from './steps.js'
import type { VaultEntry, VaultSink } from './vault.js'

/** Tells what is luod's from sockets of a socket unit. */
const PREFIX = 'luo/'
/** What is written as %XX in a name. */
const SPECIAL = /[^A-Za-z0-9/_.-]/gu
const NAME = /^luo\/([A-Za-z0-9/_.%-]+?)(?:#(\d{1,9}))?$/
/** The manager answers when it has done what all services asked before: a busy machine may take a while. */
const BARRIER_MS = 5_000

export interface FdStoreOptions {
  /** Of the manager: NOTIFY_SOCKET. */
  path: string
  /** How many the manager keeps: FDSTORE. */
  limit: number
  /** What it keeps already, and gave this process. */
  received?: ReceivedFiles | undefined
  /** How long a flush may take. Default: 5000. */
  barrierMs?: number
}

interface Stored {
  name: string
  inode: string
}

interface Message {
  text: string
  /** The vault's, which may close it as soon as it has gone; or, if it has to wait, our own. */
  fd?: Fd
  isOurs?: true
}

interface Flush {
  /** How many changes there were before it. */
  changes: number
  promise: Promise<void>
}

export class FdStore implements VaultSink {
  readonly #channel: NotifyChannel
  readonly #limit: number
  readonly #barrierMs: number
  readonly #stored = new Map<string, Stored>()
  /** Names that nobody has put again yet. */
  readonly #unclaimed = new Set<string>()
  readonly #queue: Message[] = []
  #writing: Registration | undefined
  /** The last one; all of them are in `#flushes` until they are answered. */
  #flush: Flush | undefined
  readonly #flushes = new Set<(error?: LuoError) => void>()
  #changes = 0
  /** Changes that the manager is known to have taken. */
  #done = 0
  #failed: LuoError | undefined

  /** ENOENT, ECONNREFUSED: no manager is there. */
  constructor({ path, limit, received, barrierMs = BARRIER_MS }: FdStoreOptions) {
    this.#channel = new NotifyChannel(path)
    this.#limit = limit
    this.#barrierMs = barrierMs
    try {
      for (const [key, { name, fd }] of received?.entries ?? []) {
        this.#stored.set(key, { name, inode: inodeKey(fd) })
        this.#unclaimed.add(key)
      }
    } catch (error) {
      this.#channel.close()
      throw error
    }
    for (const name of received?.outdated ?? []) this.#change({ text: unstoreMessage(name) })
  }

  /** False when it has ended: the manager may lack what has changed since. */
  get works(): boolean {
    return this.#failed === undefined
  }

  /** How many descriptors the manager keeps for us. */
  get size(): number {
    return this.#stored.size
  }

  /** What the manager calls it; undefined when it does not have it. */
  nameOf(key: string): string | undefined {
    return this.#stored.get(key)?.name
  }

  put(entries: readonly VaultEntry[]): void {
    this.#check()
    const changed = entries
      .map(({ key, fd }) => ({ key, fd, inode: inodeKey(fd), before: this.#stored.get(key) }))
      .filter(({ key, inode, before }) => {
        this.#unclaimed.delete(key)
        return before?.inode !== inode
      })
    // One that replaces another is there beside it for a moment.
    const more = changed.filter(({ before }) => !before).length + (changed.some(({ before }) => before) ? 1 : 0)
    if (this.#stored.size + more > this.#limit) {
      const what = `keep ${changed.length} more descriptors in the service manager's store`
      const why = `it has ${this.#stored.size} of ${this.#limit} at most`
      throw new LuoError('ENOSPC', `${what}: ${why}; raise FileDescriptorStoreMax=`)
    }
    for (const { key, fd, inode, before } of changed) {
      step('store.put')
      const name = before ? nextName(before.name) : firstName(key)
      this.#change({ text: storeMessage(name), fd })
      if (before) this.#change({ text: unstoreMessage(before.name) })
      this.#stored.set(key, { name, inode })
    }
  }

  remove(keys: readonly string[]): void {
    this.#check()
    for (const key of keys) {
      const stored = this.#stored.get(key)
      if (!stored) continue
      this.#stored.delete(key)
      this.#unclaimed.delete(key)
      this.#change({ text: unstoreMessage(stored.name) })
    }
  }

  /**
   * Lets go of what the process before has left and this one has not put again: no record mentions it. `first` goes
   * before all others, if it is among them.
   */
  dropUnclaimed(first?: string): void {
    if (first !== undefined && this.#unclaimed.has(first)) this.remove([first])
    this.remove([...this.#unclaimed])
  }

  /** Resolves when the manager has taken all changes until now; at once when it is known to have. */
  flush(): Promise<void> {
    if (this.#failed) return Promise.reject(this.#failed)
    if (this.#done === this.#changes) return Promise.resolve()
    if (this.#flush?.changes === this.#changes) return this.#flush.promise
    try {
      // An earlier one is answered before: the manager keeps the order.
      this.#flush = this.#startFlush()
      return this.#flush.promise
    } catch (error) {
      // Nobody would know what the manager has.
      this.#fail(asFailure(error))
      return Promise.reject(error)
    }
  }

  close(): void {
    this.#fail(new LuoError('LUO_GONE', "the service manager's store is not used any more"))
  }

  #check(): void {
    if (this.#failed) throw this.#failed
  }

  #startFlush(): Flush {
    step('store.barrier')
    const [ours, theirs] = socketPair()
    const changes = this.#changes
    let finish: (error?: LuoError) => void = () => {}
    const promise = new Promise<void>((resolve, reject) => {
      finish = (error) => (error ? reject(error) : resolve())
    })
    let registration: Registration
    try {
      registration = Poller.shared().add(ours, { read: true, write: false }, () => settle())
    } catch (error) {
      closeAll([ours, theirs])
      throw error
    }
    const late = () => new LuoError('LUO_DEADLINE', `the service manager did not answer within ${this.#barrierMs} ms`)
    const timer = setTimeout(() => this.#fail(late()), this.#barrierMs)
    const settle = (error?: LuoError) => {
      clearTimeout(timer)
      registration.close()
      ours.close()
      theirs.close()
      this.#flushes.delete(settle)
      if (!error) step('store.flushed')
      if (!error) this.#done = Math.max(this.#done, changes)
      finish(error)
    }
    this.#flushes.add(settle)
    Poller.shared().ref()
    void promise.catch(() => {}).finally(() => Poller.shared().unref())
    this.#enqueue({ text: BARRIER_MESSAGE, fd: theirs, isOurs: true })
    return { changes, promise }
  }

  #change(message: Message): void {
    this.#changes += 1
    this.#enqueue(message)
  }

  #enqueue(message: Message): void {
    if (this.#failed) return
    this.#queue.push(message)
    if (!this.#writing) this.#drain()
    const { fd, isOurs } = message
    if (!fd || isOurs || this.#queue.at(-1) !== message) return
    try {
      message.fd = fd.dup()
      message.isOurs = true
    } catch (error) {
      this.#fail(asFailure(error))
    }
  }

  /** Sends what goes now; the rest when the manager has read some of it. */
  #drain(): void {
    try {
      let sent = 0
      for (const message of this.#queue) {
        if (!this.#send(message)) break
        sent += 1
      }
      this.#queue.splice(0, sent)
      if (this.#queue.length === 0) this.#stopWriting()
      else this.#writing ??= Poller.shared().add(this.#channel.socket, WRITE, () => this.#drain())
    } catch (error) {
      this.#fail(asFailure(error))
    }
  }

  #send({ text, fd, isOurs }: Message): boolean {
    if (!this.#channel.send(text, fd ? [fd] : [])) return false
    if (isOurs) fd?.close()
    return true
  }

  #stopWriting(): void {
    this.#writing?.close()
    this.#writing = undefined
  }

  #fail(error: LuoError): void {
    if (this.#failed) return
    this.#failed = error
    this.#stopWriting()
    for (const { fd, isOurs } of this.#queue.splice(0)) if (isOurs) fd?.close()
    this.#channel.close()
    for (const settle of this.#flushes) settle(error)
  }
}

const WRITE = { read: false, write: true } as const

function asFailure(error: unknown): LuoError {
  if (error instanceof LuoError) return error
  return new LuoError('EIO', `tell the service manager: ${String(error)}`, { cause: error })
}

function firstName(key: string): string {
  return PREFIX + key.replace(SPECIAL, (character) => encoded(character))
}

/** encodeURIComponent leaves some characters as they are that a name may not hold here. */
function encoded(character: string): string {
  return [...Buffer.from(character)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
}

function nextName(name: string): string {
  const [, key = '', number = '0'] = NAME.exec(name) ?? []
  return `${PREFIX}${key}#${Number(number) + 1}`
}

export interface ReceivedFiles {
  /** By key. */
  entries: Map<string, InheritedFile>
  /** What is not of this store: sockets that the manager listens at for us. */
  others: InheritedFile[]
  /** Names in the store that a later one has replaced; their files are closed. */
  outdated: string[]
}

/** Sorts what the manager gave this process. Of two of one key the later counts. */
export function receivedFiles(files: readonly InheritedFile[]): ReceivedFiles {
  const received: ReceivedFiles = { entries: new Map(), others: [], outdated: [] }
  for (const file of files) {
    const key = keyOf(file.name)
    if (key === undefined) {
      received.others.push(file)
      continue
    }
    const before = received.entries.get(key)
    const [outdated, kept] = before && generation(before.name) > generation(file.name) ? [file, before] : [before, file]
    received.entries.set(key, kept)
    if (!outdated) continue
    closeAll([outdated.fd])
    // A name that is there twice stays: removing it would remove both.
    if (outdated.name !== kept.name) received.outdated.push(outdated.name)
  }
  return received
}

function keyOf(name: string): string | undefined {
  const encoded = NAME.exec(name)?.[1]
  if (encoded === undefined) return undefined
  try {
    return decodeURIComponent(encoded)
  } catch {
    return undefined
  }
}

function generation(name: string): number {
  return Number(NAME.exec(name)?.[2] ?? 0)
}

/** How many files the manager keeps, of its environment; 0 when it keeps none, or is older than systemd 254. */
export function storeLimit(env: Record<string, string | undefined>): number {
  const limit = Number(env.FDSTORE ?? 0)
  return Number.isSafeInteger(limit) && limit > 0 ? limit : 0
}
