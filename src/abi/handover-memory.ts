/**
 * Memory that crosses an emulated kexec: the userspace counterpart of what the kernel's KHO preserves. An address is
 * an offset into the image that the next generation gets, and 0 means none, as in the kernel: page 0 is the image's
 * header. Allocations start on a page, as the kernel's do.
 *
 * An address that leads nowhere is LUO_RECORDS: it came from a record. Too much memory is ENOMEM. Neither changes
 * anything. The room of a freed allocation is used again for one of as many pages; nothing is ever split or moved, so
 * the list of all room is in order by itself, and every operation takes the logarithm of its length at most.
 */
import { LuoError } from '../errors.js'
import { damaged, hex, PAGE_BYTES } from './bytes.js'

export interface MemoryLimits {
  /** Bytes of all allocations together. */
  bytes: number
  allocations: number
}

export const DEFAULT_LIMITS: MemoryLimits = { bytes: 4 * 2 ** 30, allocations: 2 ** 21 }

export interface Allocation {
  address: bigint
  bytes: Uint8Array
}

interface Room {
  readonly start: number
  readonly pages: number
  /** undefined while it is free. */
  bytes: Uint8Array | undefined
}

export class HandoverMemory {
  readonly #limits: MemoryLimits
  /** In the order of their addresses. */
  #rooms: Room[] = []
  /** Free rooms by their number of pages. */
  #free = new Map<number, Room[]>()
  #end = PAGE_BYTES
  #allocations = 0
  #bytes = 0

  constructor(limits: Partial<MemoryLimits> = {}) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits }
  }

  /**
   * The memory with these allocations, whose bytes become its own; LUO_RECORDS when they overlap or are not in order.
   */
  static restore(allocations: Iterable<Allocation>, limits: Partial<MemoryLimits> = {}): HandoverMemory {
    const memory = new HandoverMemory(limits)
    for (const { address, bytes } of allocations) {
      if (address < memory.end || address % BigInt(PAGE_BYTES) !== 0n || address > Number.MAX_SAFE_INTEGER) {
        throw damaged(`the allocation at ${hex(address)}`, 'it overlaps another, or does not start on a page')
      }
      memory.#checkLimits(bytes.length)
      memory.#append(Number(address), bytes)
    }
    return memory
  }

  /** How many allocations there are. */
  get allocations(): number {
    return this.#allocations
  }

  /** Bytes of all allocations together. */
  get bytes(): number {
    return this.#bytes
  }

  /** The first address behind every allocation, on a page. */
  get end(): bigint {
    return BigInt(this.#end)
  }

  /** Room with a copy of `bytes`. ENOMEM over a limit, EINVAL for nothing. */
  allocate(bytes: Uint8Array): bigint {
    this.#checkLimits(bytes.length)
    // Not slice: that of a Buffer is no copy.
    const copy = new Uint8Array(bytes)
    const room = this.#free.get(pagesFor(copy.length))?.pop()
    if (!room) return this.#append(this.#end, copy)
    room.bytes = copy
    this.#count(1, copy.length)
    return BigInt(room.start)
  }

  /** All allocations that `build` makes, or none when it throws. */
  transaction<T>(build: (allocate: (bytes: Uint8Array) => bigint) => T): T {
    const made: bigint[] = []
    try {
      return build((bytes) => {
        const address = this.allocate(bytes)
        made.push(address)
        return address
      })
    } catch (error) {
      for (const address of made.reverse()) this.free(address)
      throw error
    }
  }

  /** A copy of `length` bytes, which must be in one allocation. */
  read(address: bigint, length: number): Uint8Array {
    const { bytes, offset } = this.#find('read', address, length)
    return new Uint8Array(bytes.subarray(offset, offset + length))
  }

  /** Overwrites a part of one allocation. */
  write(address: bigint, bytes: Uint8Array): void {
    const found = this.#find('write', address, bytes.length)
    found.bytes.set(bytes, found.offset)
  }

  /** How many bytes the allocation has that starts at `address`. */
  sizeOf(address: bigint): number {
    return this.#starting('ask the size of', address).bytes.length
  }

  /** Frees the allocation that starts at `address`. */
  free(address: bigint): void {
    const { room, bytes } = this.#starting('free', address)
    room.bytes = undefined
    this.#count(-1, -bytes.length)
    if (this.#allocations === 0) {
      this.#rooms = []
      this.#free = new Map()
      this.#end = PAGE_BYTES
      return
    }
    const free = this.#free.get(room.pages)
    if (free) free.push(room)
    else this.#free.set(room.pages, [room])
  }

  /** Frees all of these allocations, or none when one of them is not there. */
  freeAll(addresses: ReadonlySet<bigint>): void {
    for (const address of addresses) this.#starting('free', address)
    for (const address of addresses) this.free(address)
  }

  /** Every allocation in the order of addresses; the bytes are its own, not copies. */
  *entries(): Generator<Allocation> {
    for (const { start, bytes } of this.#rooms) {
      if (bytes) yield { address: BigInt(start), bytes }
    }
  }

  #append(start: number, bytes: Uint8Array): bigint {
    const pages = pagesFor(bytes.length)
    this.#rooms.push({ start, pages, bytes })
    this.#end = start + pages * PAGE_BYTES
    this.#count(1, bytes.length)
    return BigInt(start)
  }

  #count(allocations: number, bytes: number): void {
    this.#allocations += allocations
    this.#bytes += bytes
  }

  #checkLimits(length: number): void {
    if (length === 0) throw new LuoError('EINVAL', 'allocate handover memory: nothing to hold')
    const { bytes, allocations } = this.#limits
    if (this.#bytes + length <= bytes && this.#allocations < allocations) return
    throw new LuoError(
      'ENOMEM',
      `allocate ${length} bytes of handover memory: ${this.#bytes} bytes in ${this.#allocations} allocations are there, ` +
        `and ${bytes} bytes in ${allocations} are allowed`,
    )
  }

  #starting(action: string, address: bigint): { room: Room; bytes: Uint8Array } {
    const { room, bytes, offset } = this.#find(action, address, 0)
    if (offset === 0) return { room, bytes }
    throw new LuoError('LUO_RECORDS', `${action} handover memory at ${hex(address)}: no allocation starts there`)
  }

  #find(action: string, address: bigint, length: number): { room: Room; bytes: Uint8Array; offset: number } {
    const room = this.#roomBefore(address)
    const offset = room ? Number(address) - room.start : 0
    if (room?.bytes && length >= 0 && offset + length <= room.bytes.length) return { room, bytes: room.bytes, offset }
    throw new LuoError(
      'LUO_RECORDS',
      `${action} handover memory, ${length} bytes at ${hex(address)}: they are not in one allocation`,
    )
  }

  /** The last room that starts at or before `address`. */
  #roomBefore(address: bigint): Room | undefined {
    let low = 0
    let high = this.#rooms.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (BigInt(this.#rooms[middle]?.start ?? 0) <= address) low = middle + 1
      else high = middle
    }
    return this.#rooms[low - 1]
  }
}

function pagesFor(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES)
}
