/** Registers a plug-in for one generation: what it registers is guarded, and comes before what is registered later. */
import type { Flb } from '../core/flb.js'
import type { FileHandler } from '../core/handler.js'
import { LuoError } from '../errors.js'
import type { HandlerContext } from '../handlers/context.js'
import type { HeldFile } from '../handlers/held-file.js'
import { HUGETLB_POOL } from '../handlers/hugetlb-pool.js'
import { KEPT_KINDS } from '../handlers/kinds.js'
import { Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { guardFlb, guardHandler } from './guard.js'
import type { PluginContext, PluginRegistry } from './index.js'
import { type Plugin, refused } from './load.js'

/** Names of what is built in, which come after those of plug-ins. */
const TAKEN: ReadonlySet<string> = new Set([
  ...Object.values(KEPT_KINDS).map(({ compatible }) => compatible),
  HUGETLB_POOL,
])

export interface RegisterOptions {
  /** Whether a file is one of luod's own; no plug-in gets it. */
  isOwn?: (file: HeldFile) => boolean
}

/** LUO_PLUGIN when the plug-in fails at it. */
export function registerPlugin(
  { path, register }: Plugin,
  context: HandlerContext,
  { isOwn = () => false }: RegisterOptions = {},
): void {
  const handlers = new Map<FileHandler<HeldFile>, FileHandler<HeldFile>>()
  const flbs = new Map<Flb, Flb>()
  let open = true
  const check = (what: string, { compatible }: { compatible: string }) => {
    if (!open) throw refused(path, `${what} ${compatible} can be registered only while register() runs`)
    if (TAKEN.has(compatible)) throw new LuoError('EEXIST', `${what} ${compatible}: one of luod itself has this name`)
  }
  const registry: PluginRegistry = {
    register: (handler) => {
      check('handler', handler)
      const guarded = guardHandler(path, handler, isOwn)
      context.registry.register(guarded)
      handlers.set(handler, guarded)
    },
    registerFlb: (handler, flb) => {
      check('FLB', flb)
      const guarded = flbs.get(flb as Flb) ?? guardFlb(path, flb as Flb)
      context.registry.registerFlb(handlers.get(handler) ?? handler, guarded)
      flbs.set(flb as Flb, guarded)
    },
  }
  let answer: unknown
  try {
    answer = register(
      registry,
      pluginContext(context, (flb) => flbs.get(flb) ?? flb),
    )
  } catch (error) {
    throw refused(path, `register() failed: ${error instanceof Error ? error.message : String(error)}`, error)
  } finally {
    open = false
  }
  if (answer !== undefined) {
    throw refused(
      path,
      'register() must answer nothing: it is synchronous, and what takes time is done at the top level',
    )
  }
}

function pluginContext(
  { registry, slots, memory, received }: HandlerContext,
  guarded: (flb: Flb) => Flb,
): PluginContext {
  const { flbs } = registry
  return {
    memory,
    received,
    slots,
    adopt: (number) => {
      const fd = Fd.adopt(number)
      try {
        return { fd, info: fileInfo(fd) }
      } catch (error) {
        fd.close()
        throw error
      }
    },
    flbs: {
      getOutgoing: <O>(flb: Flb<O>) => flbs.getOutgoing(guarded(flb as Flb)) as O,
      putOutgoing: <O>(flb: Flb<O>) => flbs.putOutgoing(guarded(flb as Flb)),
      getIncoming: <O>(flb: Flb<O>) => flbs.getIncoming(guarded(flb as Flb)) as O,
      putIncoming: <O>(flb: Flb<O>) => flbs.putIncoming(guarded(flb as Flb)),
    },
  }
}
