/**
 * Listening at a path as the only one: a lock beside the socket keeps others away for as long as this process runs, and
 * what a killed one left behind is replaced. EADDRINUSE when one is alive, EEXIST when what is there is no socket.
 */
import { lstatSync, rmSync } from 'node:fs'
import { isLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { lockFile } from '../sys/lock.js'
import { connectUnix, listenUnix } from '../sys/unix.js'

/** Keeps others away from `path` for as long as a copy of the descriptor is open. EADDRINUSE when another one does. */
export function lockSocket(path: string): Fd {
  try {
    return lockFile(`${path}.lock`)
  } catch (error) {
    if (!isLuoError(error, 'EBUSY')) throw error
    throw new LuoError('EADDRINUSE', `another luod listens at ${path} already`, { cause: error })
  }
}

export function listenAlone(path: string, mode: number): { listener: Fd; lock: Fd } {
  // Before a lock is left beside somebody's file.
  mustBeSocket(path)
  // Between looking at a stale socket and replacing it nobody else can come.
  const lock = lockSocket(path)
  try {
    if (mustBeSocket(path)) {
      if (somebodyListens(path)) throw new LuoError('EADDRINUSE', `another program listens at ${path} already`)
      rmSync(path)
    }
    return { listener: listenUnix(path, mode), lock }
  } catch (error) {
    lock.close()
    throw error
  }
}

/** Whether it is there; EEXIST when it is something else. */
function mustBeSocket(path: string): boolean {
  const there = lstatSync(path, { throwIfNoEntry: false })
  if (there && !there.isSocket()) throw new LuoError('EEXIST', `listen at ${path}: it is there, and is no socket`)
  return there !== undefined
}

/** Of a program that is no luod, or does not know of the lock. */
function somebodyListens(path: string): boolean {
  try {
    connectUnix(path).close()
    return true
  } catch (error) {
    return !isLuoError(error, 'ECONNREFUSED')
  }
}
