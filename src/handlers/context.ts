/** What file handlers are built with, anew for each generation. */
import type { HandoverMemory } from '../abi/handover-memory.js'
import type { HandlerRegistry } from '../core/handler.js'
import type { HeldFile } from './held-file.js'
import type { FileSlots } from './slots.js'

export interface HandlerContext {
  registry: HandlerRegistry<HeldFile>
  /** For files that are kept by reference. */
  slots: FileSlots
  /** What is handed over: a handler allocates here what crosses by value, and its `data` is the address. */
  memory: HandoverMemory
  /** What was handed over, for `retrieve` and `finish`. Empty when nothing came in. */
  received(): HandoverMemory
}
