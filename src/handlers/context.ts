/** What file handlers are built with, anew for each generation. */
import { HandoverMemory } from '../abi/handover-memory.js'
import { HandlerRegistry } from '../core/handler.js'
import type { HeldFile } from './held-file.js'
import { FileSlots } from './slots.js'

export interface HandlerContext {
  registry: HandlerRegistry<HeldFile>
  /** For files that are kept by reference. */
  slots: FileSlots
  /** What is handed over: a handler allocates here what crosses by value, and its `data` is the address. */
  memory: HandoverMemory
  /** What was handed over, for `retrieve` and `finish`. Empty when nothing came in. */
  received(): HandoverMemory
}

/** Of a luod that neither got anything from another generation nor hands anything over. */
export function standaloneContext(): HandlerContext {
  const nothing = new HandoverMemory()
  return {
    registry: new HandlerRegistry(),
    slots: new FileSlots(),
    memory: new HandoverMemory(),
    received: () => nothing,
  }
}
