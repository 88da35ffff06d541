/**
 * File handlers that keep a file by reference: luod holds a descriptor of the same open file. That is enough for every
 * change of code on a running kernel, for every kind whose state is in the open file itself. Which kinds these are, and
 * why the others are refused, says the table in kinds.ts.
 */
import { type FileHandler, HandlerRegistry } from '../core/handler.js'
import { LuoError } from '../errors.js'
import type { HeldFile } from './held-file.js'
import { KEPT_KINDS, type KeptFileKind, type KeptKind, REFUSED_KINDS } from './kinds.js'
import { FileSlots } from './slots.js'

export interface ReferenceOptions {
  /** Whether a file is one of luod's own: a session descriptor, a connection to luod. Asked of Unix sockets only. */
  isOwn?: (file: HeldFile) => boolean
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

export function registerReferenceHandlers(
  registry: HandlerRegistry<HeldFile>,
  slots: FileSlots,
  { isOwn = nobodys }: ReferenceOptions = {},
): void {
  for (const kind of Object.keys(KEPT_KINDS)) {
    registry.register(referenceHandler(kind as KeptFileKind, slots, isOwn))
  }
  registry.explainRefusals((file) => {
    const { kind } = file.info
    if (kind === 'unix' && isOwn(file)) return REFUSED_KINDS.luod.reason
    return kind in REFUSED_KINDS ? REFUSED_KINDS[kind as keyof typeof REFUSED_KINDS].reason : undefined
  })
}

/** The handlers of a luod that hands nothing over. */
export function referenceHandlers(options: ReferenceOptions = {}): HandlerRegistry<HeldFile> {
  const registry = new HandlerRegistry<HeldFile>()
  registerReferenceHandlers(registry, new FileSlots(), options)
  return registry
}
