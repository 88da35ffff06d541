/** A lock on a file that ends with its holder, however it ends. */
import { openSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { errno, failure, libc } from './ffi.js'

const LOCK_EX = 2
const LOCK_NB = 4

/** Takes the lock, or throws EBUSY when somebody has it. The file is made if it is not there, and stays. */
export function lockFile(path: string): Fd {
  const fd = Fd.adopt(openSync(path, 'a', 0o600))
  if (libc('flock', fd.number, LOCK_EX | LOCK_NB) === 0) return fd
  const code = errno()
  fd.close()
  if (code === 'EAGAIN') throw new LuoError('EBUSY', `lock ${path}: another process has it`)
  throw failure(`lock ${path}`, code)
}
