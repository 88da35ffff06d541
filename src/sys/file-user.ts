/**
 * Doing something with files as another user, for a root that follows what that user has said: so it can do nothing
 * there that the user could not. Network privileges stay. Anybody but root does it as who they are.
 */

import type { Fd } from './fd.js'
import { checked, integer, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'

const MAX_ID = 2 ** 32 - 2
const AT_EMPTY_PATH = 0x1000

/** `run` must not wait: this is of the thread, for as long as it runs. */
export function asFileUser<T>(uid: number, gid: number, run: () => T): T {
  if (process.geteuid?.() !== 0) return run()
  integer(uid, 0, MAX_ID, 'a user')
  integer(gid, 0, MAX_ID, 'a group')
  // Each answers what held before, and says nothing of a failure: root has none.
  const before = { gid: libc('syscall', SYS.setfsgid, gid), uid: libc('syscall', SYS.setfsuid, uid) }
  try {
    return run()
  } finally {
    libc('syscall', SYS.setfsuid, before.uid)
    libc('syscall', SYS.setfsgid, before.gid)
  }
}

/** Files that are made in `run` get exactly the mode that is asked for. */
export function withoutUmask<T>(run: () => T): T {
  const before = process.umask(0)
  try {
    return run()
  } finally {
    process.umask(before)
  }
}

let empty: number | undefined

/** Of the file that an O_PATH descriptor leads to: no link is followed. */
export function changeOwner(located: Fd, uid: number, gid: number): void {
  empty ??= scratch(1).address
  checked(`give a file to ${uid}:${gid}`, 'syscall', SYS.fchownat, located.number, empty, uid, gid, AT_EMPTY_PATH)
}
