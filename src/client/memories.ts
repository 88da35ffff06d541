/**
 * The memory of a workload, by name, and new memory until it takes the place of what it was made beside. While a
 * version does not own the state its memory is private: what it writes vanishes.
 */
import { getSeals } from '../sys/memfd.js'
import type { Resource } from './manifest.js'
import { PreservedMemory } from './memory.js'
import type { Resources } from './resources.js'
import type { MemoryOptions } from './types.js'

export class Memories {
  readonly #resources: Resources
  /** Asked before memory grows. */
  readonly #whyNotGrow: () => string | undefined
  readonly #all = new Map<string, PreservedMemory>()
  readonly #replacing = new Map<string, PreservedMemory>()

  constructor(resources: Resources, whyNotGrow: () => string | undefined) {
    this.#resources = resources
    this.#whyNotGrow = whyNotGrow
  }

  find(name: string): PreservedMemory | undefined {
    return this.#replacing.get(name) ?? this.#all.get(name)
  }

  /** What was handed over, in the place that was reserved for it, or new memory. */
  open(
    name: string,
    options: MemoryOptions,
    reserved: Awaited<ReturnType<typeof PreservedMemory.reserve>> | undefined,
  ): { memory: PreservedMemory; isNew: boolean } {
    const handed = this.#resources.take('memory', name)
    if (!handed) reserved?.unmap()
    const memory = handed
      ? PreservedMemory.open(name, handed.fd, asHanded(handed.resource, options), this.#whyNotGrow, reserved)
      : PreservedMemory.create(name, options, this.#whyNotGrow)
    this.#all.set(name, memory)
    return { memory, isNew: !handed }
  }

  /** Takes the place of memory of the same name with `replaceNow`. */
  replace(name: string, options: MemoryOptions): PreservedMemory {
    const made = PreservedMemory.create(name, options, this.#whyNotGrow)
    this.#replacing.set(name, made)
    return made
  }

  async replaceNow(): Promise<void> {
    for (const [name, made] of this.#replacing) {
      const old = this.#all.get(name)
      this.#all.set(name, made)
      await this.#resources.replace(memoryResource(made), made.fd)
      old?.close()
    }
    this.#replacing.clear()
  }

  makeShared(): void {
    for (const memory of this.#all.values()) memory.makeShared()
  }

  makePrivate(): void {
    for (const memory of this.#all.values()) memory.makePrivate()
  }

  /** The kernel gives back what may not be executed as what may not be written (`createMemfd`). */
  warnOfReadOnly(): void {
    for (const { name, fd } of this.#all.values()) {
      if (!getSeals(fd).has('exec')) continue
      const why = 'vm.memfd_noexec=2 was set when it was made'
      process.emitWarning(`memory ${name} will be read-only after the kexec: ${why}`)
    }
  }
}

export function memoryResource(memory: PreservedMemory): Omit<Resource, 'token'> {
  const { name, max, format } = memory
  return { name, kind: 'memory', max, ...(format === undefined ? {} : { format }) }
}

function asHanded(resource: Resource, options: MemoryOptions): { format: string | undefined; max: number } {
  return { format: resource.format, max: Math.max(resource.max ?? 0, options.max ?? 0) }
}
