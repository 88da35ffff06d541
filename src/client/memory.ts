/** Preserved memory, as an application sees it: a memory file, mapped. */
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { MAX_BUFFER_BYTES, Mapping } from '../sys/mapping.js'
import { createMemfd, fileSize } from '../sys/memfd.js'
import { checkNumbers, sizeOf } from './numbers.js'
import type { Memory, MemoryOptions } from './types.js'

/** Below this an ArrayBuffer makes no difference to V8's garbage collector. */
const LARGE_BYTES = 32 * 2 ** 20
/** The parts that are made beforehand of memory too large for one ArrayBuffer. */
const WINDOW_BYTES = 2 ** 31
/** What a collection takes, in the background, with some room. */
const COLLECT_MS = 30

export class PreservedMemory implements Memory {
  readonly name: string
  readonly format: string | undefined
  readonly max: number
  readonly fd: Fd
  readonly #mapping: Mapping
  /** Why it cannot grow now, if it cannot. */
  readonly #mayGrow: () => string | undefined

  static create(name: string, options: MemoryOptions, mayGrow: () => string | undefined): PreservedMemory {
    const size = sizeOf(name, options)
    const { max = size, format } = options
    const fd = createMemfd(`luo-${name}`.slice(0, 64), { size, overKexec: true })
    try {
      return new PreservedMemory(
        name,
        fd,
        Mapping.map(fd, { length: size, mode: 'shared', reserve: max }),
        format,
        mayGrow,
      )
    } catch (error) {
      fd.close()
      throw error
    }
  }

  /**
   * Addresses for memory of this size, made before it is handed over; undefined where that would gain nothing. Resolves
   * when the garbage collection that it causes is over.
   */
  static async reserve({ size, max = size }: MemoryOptions): Promise<Mapping | undefined> {
    if (size < LARGE_BYTES) return undefined
    const mapping = Mapping.reserve({ length: size, reserve: Math.max(size, max) })
    if (size <= MAX_BUFFER_BYTES) void mapping.buffer
    else for (let at = 0; at < size; at += WINDOW_BYTES) mapping.window(at, Math.min(WINDOW_BYTES, size - at))
    await new Promise((resolve) => setTimeout(resolve, COLLECT_MS))
    return mapping
  }

  /** Handed over: private until the commit. Owns `fd`, and `reserved`, which is used if it fits. */
  static open(
    name: string,
    fd: Fd,
    options: { format: string | undefined; max: number },
    mayGrow: () => string | undefined,
    reserved?: Mapping,
  ): PreservedMemory {
    const length = fileSize(fd)
    const reserve = Math.max(length, options.max)
    const fits = reserved?.length === length && reserved.reserve >= reserve
    if (!fits) reserved?.unmap()
    const mapping = (fits ? reserved : undefined) ?? Mapping.reserve({ length, reserve })
    try {
      mapping.attach(fd, 'private')
      return new PreservedMemory(name, fd, mapping, options.format, mayGrow)
    } catch (error) {
      mapping.unmap()
      fd.close()
      throw error
    }
  }

  private constructor(
    name: string,
    fd: Fd,
    mapping: Mapping,
    format: string | undefined,
    mayGrow: () => string | undefined,
  ) {
    this.name = name
    this.fd = fd
    this.#mapping = mapping
    this.format = format
    this.max = mapping.reserve
    this.#mayGrow = mayGrow
  }

  get size(): number {
    return this.#mapping.length
  }

  get buffer(): ArrayBuffer {
    return this.#mapping.buffer
  }

  window(offset: number, length: number): ArrayBuffer {
    checkNumbers({ offset, length })
    return this.#mapping.window(offset, length)
  }

  grow(size: number): ArrayBuffer {
    checkNumbers({ size })
    const obstacle = this.#mayGrow()
    if (obstacle !== undefined) throw new LuoError('EBUSY', `grow ${this.name} to ${size} bytes: ${obstacle}`)
    this.#mapping.grow(size)
    return this.#mapping.buffer
  }

  makePrivate(): void {
    this.#mapping.makePrivate()
  }

  makeShared(): void {
    this.#mapping.makeShared()
  }

  close(): void {
    this.#mapping.unmap()
    this.fd.close()
  }
}
