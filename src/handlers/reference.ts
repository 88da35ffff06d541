/**
 * File handlers that keep a file by reference: luod holds a descriptor of the same open file. That is enough for every
 * change of code on a running kernel, for every kind whose state is in the open file itself.
 *
 * Refused, because a second holder would break them or because what they stand for belongs to one process: epoll,
 * signalfd, io_uring, character and block devices, and files that are none of the kinds known here.
 */
import type { FileHandler } from '../core/handler.js'
import { HandlerRegistry } from '../core/handler.js'
import type { Fd } from '../sys/fd.js'
import type { FileInfo, FileKind } from '../sys/file-info.js'

/** A file and what is known of it: looked at once, when it arrives. */
export interface HeldFile {
  fd: Fd
  info: FileInfo
}

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

let unidentified = 0

function referenceHandler(kind: FileKind, compatible: string): FileHandler<HeldFile, HeldFile> {
  return {
    compatible,
    canPreserve: ({ info }) => info.kind === kind,
    preserve: ({ fd, info }) => ({ fd: fd.dup(), info }),
    unpreserve: ({ fd }) => fd.close(),
    retrieve: ({ fd, info }) => ({ fd: fd.dup(), info }),
    discard: ({ fd }) => fd.close(),
    finish: ({ fd }) => fd.close(),
    // The other kinds may be preserved more than once by reference: each is one more descriptor, and harms nobody.
    getId: ({ info }) => (IDENTIFIED_BY_INODE.has(kind) ? `${info.dev}:${info.ino}` : `#${++unidentified}`),
  }
}

export function referenceHandlers(): HandlerRegistry<HeldFile, HeldFile> {
  const registry = new HandlerRegistry<HeldFile, HeldFile>()
  for (const [kind, compatible] of Object.entries(REFERENCE_KINDS)) {
    registry.register(referenceHandler(kind as FileKind, compatible))
  }
  return registry
}
