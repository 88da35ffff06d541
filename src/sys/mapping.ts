/**
 * A file mapped into memory, as ArrayBuffers. The mapping can be switched in place between private and shared: the
 * same ArrayBuffer goes on, and what was written while it was private vanishes at the switch. So a version can be let
 * loose on state that is not its own yet, or not any more, and harms nobody.
 *
 * A switch costs less than a millisecond whatever the size: the page tables are moved aside (mremap with DONTUNMAP), as
 * whole tables because both addresses are aligned to what a table covers, and the pages are given back later and in
 * small steps, away from the moment in which clients wait. Measured
 * for 2 GiB: 0.1 ms, and 120 ms where the addresses are not aligned.
 *
 * After `unmap` and after `grow` the ArrayBuffers handed out before are detached (length 0): nothing can reach memory
 * that is gone. One ArrayBuffer has 4 GiB at most on Node 20; above that use `window`.
 */
import { setFlagsFromString } from 'node:v8'
import { LuoError } from '../errors.js'
import type { Fd } from './fd.js'
import { checked, integer, koffi, libc } from './ffi.js'
import { fileSize, truncate } from './memfd.js'

const PROT_READ = 1
const PROT_WRITE = 2
const MAP_SHARED = 1
const MAP_PRIVATE = 2
const MAP_FIXED = 0x10
const MAP_ANONYMOUS = 0x20
const MAP_NORESERVE = 0x4000
const MREMAP_MAYMOVE = 1
const MREMAP_FIXED = 2
const MREMAP_DONTUNMAP = 4
export const PAGE_BYTES = 4096
/** The longest ArrayBuffer over memory that is not V8's own; one more aborts Node 20. */
export const MAX_BUFFER_BYTES = 2 ** 32 - PAGE_BYTES
/** Far more than any machine has, and it leaves room in 47 bits of addresses. */
const MAX_MAPPING_BYTES = 2 ** 45
/** What one page table of each level covers on x86-64 and arm64 with pages of 4 KiB: mremap moves such parts whole. */
const TABLE_BYTES = [2 ** 30, 2 ** 21]
/** Pages moved aside are given back after this, in the background. */
const RETURN_DELAY_MS = 1_000
/** In steps of this, each of which takes less than a millisecond, with a pause between them: requests go on. */
const RETURN_BYTES = 2 ** 24
const RETURN_PAUSE_MS = 4

export type MappingMode = 'shared' | 'private' | 'read'

export class Mapping implements Disposable {
  #fd: Fd | undefined
  readonly #reserved: number
  readonly #address: number
  #length: number
  #mode: MappingMode = 'read'
  #unmapped = false
  #buffer: ArrayBuffer | undefined
  readonly #windows = new Map<string, ArrayBuffer>()

  /**
   * Maps `length` bytes of `fd` from its start. `fd` stays the caller's and is needed by `makeShared`, `makePrivate`
   * and `grow` only. `reserve`: how far `grow` may go; addresses only, no memory.
   */
  static map(fd: Fd, options: { length: number; mode: MappingMode; reserve?: number }): Mapping {
    const mapping = Mapping.reserve(options)
    try {
      mapping.attach(fd, options.mode)
      return mapping
    } catch (error) {
      mapping.unmap()
      throw error
    }
  }

  /**
   * Addresses, and so ArrayBuffers, for a file that comes later (`attach`). Until then all that is read is zero. A
   * large ArrayBuffer makes V8 collect garbage, which is better done while nobody waits.
   */
  static reserve(options: { length: number; reserve?: number }): Mapping {
    const { length } = options
    integer(length, 1, MAX_MAPPING_BYTES, 'the length of a mapping')
    const reserve = integer(options.reserve ?? length, length, MAX_MAPPING_BYTES, 'the reserve of a mapping')
    const size = pages(reserve)
    return new Mapping(reserveAddresses(size), length, size)
  }

  private constructor(address: number, length: number, reserved: number) {
    this.#address = address
    this.#length = length
    this.#reserved = reserved
  }

