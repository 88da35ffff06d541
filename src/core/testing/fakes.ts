/**
 * Open files, handlers and FLBs for the tests of core. They write down what is asked of them, fail where they are told
 * to, and notice what must never be: a reference that is used or closed after it was closed.
 */
import { LuoError } from '../../errors.js'
import type { Flb, KeptFlb } from '../flb.js'
import type { FileHandler, Finishing, Kept } from '../handler.js'
import type { FileAccess } from '../identity.js'

/** What was called, in order, and which call is to fail. */
export class Journal {
  readonly calls: string[] = []
  /** Uses of the interface that are never right. */
  readonly broken: string[] = []
  readonly #faults = new Map<string, { left: number; error: unknown }>()

  /** The `nth` next call of `operation` ("a.preserve") throws `error`. */
  failAt(operation: string, nth = 1, error: unknown = new LuoError('EIO', `${operation} was told to fail`)): void {
    this.#faults.set(operation, { left: nth, error })
  }

  heal(): void {
    this.#faults.clear()
  }

  /** What was called since this was asked last. */
  take(): string[] {
    return this.calls.splice(0)
  }

  did(operation: string, ...about: unknown[]): void {
    this.calls.push([operation, ...about].join(' '))
    const fault = this.#faults.get(operation)
    if (!fault) return
    fault.left -= 1
    if (fault.left > 0) return
    this.#faults.delete(operation)
    throw fault.error
  }
}

export interface OpenFile {
  readonly name: string
  /** Several open files may have one. */
  readonly inode: string
  readonly serial: number
}

/** A reference to an open file. */
export interface FakeFile {
  readonly open: OpenFile
  closed: boolean
}

export class FakeFiles implements FileAccess<FakeFile> {
  readonly #journal: Journal
  /** False: which of two open files is the greater is not known. */
  readonly #ordered: boolean
  #serial = 0
  /** That were not closed. */
  references = 0
  comparisons = 0

  constructor(journal: Journal, options: { ordered?: boolean } = {}) {
    this.#journal = journal
    this.#ordered = options.ordered ?? true
  }

  open(name: string, inode = name): FakeFile {
    return this.refer({ name, inode, serial: this.#serial++ })
  }

  refer(open: OpenFile): FakeFile {
    this.references += 1
    return { open, closed: false }
  }

  duplicate(file: FakeFile): FakeFile {
    this.use(file, 'duplicate')
    this.#journal.did('duplicate', file.open.name)
    return this.refer(file.open)
  }

  close(file: FakeFile): void {
    this.letGo(file)
    this.#journal.did('close', file.open.name)
  }

  /** Closes a reference of the test itself: it is not written down. */
  letGo(file: FakeFile): void {
    this.use(file, 'close')
    file.closed = true
    this.references -= 1
  }

  key(file: FakeFile): string {
    return file.open.inode
  }

  compare(a: FakeFile, b: FakeFile): number | undefined {
    this.use(a, 'compare')
    this.use(b, 'compare')
    this.comparisons += 1
    // Not the order of opening: a tree that is not balanced would be, by chance, when the order of insertion is known.
    const order = Math.sign(scatter(a.open.serial) - scatter(b.open.serial))
    return order === 0 || this.#ordered ? order : undefined
  }

  use(file: FakeFile, action: string): void {
    if (file.closed) this.#journal.broken.push(`${action} ${file.open.name}: it was closed`)
  }
}

/** A permutation of the first 2^20 numbers. */
function scatter(serial: number): number {
  return (serial * 349_525 + 7) % 2 ** 20
}

/** What crosses a transition besides the records: open files by `data`. */
export class Memory {
  readonly files = new Map<bigint, OpenFile>()
  #next = 1n

  add(open: OpenFile): bigint {
    const data = this.#next++
    this.files.set(data, open)
    return data
  }

  next(): bigint {
    return this.#next++
  }
}

/** Added to `data` by the freeze of a handler that changes it. */
export const FROZEN = 2n ** 32n

export interface FakeHandlerOptions {
  journal: Journal
  files: FakeFiles
  memory: Memory
  /** Files whose name begins with it are taken. */
  letter: string
  compatible?: string
  /** all: freeze, unfreeze, canFinish, and the inode as identity. */
  optional: 'all' | 'none'
}

export class FakeHandler implements FileHandler<FakeFile> {
  readonly compatible: string
  readonly #options: FakeHandlerOptions
  /** The next so many times: not yet. */
  refusals = 0
  freeze?: FileHandler<FakeFile>['freeze']
  unfreeze?: FileHandler<FakeFile>['unfreeze']
  canFinish?: FileHandler<FakeFile>['canFinish']
  getId?: FileHandler<FakeFile>['getId']

  constructor(options: FakeHandlerOptions) {
    this.#options = options
    this.compatible = options.compatible ?? `${options.letter}-v1`
    if (options.optional === 'none') return
    this.freeze = (kept, file) => {
      this.#did('freeze', file, kept.data)
      return kept.data + FROZEN
    }
    this.unfreeze = (kept, file) => {
      this.#did('unfreeze', file, kept.data)
      kept.data -= FROZEN
    }
    this.canFinish = ({ data, retrieved, file }) => {
      this.#did('canFinish', file, data, retrieved)
      if (this.refusals === 0) return true
      this.refusals -= 1
      return false
    }
    this.getId = ({ open }) => open.inode
  }

  canPreserve(file: FakeFile): boolean {
    this.#did('canPreserve', file)
    return file.open.name.startsWith(this.#options.letter)
  }

  preserve(file: FakeFile): Kept {
    this.#did('preserve', file)
    return { data: this.#options.memory.add(file.open), private: file.open.name }
  }

  unpreserve({ data, private: own }: Kept, file: FakeFile): void {
    if (own !== file.open.name) this.#options.journal.broken.push(`unpreserve ${file.open.name} with ${own}`)
    this.#did('unpreserve', file, data)
    this.#options.memory.files.delete(data % FROZEN)
  }

  retrieve(data: bigint): FakeFile {
    this.#did('retrieve', undefined, data)
    const open = this.#options.memory.files.get(data % FROZEN)
    if (!open) throw new LuoError('ENOENT', `retrieve: nothing is at ${data}`)
    return this.#options.files.refer(open)
  }

  finish({ data, retrieved, file }: Finishing<FakeFile>): void {
    this.#did('finish', file, data, retrieved)
    this.#options.memory.files.delete(data % FROZEN)
  }

  #did(operation: string, file: FakeFile | undefined, ...about: unknown[]): void {
    if (file) this.#options.files.use(file, operation)
    this.#options.journal.did(`${this.#options.letter}.${operation}`, ...(file ? [file.open.name] : []), ...about)
  }
}

/** Its object is the text of its data. */
export class FakeFlb implements Flb<string> {
  readonly compatible: string
  readonly #journal: Journal
  readonly #memory: Memory

  constructor(compatible: string, journal: Journal, memory: Memory) {
    this.compatible = compatible
    this.#journal = journal
    this.#memory = memory
  }

  preserve(): KeptFlb<string> {
    this.#journal.did(`${this.compatible}.preserve`)
    const data = this.#memory.next()
    return { data, object: `object ${data}` }
  }

  unpreserve({ data, object }: KeptFlb<string>): void {
    this.#journal.did(`${this.compatible}.unpreserve`, data, object)
  }

  retrieve(data: bigint): string {
    this.#journal.did(`${this.compatible}.retrieve`, data)
    return `object ${data}`
  }

  finish({ data, object }: KeptFlb<string>): void {
    this.#journal.did(`${this.compatible}.finish`, data, object)
  }
}
