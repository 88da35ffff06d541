/**
 * Files with code that runs inside luod: they are refused where anybody other than root and luod's own user could put
 * other code. Every directory on the way, every link and the file itself must be theirs, and not writable by others.
 */
import { lstatSync, readlinkSync, type Stats } from 'node:fs'
import { dirname, isAbsolute, resolve } from 'node:path'

const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000
/** As many as the kernel follows. */
const MAX_LINKS = 40

/** Makes the error that is thrown: `why` is a sentence without its end. */
export type Refuse = (why: string, cause?: unknown) => Error

/** The file that `path` leads to, when nobody but root and `uid` could make it another. */
export function trustedFile(path: string, uid: number, refuse: Refuse): string {
  if (!isAbsolute(path) || path.includes('\0')) throw refuse('give its absolute path')
  const rest = steps(path)
  let links = 0
  let at = '/'
  checkOwner(at, look(at, refuse), uid, refuse)
  for (let step = rest.shift(); step !== undefined; step = rest.shift()) {
    if (step === '..') {
      at = dirname(at)
      continue
    }
    const next = resolve(at, step)
    const stat = look(next, refuse)
    checkOwner(next, stat, uid, refuse)
    if (!stat.isSymbolicLink()) {
      if (rest.length > 0 && !stat.isDirectory()) throw refuse(`${next} is no directory`)
      if (rest.length === 0 && !stat.isFile()) throw refuse(`${next} is no file`)
      at = next
      continue
    }
    links += 1
    if (links > MAX_LINKS) throw refuse('its links go round in a circle')
    const target = readlinkSync(next)
    rest.unshift(...steps(target))
    if (isAbsolute(target)) at = '/'
  }
  return at
}

function steps(path: string): string[] {
  return path.split('/').filter((step) => step !== '' && step !== '.')
}

function look(at: string, refuse: Refuse): Stats {
  try {
    return lstatSync(at)
  } catch (error) {
    throw refuse(`${at} cannot be looked at: ${(error as NodeJS.ErrnoException).code}`, error)
  }
}

function checkOwner(at: string, stat: Stats, uid: number, refuse: Refuse): void {
  if (stat.uid !== 0 && stat.uid !== uid) throw refuse(`${at} belongs to uid ${stat.uid}: chown it to root`)
  // Of a link its owner counts; in a sticky directory such as /tmp nobody can replace what is not theirs.
  if (stat.isSymbolicLink() || (stat.isDirectory() && (stat.mode & STICKY) !== 0)) return
  if ((stat.mode & WRITABLE_BY_OTHERS) !== 0) throw refuse(`others can write to ${at}: chmod go-w it`)
}
