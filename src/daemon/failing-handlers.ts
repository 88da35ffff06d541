/**
 * Handlers that fail on purpose, for `luoctl emulate --fail OPERATION:ERRNO[@N|@token=T]`: every call of the operation
 * fails, or the Nth one since the program was started, or that for the file of one token. Nothing is left to chance.
 *
 * `finish` is refused before anything is finished; `deserialize` is what happens when a device is first opened, and
 * then every open is EIO. What cannot be read is LUO_INVALID_PARAMETER.
 */
import { constants } from 'node:os'
import { parseU64 } from '../abi/bytes.js'
import type { FileHandler } from '../core/handler.js'
import { type ErrnoName, LuoError } from '../errors.js'
import type { HeldFile } from '../handlers/held-file.js'

const OPERATIONS = ['preserve', 'freeze', 'retrieve', 'finish', 'deserialize'] as const
export type FailingOperation = (typeof OPERATIONS)[number]

/** Faults of one machine. */
const MAX_FAULTS = 64
const FAULT = /^([a-z]+):(E[A-Z0-9]+)(?:@([1-9]\d{0,8})|@token=(\d+|0x[0-9a-fA-F]{1,16}))?$/

export interface Fault {
  operation: FailingOperation
  errno: ErrnoName
  /** Only this call of the operation, the first is 1. */
  nth?: number
  token?: bigint
}

export function parseFaults(texts: readonly string[]): Fault[] {
  if (texts.length <= MAX_FAULTS) return texts.map(parseFault)
  throw invalid(`fail: ${texts.length} faults, and ${MAX_FAULTS} are the most`)
}

function parseFault(text: string): Fault {
  const [, word, errno = '', nth, token] = FAULT.exec(text) ?? []
  const operation = OPERATIONS.find((known) => known === word)
  if (!operation || !(errno in constants.errno)) {
    const forms = 'OPERATION:ERRNO, OPERATION:ERRNO@N or OPERATION:ERRNO@token=T'
    throw invalid(`fail "${text}": write ${forms}, such as preserve:ENOMEM@3; operations are ${OPERATIONS.join(', ')}`)
  }
  if (operation === 'deserialize' && token !== undefined) throw invalid(`fail "${text}": deserialize knows no token`)
  return {
    operation,
    errno: errno as ErrnoName,
    ...(nth === undefined ? {} : { nth: Number(nth) }),
    ...(token === undefined ? {} : { token: parseU64(String(BigInt(token)), 'the token of a fault') }),
  }
}

function invalid(message: string): LuoError {
  return new LuoError('LUO_INVALID_PARAMETER', message, { params: { parameter: 'fail' } })
}

export interface SavedFaults {
  faults: readonly Fault[]
  calls: [FailingOperation, number][]
}

export class Faults {
  #faults: readonly Fault[] = []
  readonly #calls = new Map<FailingOperation, number>()
  readonly #tokens = new WeakMap<HeldFile, bigint>()
  /** Of the request that is being answered; handlers are not told. */
  #token: bigint | undefined

  /** These from here on, and the calls are counted anew. */
  set(faults: readonly Fault[]): void {
    this.#faults = faults
    this.#calls.clear()
  }

  /** As they are, with the calls that were counted. */
  save(): SavedFaults {
    return { faults: this.#faults, calls: [...this.#calls] }
  }

  restore({ faults, calls }: SavedFaults): void {
    this.set(faults)
    for (const [operation, count] of calls) this.#calls.set(operation, count)
  }

  /** A file of this token, that was preserved or retrieved before. */
  know(file: HeldFile, token: bigint): void {
    this.#tokens.set(file, token)
  }

  /** Runs a preserve or a retrieve of this token. */
  during<T>(token: bigint, run: () => T): T {
    this.#token = token
    try {
      return run()
    } finally {
      this.#token = undefined
    }
  }

  /** Counts the call; throws when it is to fail. */
  check(operation: FailingOperation, token?: bigint): void {
    const count = (this.#calls.get(operation) ?? 0) + 1
    this.#calls.set(operation, count)
    const fault = this.#faults.find(
      (each) =>
        each.operation === operation &&
        (each.nth === undefined || each.nth === count) &&
        (each.token === undefined || each.token === token),
    )
    if (fault) throw new LuoError(fault.errno, `${operation}: it was asked to fail`)
  }

  wrap(handler: FileHandler<HeldFile>): FileHandler<HeldFile> {
    return {
      ...handler,
      preserve: (file) => {
        this.check('preserve', this.#token)
        const kept = handler.preserve(file)
        if (this.#token !== undefined) this.#tokens.set(file, this.#token)
        return kept
      },
      freeze: (kept, file) => {
        this.check('freeze', this.#tokens.get(file))
        return handler.freeze?.(kept, file)
      },
      retrieve: (data) => {
        this.check('retrieve', this.#token)
        const file = handler.retrieve(data)
        if (this.#token !== undefined) this.#tokens.set(file, this.#token)
        return file
      },
      canFinish: (finishing) => {
        this.check('finish', finishing.file && this.#tokens.get(finishing.file))
        return handler.canFinish?.(finishing) ?? true
      },
    }
  }
}
