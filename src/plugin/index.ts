/**
 * `liveupdate/plugin`: what a plug-in of luod is written against. Types only: everything that a plug-in needs at run
 * time comes with its context, so that it works with whichever copy of this package luod is.
 *
 * A plug-in is an ES module that exports `register`. docs/plugins.md has the contract of every operation, and
 * examples/plugin a complete one.
 */
import type { HandoverMemory } from '../abi/handover-memory.js'
import type { Flb } from '../core/flb.js'
import type { Finishing as CoreFinishing, FileHandler as CoreHandler } from '../core/handler.js'
import type { HeldFile } from '../handlers/held-file.js'
import type { FileSlots } from '../handlers/slots.js'

export type { Flb, KeptFlb } from '../core/flb.js'
export type { Kept } from '../core/handler.js'
export type { HeldFile } from '../handlers/held-file.js'
export type { Fd } from '../sys/fd.js'
export type { FileInfo, FileKind } from '../sys/file-info.js'

export type FileHandler = CoreHandler<HeldFile>
export type Finishing = CoreFinishing<HeldFile>

/** What the module exports. Called once for each generation, before the built-in handlers are registered. */
export type Register = (registry: PluginRegistry, context: PluginContext) => void

export interface PluginRegistry {
  /** EINVAL without a required operation, EEXIST when `compatible` is taken. Earlier handlers are asked first. */
  register(handler: FileHandler): void
  /**
   * Files of `handler` depend on `flb`. ENOENT before the handler is registered, EEXIST when it has this one already.
   */
  registerFlb<O>(handler: FileHandler, flb: Flb<O>): void
}

/** Memory that crosses an emulated kexec. An address is a u64, and 0 means none. */
export type PluginMemory = Pick<HandoverMemory, 'allocate' | 'read' | 'write' | 'sizeOf' | 'free'>

export interface PluginContext {
  /** What this generation hands over: `data` of a handler or an FLB can be an address in it. */
  readonly memory: PluginMemory
  /**
   * What the generation before handed over; empty when nothing came in. Known from the first `retrieve` or `finish` on.
   */
  received(): PluginMemory
  /** Descriptors that cross beside the memory: `data` is the slot. */
  readonly slots: Pick<FileSlots, 'add' | 'drop' | 'retrieve' | 'finish'>
  /** A descriptor that the plug-in opened, for `retrieve` to answer. It is luod's from here on. */
  adopt(fd: number): HeldFile
  /** The objects of FLBs, held from `get…` to `put…`. */
  readonly flbs: {
    getOutgoing<O>(flb: Flb<O>): O
    putOutgoing<O>(flb: Flb<O>): void
    getIncoming<O>(flb: Flb<O>): O
    putIncoming<O>(flb: Flb<O>): void
  }
}
