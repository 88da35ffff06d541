/** Preserved memory, as an application sees it: a memory file, mapped. */
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { Mapping } from '../sys/mapping.js'
import { createMemfd, fileSize } from '../sys/memfd.js'
import type { Memory, MemoryOptions } from './types.js'

export class PreservedMemory implements Memory {
  readonly name: string
  readonly format: string | undefined
  readonly max: number
  readonly fd: Fd
  readonly #mapping: Mapping
  /** Why it cannot grow now, if it cannot. */
  readonly #mayGrow: () => string | undefined

  static create(name: string, options: MemoryOptions, mayGrow: () => string | undefined): PreservedMemory {
    const { size, max = size, format } = options
    const fd = createMemfd(`luo-${name}`.slice(0, 64), { size })
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

  /** Handed over: private until the commit. Owns `fd`. */
  static open(
    name: string,
    fd: Fd,
    options: { format: string | undefined; max: number },
    mayGrow: () => string | undefined,
  ): PreservedMemory {
    const length = fileSize(fd)
    const mapping = Mapping.map(fd, { length, mode: 'private', reserve: Math.max(length, options.max) })
    return new PreservedMemory(name, fd, mapping, options.format, mayGrow)
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
    return this.#mapping.window(offset, length)
  }

  grow(size: number): ArrayBuffer {
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
