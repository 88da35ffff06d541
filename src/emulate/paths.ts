/**
 * Whether a program's path leads to the device: as the program sees it, with its working directory, its root and its
 * descriptors, through links. The device need not exist.
 */
import { LuoError } from '../errors.js'
import { hasNoLink, readLink, realPath } from '../sys/links.js'

export const DEVICE_PATH = '/dev/liveupdate'
const DEVICE_NAME = 'liveupdate'
const AT_FDCWD = -100
/** As the kernel: more links are ELOOP. */
const MAX_LINKS = 40

/**
 * `at`: the directory that a relative path starts from, as openat(2) has it. Without `follow`, a link is no way to it.
 * A path that takes the device for a directory is ENOTDIR. `path` has a character for each byte (latin1). `oneRoot`:
 * the program's root is known to be this process's.
 */
export function leadsToDevice(tid: number, at: number, path: string, { follow = true, oneRoot = false } = {}): boolean {
  if (path === '') return false
  const start = path.startsWith('/') ? '/' : directoryOf(tid, at)
  if (start === undefined) return false
  const root = (oneRoot ? undefined : readLink(`/proc/${tid}/root`)) ?? '/'
  // Nearly every path is judged here: where no link is on the way, the device must be named; where one is, and
  // something is at its end, that is not the device.
  if (!path.includes(DEVICE_NAME) && root === '/') {
    const whole = path.startsWith('/') ? path : `${start}/${path}`
    if (hasNoLink(whole)) return false
    const real = realPath(whole)
    if (real !== undefined && real !== DEVICE_PATH) return false
  }
  return resolve({ tid, start, root, path, follow }) === DEVICE_PATH
}

function directoryOf(tid: number, at: number): string | undefined {
  return readLink(at === AT_FDCWD ? `/proc/${tid}/cwd` : `/proc/${tid}/fd/${at}`)
}

interface Way {
  tid: number
  start: string
  root: string
  path: string
  follow: boolean
}

/** Name by name. What is not there is taken by its name: the device is not. */
function resolve({ tid, start, root, path, follow }: Way): string | undefined {
  const names = path.split('/').reverse()
  let at = withinRoot(start, root)
  for (let links = 0; names.length > 0; ) {
    if (at === DEVICE_PATH) throw new LuoError('ENOTDIR', `open ${path}: the device is no directory`)
    const name = names.pop()
    if (name === undefined || name === '' || name === '.') continue
    if (name === '..') {
      at = at.slice(0, at.lastIndexOf('/'))
      continue
    }
    // A program's own entry in /proc is not ours.
    const next =
      at === '/proc' && name === 'self'
        ? `/proc/${tid}`
        : at === '/proc' && name === 'thread-self'
          ? `/proc/${tid}`
          : `${at}/${name}`
    const target = next === DEVICE_PATH ? undefined : readLink(`${root === '/' ? '' : root}${next}`)
    if (target === undefined) {
      at = next
      continue
    }
    if (!follow && names.length === 0) return undefined
    links += 1
    if (links > MAX_LINKS) return undefined
    names.push(...target.split('/').reverse())
    if (target.startsWith('/')) at = ''
  }
  return at === '' ? '/' : at
}

function withinRoot(path: string, root: string): string {
  if (path === '/') return ''
  return root !== '/' && path.startsWith(`${root}/`) ? path.slice(root.length) : path
}
