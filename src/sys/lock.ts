/** A lock on a file that ends with its holder, however it ends. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { type ErrnoName, LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { errno, failure, libc } from './ffi.js'

const LOCK_EX = 2
const LOCK_NB = 4

/** A link would make a file elsewhere, and a FIFO would wait for a reader. */
const FLAGS = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK

/**
 * Takes the lock, or throws EBUSY when somebody has it. The file is made if it is not there, and stays. EPERM for what
 * another user has put there, and what is no regular file: that user could keep the lock, or lead us elsewhere.
 */
export function lockFile(path: string, uid: number = process.geteuid?.() ?? 0): Fd {
  const fd = openLock(path, uid)
  if (libc('flock', fd.number, LOCK_EX | LOCK_NB) === 0) return fd
  const code = errno()
  fd.close()
  if (code === 'EAGAIN') throw new LuoError('EBUSY', `lock ${path}: another process has it`)
  throw failure(`lock ${path}`, code)
}

function openLock(path: string, uid: number): Fd {
  let number: number
  try {
    number = openSync(path, FLAGS, 0o600)
  } catch (error) {
    const { code = 'EIO' } = error as NodeJS.ErrnoException
    const link = code === 'ELOOP' ? ', it is a link: remove it' : ''
    throw new LuoError(code as ErrnoName, `lock ${path}: ${code}${link}`, { cause: error })
  }
  const stat = fstatSync(number)
  if (stat.isFile() && (stat.uid === uid || stat.uid === 0)) return Fd.adopt(number)
  closeSync(number)
  const why = stat.isFile() ? `it belongs to uid ${stat.uid}` : 'it is no regular file'
  throw new LuoError('EPERM', `lock ${path}: ${why}: remove it`)
}
