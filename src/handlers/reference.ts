/**
 * File handlers that keep a file by reference: luod holds a descriptor of the same open file. That is enough for every
 * change of code on a running kernel, for every kind whose state is in the open file itself.
 *
 * Refused, because a second holder would break them or because what they stand for belongs to one process: epoll,
 * signalfd, io_uring, character and block devices, and files that are none of the kinds known here.
 */
import { type FileHandler, HandlerRegistry } from '../core/handler.js'
import { LuoError } from '../errors.js'
import type { FileKind } from '../sys/file-info.js'
import type { HeldFile } from './held-file.js'
import { FileSlots } from './slots.js'

/** Kinds kept by reference, with their `compatible`. */
export const REFERENCE_KINDS: Readonly<Partial<Record<FileKind, string>>> = {
  memfd: 'memfd-ref-v1',
  shmem: 'shmem-ref-v1',
  hugetlb: 'hugetlb-ref-v1',
  tcp: 'tcp-ref-v1',
  mptcp: 'mptcp-ref-v1',
  udp: 'udp-ref-v1',
  unix: 'unix-ref-v1',
  pipe: 'pipe-ref-v1',
  fifo: 'fifo-ref-v1',
  file: 'file-ref-v1',
  directory: 'directory-ref-v1',
  eventfd: 'eventfd-ref-v1',
  timerfd: 'timerfd-ref-v1',
  inotify: 'inotify-ref-v1',
  pidfd: 'pidfd-ref-v1',
}

/** Kinds of which each inode is one object, so that it tells whether one is preserved already. */
const IDENTIFIED_BY_INODE: ReadonlySet<FileKind> = new Set(['memfd', 'shmem', 'hugetlb', 'tcp', 'mptcp', 'udp', 'unix'])

function referenceHandler(kind: FileKind, compatible: string, slots: FileSlots): FileHandler<HeldFile> {
  const handler: FileHandler<HeldFile> = {
    compatible,
    canPreserve: ({ info }) => info.kind === kind,
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
  if (IDENTIFIED_BY_INODE.has(kind)) handler.getId = ({ info }) => `${info.dev}:${info.ino}`
  return handler
}

export function registerReferenceHandlers(registry: HandlerRegistry<HeldFile>, slots: FileSlots): void {
  for (const [kind, compatible] of Object.entries(REFERENCE_KINDS)) {
    registry.register(referenceHandler(kind as FileKind, compatible, slots))
  }
}

/** The handlers of a luod that hands nothing over. */
export function referenceHandlers(): HandlerRegistry<HeldFile> {
  const registry = new HandlerRegistry<HeldFile>()
  registerReferenceHandlers(registry, new FileSlots())
  return registry
}
