/** Files as the orchestrator of this machine has them: a descriptor, and what is known of it. */
import type { FileAccess } from '../core/identity.js'
import type { Fd } from '../sys/fd.js'
import { compareOpenFiles, type FileInfo } from '../sys/file-info.js'

/** Looked at once, when it arrives. */
export interface HeldFile {
  fd: Fd
  info: FileInfo
}

/** What people see of a preserved file. */
export interface FileAbout {
  /** "memfd", "tcp". */
  readonly kind: string
  /** The version of the state in it: "store/1". */
  readonly format: string | undefined
  /** When it was preserved. */
  readonly bytes: number
  /** It is for updates only: a kexec leaves it behind. */
  readonly until?: 'update' | undefined
}

export const heldFiles: FileAccess<HeldFile> = {
  duplicate: ({ fd, info }) => ({ fd: fd.dup(), info }),
  close: ({ fd }) => fd.close(),
  // Anonymous files, such as eventfds, share one inode, and pipes have one for both ends: hence the order.
  key: ({ info: { dev, ino } }) => `${dev}:${ino}`,
  compare: (a, b) => compareOpenFiles(a.fd, b.fd),
}
