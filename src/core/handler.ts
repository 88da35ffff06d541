/**
 * File handlers: code for one kind of file, with the operations of the kernel's interface. The orchestrator knows files
 * (`F`) and what a handler makes of them (`D`) only as opaque values.
 *
 * An operation fails by throwing a LuoError with an errno name. `unpreserve`, `unfreeze`, `discard` and `finish` must
 * not fail.
 */
import { LuoError } from '../errors.js'

/** Bytes of a `compatible` string, as in the kernel's records. */
export const MAX_COMPATIBLE_BYTES = 47

export interface FileHandler<F, D> {
  readonly compatible: string
  /** Cheap, without side effect. The first handler that says yes gets the file. */
  canPreserve(file: F): boolean
  /** Heavy work while the workload still runs. Takes its own reference to the file. */
  preserve(file: F): D
  /** Undo of preserve. */
  unpreserve(data: D): void
  /** Last chance before the transition. */
  freeze?(data: D): void
  unfreeze?(data: D): void
  /** A new reference to the file, owned by whoever asked. */
  retrieve(data: D): F
  /** Undo of retrieve, for a file that nobody got. */
  discard?(file: F): void
  /** Whether the file may be let go of; `retrieved`: somebody has it. */
  canFinish?(data: D, retrieved: boolean): boolean
  /** Cleans up after the transition; also for a file that was never retrieved. */
  finish(data: D): void
  /** Identity for "already preserved"; the same for every reference to what may be preserved once only. */
  getId(file: F): string
}

const REQUIRED = ['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish', 'getId'] as const

export class HandlerRegistry<F, D> {
  readonly #handlers = new Map<string, FileHandler<F, D>>()

  /** EINVAL without a required operation or with a bad name, EEXIST when `compatible` is taken. */
  register(handler: FileHandler<F, D>): void {
    const { compatible } = handler
    const bytes = new TextEncoder().encode(compatible).length
    if (bytes === 0 || bytes > MAX_COMPATIBLE_BYTES) {
      throw new LuoError('EINVAL', `register handler "${compatible}": 1 to ${MAX_COMPATIBLE_BYTES} bytes are needed`)
    }
    const missing = REQUIRED.filter((operation) => typeof handler[operation] !== 'function')
    if (missing.length > 0) throw new LuoError('EINVAL', `register handler ${compatible}: no ${missing.join(', ')}`)
    if (this.#handlers.has(compatible)) throw new LuoError('EEXIST', `register handler ${compatible}: it is there`)
    this.#handlers.set(compatible, handler)
  }

  /** The first, in order of registration, that takes the file; undefined when none does. */
  find(file: F): FileHandler<F, D> | undefined {
    for (const handler of this.#handlers.values()) if (handler.canPreserve(file)) return handler
    return undefined
  }

  get(compatible: string): FileHandler<F, D> | undefined {
    return this.#handlers.get(compatible)
  }
}