  /** Puts the file where addresses were reserved. */
  attach(fd: Fd, mode: MappingMode): void {
    this.#mustBeMapped()
    mapFile(fd, this.#address, this.#length, mode)
    this.#fd = fd
    this.#mode = mode
  }

  get #file(): Fd {
    if (this.#fd) return this.#fd
    throw new LuoError('LUO_WRONG_STATE', 'use a mapping that has no file yet')
  }

  get length(): number {
    return this.#length
  }

  /** How far `grow` may go, in bytes. */
  get reserve(): number {
    return this.#reserved
  }

  get mode(): MappingMode {
    return this.#mode
  }

  get unmapped(): boolean {
    return this.#unmapped
  }

  /** All of it. LUO_UNSUPPORTED above 4 GiB: use `window`. */
  get buffer(): ArrayBuffer {
    this.#mustBeMapped()
    if (this.#length > MAX_BUFFER_BYTES) {
      throw new LuoError(
        'LUO_UNSUPPORTED',
        `the mapping has ${this.#length} bytes, and one ArrayBuffer ${MAX_BUFFER_BYTES} at most: use window()`,
      )
    }
    this.#buffer ??= koffi().view(this.#address, this.#length)
    return this.#buffer
  }

  /** A part of it; the same part again is the same ArrayBuffer. */
  window(offset: number, length: number): ArrayBuffer {
    this.#mustBeMapped()
    integer(offset, 0, this.#length - 1, 'the offset of a window')
    integer(length, 1, Math.min(this.#length - offset, MAX_BUFFER_BYTES), 'the length of a window')
    const key = `${offset}+${length}`
    let window = this.#windows.get(key)
    if (!window) {
      window = koffi().view(this.#address + offset, length)
      this.#windows.set(key, window)
    }
    return window
  }

  /** Writes are seen by nobody else from here on, and vanish at the next switch. */
  makePrivate(): void {
    this.#switch('private')
  }

  /** What the file has is what is seen, and writes go there; writes made while it was private are gone. */
  makeShared(): void {
    this.#switch('shared')
  }

  #switch(mode: MappingMode): void {
    this.#mustBeMapped()
    const file = this.#file
    if (this.#mode === mode) return
    const size = pages(this.#length)
    const aside = reserveAddresses(size)
    const flags = MREMAP_MAYMOVE | MREMAP_FIXED
    const moved = libc('mremap', this.#address, size, size, flags | MREMAP_DONTUNMAP, aside) !== -1
    // Where the kernel cannot move it (before 5.13), the mapping below replaces the pages at their full price. The
    // addresses aside are forgotten then: the kernel may have given them to another thread already.
    try {
      mapFile(file, this.#address, this.#length, mode)
    } catch (error) {
      // Back to where they were, with what was written to them.
      if (moved) libc('mremap', aside, size, size, flags, this.#address)
      throw error
    }
    this.#mode = mode
    if (moved) giveBack(aside, size, RETURN_DELAY_MS)
  }

  /** Makes file and mapping longer, up to the reserve. ArrayBuffers handed out before are detached. */
  grow(length: number): void {
    this.#mustBeMapped()
    if (this.#mode === 'read') throw new LuoError('EACCES', 'grow a mapping that is only for reading')
    integer(length, this.#length, this.#reserved, 'the new length of a mapping')
    // Somebody else who has mapped it may have made it longer still.
    const file = this.#file
    if (fileSize(file) < length) truncate(file, length)
    // The last page stays, whole or not: it may hold private writes.
    const kept = pages(this.#length)
    if (length > kept) mapFile(file, this.#address + kept, length - kept, this.#mode, kept)
    this.#length = length
    this.#detachAll()
  }

  /** Gives the memory back and detaches every ArrayBuffer; again does nothing. */
  unmap(): void {
    if (this.#unmapped) return
    this.#unmapped = true
    this.#detachAll()
    libc('munmap', this.#address, this.#reserved)
  }

  [Symbol.dispose](): void {
    this.unmap()
  }

  #detachAll(): void {
    for (const buffer of [this.#buffer, ...this.#windows.values()]) if (buffer) detach(buffer)
    this.#buffer = undefined
    this.#windows.clear()
  }

  #mustBeMapped(): void {
    if (this.#unmapped) throw new LuoError('EFAULT', 'use a mapping that was unmapped before')
  }
}

/** Addresses that all read as zero and take no memory, aligned so that their page tables can be moved whole. */
function reserveAddresses(size: number): number {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
  const alignment = TABLE_BYTES.find((bytes) => bytes <= size) ?? 0
  const room = size + alignment
  const start = checked(`reserve ${room} bytes of addresses`, 'mmap', 0, room, PROT_READ, flags, -1, 0)
  if (alignment === 0) return start
  const address = Math.ceil(start / alignment) * alignment
  if (address > start) libc('munmap', start, address - start)
  if (address < start + alignment) libc('munmap', address + size, start + alignment - address)
  return address
}

/** Step by step from the end. The first step comes after `delayMs`; what is left when the process ends goes with it. */
function giveBack(address: number, size: number, delayMs: number): void {
  const next = () => {
    const rest = Math.max(0, size - RETURN_BYTES)
    libc('munmap', address + rest, size - rest)
    if (rest > 0) giveBack(address, rest, RETURN_PAUSE_MS)
  }
  setTimeout(next, delayMs).unref()
}

/** Over whatever is at `address`, in one step. */
function mapFile(fd: Fd, address: number, length: number, mode: MappingMode, offset = 0): void {
  const protection = mode === 'read' ? PROT_READ : PROT_READ | PROT_WRITE
  const flags = MAP_FIXED | (mode === 'private' ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED)
  checked(`map ${length} bytes (${mode})`, 'mmap', address, length, protection, flags, fd.number, offset)
}

function pages(length: number): number {
  return Math.ceil(length / PAGE_BYTES) * PAGE_BYTES
}

type Transferable = ArrayBuffer & { transfer?: () => ArrayBuffer }
let detached = 0

/**
 * structuredClone copies a buffer over foreign memory instead of detaching it. ArrayBuffer.prototype.transfer detaches
 * it, where there is one; Node 20 has V8's own intrinsic only.
 */
function detach(buffer: Transferable): void {
  if (typeof buffer.transfer === 'function') {
    buffer.transfer()
    return
  }
  setFlagsFromString('--allow-natives-syntax')
  try {
    // Made each time: the code of a function that is not called for some garbage collections is forgotten, and compiled
    // again when it is, which fails without the flag. Each has a text of its own, so that the engine knows none of them
    // when others come with it.
    const nativeDetach = new Function('buffer', `%ArrayBufferDetach(buffer) // ${detached++}`)
    nativeDetach(buffer)
  } finally {
    setFlagsFromString('--no-allow-natives-syntax')
  }
}

/** Anonymous memory for the arguments of system calls, at a fixed address for the life of the process. */
export function scratch(bytes: number): { address: number; buffer: ArrayBuffer } {
  const size = pages(integer(bytes, 1, MAX_MAPPING_BYTES, 'scratch memory'))
  const flags = MAP_PRIVATE | MAP_ANONYMOUS
  const address = checked(`map ${size} bytes`, 'mmap', 0, size, PROT_READ | PROT_WRITE, flags, -1, 0)
  return { address, buffer: koffi().view(address, size) }
}
