/**
 * File handlers: code for one kind of file, with the operations of the kernel's interface. The orchestrator knows files
 * (`F`) and what a handler keeps for itself (`private`) only as opaque values; it keeps the references to files itself,
 * so a handler takes none.
 *
 * An operation refuses by throwing a LuoError with an errno name. `unpreserve`, `unfreeze` and `finish` must not fail:
 * what they throw is a defect, it is reported, and everything else is still let go of.
 */
import { encodeName } from '../abi/bytes.js'
import { type ErrnoName, LuoError } from '../errors.js'
import { type Flb, Flbs } from './flb.js'

/** Bytes of a `compatible` string, as in the kernel's records: 48 with the NUL. */
export const MAX_COMPATIBLE_BYTES = 47

/** What a handler made of a file. */
export interface Kept {
  /** The one word that crosses the transition: a number, or an address in the memory that is handed over. */
  data: bigint
  /** Whatever else the handler needs until the transition; it does not cross. */
  private?: unknown
}

/** An incoming file, as it is finished. */
export interface Finishing<F> {
  readonly data: bigint
  /** no: nobody asked for it. An errno name: its `retrieve` failed. */
  readonly retrieved: 'no' | 'yes' | ErrnoName
  /** What `retrieve` made; the orchestrator closes its reference after `finish`. */
  readonly file: F | undefined
}

export interface FileHandler<F> {
  /** Name and version of what it hands over: "memfd-v2". 1 to 47 bytes. */
  readonly compatible: string
  /** Cheap, without side effect. The first handler that says yes gets the file. */
  canPreserve(file: F): boolean
  /** Heavy work while the workload still runs. */
  preserve(file: F): Kept
  /**
   * An orchestrator before this one on the same kernel has preserved the file, as `data`, and this one goes on with it:
   * what `preserve` answers, without what it does to the file. Without this, `preserve` is called again.
   */
  adopt?(file: F, data: bigint): Kept
  /**
   * `adopt` and `unpreserve` change nothing but what this handler knows itself: so an orchestrator may adopt files that
   * another one still has, to be ready to go on with them, and give them back.
   */
  readonly adoptsAhead?: true
  /** Undo of preserve. */
  unpreserve(kept: Kept, file: F): void
  /** Last chance before the transition; answers `data` anew if that has changed. */
  freeze?(kept: Kept, file: F): bigint | undefined
  /** Undo of freeze. */
  unfreeze?(kept: Kept, file: F): void
  /** Builds the file from `data`, in the next generation. Called once; a failure is final. */
  retrieve(data: bigint): F
  /** False: the session cannot be finished yet. */
  canFinish?(finishing: Finishing<F>): boolean
  /** Cleans up; also for a file that was never retrieved. */
  finish(finishing: Finishing<F>): void
  /**
   * Identity for "already preserved", the same for whatever may be preserved only once: an inode, for example. Without
   * it the open file itself is its identity.
   */
  getId?(file: F): string
}

const REQUIRED = ['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish'] as const
const OPTIONAL = ['adopt', 'freeze', 'unfreeze', 'canFinish', 'getId'] as const

/** The handlers and FLBs of one generation. */
export class HandlerRegistry<F> {
  readonly flbs: Flbs
  readonly #enabled: boolean
  #reasonFor: (file: F) => string | undefined = () => undefined
  readonly #handlers = new Map<string, FileHandler<F>>()
  readonly #dependencies = new Map<FileHandler<F>, Flb[]>()

  /** `enabled: false`: live update is switched off, and nothing can be registered. */
  constructor(options: { enabled?: boolean } = {}) {
    this.#enabled = options.enabled ?? true
    this.flbs = new Flbs()
  }

  /** EOPNOTSUPP when live update is off, EINVAL without a required operation, EEXIST when `compatible` is taken. */
  register(handler: FileHandler<F>): void {
    const { compatible } = handler
    this.#mustBeEnabled(`register handler ${compatible}`)
    checkCompatible(compatible, 'handler')
    const missing = REQUIRED.filter((operation) => typeof handler[operation] !== 'function')
    const broken = OPTIONAL.filter((operation) => !['function', 'undefined'].includes(typeof handler[operation]))
    if (missing.length > 0) throw new LuoError('EINVAL', `register handler ${compatible}: no ${missing.join(', ')}`)
    if (broken.length > 0)
      throw new LuoError('EINVAL', `register handler ${compatible}: ${broken.join(', ')} cannot run`)
    if (this.#handlers.has(compatible)) throw new LuoError('EEXIST', `register handler ${compatible}: it is there`)
    this.#handlers.set(compatible, handler)
  }

  /**
   * Files of `handler` depend on `flb` from here on. ENOENT when the handler is not registered, EEXIST when it has this
   * FLB, or when another FLB has its name, EINVAL without an operation, ENOSPC when there are 63.
   */
  registerFlb<O>(handler: FileHandler<F>, flb: Flb<O>): void {
    const { compatible } = flb
    this.#mustBeEnabled(`register FLB ${compatible}`)
    checkCompatible(compatible, 'FLB')
    if (this.#handlers.get(handler.compatible) !== handler) {
      throw new LuoError('ENOENT', `register FLB ${compatible}: register its handler ${handler.compatible} first`)
    }
    const dependencies = this.#dependencies.get(handler) ?? []
    if (dependencies.includes(flb as Flb)) {
      throw new LuoError('EEXIST', `register FLB ${compatible}: handler ${handler.compatible} has it`)
    }
    this.flbs.register(flb as Flb)
    this.#dependencies.set(handler, [...dependencies, flb as Flb])
  }

  /** The first, in order of registration, that takes the file; undefined when none does. */
  find(file: F): FileHandler<F> | undefined {
    for (const handler of this.#handlers.values()) if (handler.canPreserve(file)) return handler
    return undefined
  }

  /**
   * `reasonFor`: why no handler takes a file of its kind, for the message of ENOENT; undefined when it knows nothing.
   */
  explainRefusals(reasonFor: (file: F) => string | undefined): void {
    this.#reasonFor = reasonFor
  }

  /** Why `find` has nothing for this file. */
  reasonFor(file: F): string {
    return this.#reasonFor(file) ?? 'there is no handler for this kind of file'
  }

  get(compatible: string): FileHandler<F> | undefined {
    return this.#handlers.get(compatible)
  }

  /** In order of registration. */
  flbsOf(handler: FileHandler<F>): readonly Flb[] {
    return this.#dependencies.get(handler) ?? []
  }

  #mustBeEnabled(action: string): void {
    if (!this.#enabled) throw new LuoError('EOPNOTSUPP', `${action}: live update is switched off`)
  }
}

function checkCompatible(compatible: string, what: string): void {
  const bytes = encodeName(compatible).length
  if (bytes >= 1 && bytes <= MAX_COMPATIBLE_BYTES && !compatible.includes('\0')) return
  throw new LuoError('EINVAL', `register ${what} "${compatible}": 1 to ${MAX_COMPATIBLE_BYTES} bytes, no NUL`)
}
