/**
 * File handlers that keep a file by reference: luod holds a descriptor of the same open file. That is enough for every
 * change of code on a running kernel, for every kind whose state is in the open file itself. Which kinds these are, and
 * why the others are refused, says the table in kinds.ts.
 */
import type { FileHandler, HandlerRegistry } from '../core/handler.js'
import { LuoError } from '../errors.js'
import { type HandlerContext, standaloneContext } from './context.js'
import type { HeldFile } from './held-file.js'
import { type HugetlbPool, type HugetlbPoolOptions, hugetlbPool } from './hugetlb-pool.js'
import { KEPT_KINDS, type KeptFileKind, type KeptKind, REFUSED_KINDS } from './kinds.js'
import type { FileSlots } from './slots.js'

export interface ReferenceOptions {
  /** Whether a file is one of luod's own: a session descriptor, a connection to luod. Asked of Unix sockets only. */
  isOwn?: (file: HeldFile) => boolean
  hugetlb?: HugetlbPoolOptions
}

const nobodys = () => false

function referenceHandler(
  kind: KeptFileKind,
  slots: FileSlots,
  isOwn: (file: HeldFile) => boolean,
): FileHandler<HeldFile> {
  const { compatible, identity }: KeptKind = KEPT_KINDS[kind]
  const handler: FileHandler<HeldFile> = {
    compatible,
    canPreserve: (file) => file.info.kind === kind && !(kind === 'unix' && isOwn(file)),
    preserve: (file) => ({ data: slots.add(file) }),
    adopt: (file) => ({ data: slots.add(file) }),
    adoptsAhead: true,
    unpreserve: ({ data }) => slots.drop(data),
    retrieve: (data) => {
      const file = slots.retrieve(data)
      if (file.info.kind === kind) return file
      file.fd.close()
      throw new LuoError('EBADF', `retrieve a file of kind ${kind}: what came in is of kind ${file.info.kind}`)
    },
    finish: ({ data }) => slots.finish(data),
  }
  if (identity === 'inode') handler.getId = ({ info }) => `${info.dev}:${info.ino}`
  return handler
}

/** Files of huge pages whose holes have pages, when they are preserved and again when they are frozen. */
function withBackedHoles(handler: FileHandler<HeldFile>, { back }: HugetlbPool): FileHandler<HeldFile> {
  return {
    ...handler,
    preserve: (file) => {
      back(file)
      return handler.preserve(file)
    },
    freeze: (kept, file) => {
      back(file)
      return kept.data
    },
  }
}

export function registerReferenceHandlers(
  context: HandlerContext,
  { isOwn = nobodys, hugetlb }: ReferenceOptions = {},
): void {
  const { registry, slots } = context
  const pool = hugetlbPool(context, hugetlb)
  for (const kind of Object.keys(KEPT_KINDS) as KeptFileKind[]) {
    const handler = referenceHandler(kind, slots, isOwn)
    if (kind !== 'hugetlb') {
      registry.register(handler)
      continue
    }
    const backed = withBackedHoles(handler, pool)
    registry.register(backed)
    registry.registerFlb(backed, pool.flb)
  }
  registry.explainRefusals((file) => {
    const { kind } = file.info
    if (kind === 'unix' && isOwn(file)) return REFUSED_KINDS.luod.reason
    return kind in REFUSED_KINDS ? REFUSED_KINDS[kind as keyof typeof REFUSED_KINDS].reason : undefined
  })
}

/** These handlers alone, of a luod that hands nothing over. */
export function referenceHandlers(options: ReferenceOptions = {}): HandlerRegistry<HeldFile> {
  const context = standaloneContext()
  registerReferenceHandlers(context, options)
  return context.registry
}
