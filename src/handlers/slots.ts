/**
 * Where files that are kept by reference are while a generation changes: each has a slot, a number that is the `data`
 * of its record, and the descriptors travel beside the memory that is handed over.
 */
import { LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import type { HeldFile } from './held-file.js'

export interface SlottedFile {
  slot: bigint
  fd: Fd
}

/** Slots of addresses are apart from those that are counted. */
const BY_ADDRESS = 1n << 63n

export function slotOf(address: bigint): bigint {
  return address | BY_ADDRESS
}

export class FileSlots {
  readonly #outgoing = new Map<bigint, HeldFile>()
  readonly #incoming = new Map<bigint, Fd>()
  #next = 1n

  /** Owns the descriptors that came from the generation before. */
  constructor(received: readonly SlottedFile[] = []) {
    for (const { slot, fd } of received) this.#incoming.set(slot, fd)
  }

  /**
   * The file stays the caller's, until the slot is dropped or taken along. A handler whose `data` is an address has its
   * slot by that address (`slotOf`).
   */
  add(file: HeldFile, slot: bigint = this.#next++): bigint {
    this.#outgoing.set(slot, file)
    return slot
  }

  /** Descriptors, of what goes out and of what came in. */
  get size(): number {
    return this.#outgoing.size + this.#incoming.size
  }

  /** What came in and was not finished. The descriptors stay where they are. */
  incoming(): SlottedFile[] {
    return [...this.#incoming].map(([slot, fd]) => ({ slot, fd }))
  }

  drop(slot: bigint): void {
    this.#outgoing.delete(slot)
  }

  /**
   * Everything that is to cross. The descriptors are moved out of their files, which are closed then. A file that is
   * closed already, by a handler that has not dropped its slot, is left out.
   */
  take(): SlottedFile[] {
    const open = [...this.#outgoing].filter(([, { fd }]) => !fd.closed)
    const taken = open.map(([slot, { fd }]) => ({ slot, fd: fd.move() }))
    this.#outgoing.clear()
    return taken
  }

  /** ENOENT when no descriptor came in for this slot. */
  retrieve(slot: bigint): HeldFile {
    const received = this.#incoming.get(slot)
    if (!received)
      throw new LuoError('ENOENT', `retrieve the file in slot ${slot}: no descriptor came with the handover`)
    const fd = received.dup()
    try {
      return { fd, info: fileInfo(fd) }
    } catch (error) {
      fd.close()
      throw error
    }
  }

  /** Lets go of what came in for this slot. */
  finish(slot: bigint): void {
    this.#incoming.get(slot)?.close()
    this.#incoming.delete(slot)
  }

  /** Of what came in and was not finished. */
  close(): void {
    closeAll(this.#incoming.values())
    this.#incoming.clear()
  }
}
