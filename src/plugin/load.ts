/**
 * Loads plug-ins: ES modules that only the operator chooses, since they run inside luod. A path is refused where anybody
 * other than root and luod's own user could put other code: every directory on the way, every link and the module itself
 * must be theirs, and not writable by others. What a plug-in imports is looked at by nobody: keep it beside it.
 *
 * All failures are LUO_PLUGIN, and luod does not start then.
 */
import { lstatSync, readlinkSync, type Stats } from 'node:fs'
import { dirname, isAbsolute, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { LuoError } from '../errors.js'
import type { Register } from './index.js'

export interface Plugin {
  /** As the operator gave it. */
  readonly path: string
  readonly register: Register
}

const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000
/** As many as the kernel follows. */
const MAX_LINKS = 40

export async function loadPlugin(path: string, uid: number = process.geteuid?.() ?? 0): Promise<Plugin> {
  const module = trustedModule(path, uid)
  let exports: { register?: unknown }
  try {
    exports = (await import(pathToFileURL(module).href)) as { register?: unknown }
  } catch (error) {
    throw refused(path, `it cannot be loaded: ${error instanceof Error ? error.message : String(error)}`, error)
  }
  const { register } = exports
  if (typeof register !== 'function') throw refused(path, 'it exports no function "register"')
  return { path, register: register as Register }
}

export function refused(path: string, why: string, cause?: unknown): LuoError {
  return new LuoError('LUO_PLUGIN', `plug-in ${path}: ${why}`, { cause })
}

/** The file that `path` leads to, when nobody else could make it another. */
function trustedModule(path: string, uid: number): string {
  if (!isAbsolute(path) || path.includes('\0')) throw refused(path, 'give its absolute path')
  const rest = steps(path)
  let links = 0
  let at = '/'
  checkOwner(path, at, look(path, at), uid)
  for (let step = rest.shift(); step !== undefined; step = rest.shift()) {
    if (step === '..') {
      at = dirname(at)
      continue
    }
    const next = resolve(at, step)
    const stat = look(path, next)
    checkOwner(path, next, stat, uid)
    if (!stat.isSymbolicLink()) {
      if (rest.length > 0 && !stat.isDirectory()) throw refused(path, `${next} is no directory`)
      if (rest.length === 0 && !stat.isFile()) throw refused(path, `${next} is no file`)
      at = next
      continue
    }
    links += 1
    if (links > MAX_LINKS) throw refused(path, 'its links go round in a circle')
    const target = readlinkSync(next)
    rest.unshift(...steps(target))
    if (isAbsolute(target)) at = '/'
  }
  return at
}

function steps(path: string): string[] {
  return path.split('/').filter((step) => step !== '' && step !== '.')
}

function look(path: string, at: string): Stats {
  try {
    return lstatSync(at)
  } catch (error) {
    throw refused(path, `${at} cannot be looked at: ${(error as NodeJS.ErrnoException).code}`, error)
  }
}

function checkOwner(path: string, at: string, stat: Stats, uid: number): void {
  if (stat.uid !== 0 && stat.uid !== uid) throw refused(path, `${at} belongs to uid ${stat.uid}: chown it to root`)
  // Of a link its owner counts; in a sticky directory such as /tmp nobody can replace what is not theirs.
  if (stat.isSymbolicLink() || (stat.isDirectory() && (stat.mode & STICKY) !== 0)) return
  if ((stat.mode & WRITABLE_BY_OTHERS) !== 0) throw refused(path, `others can write to ${at}: chmod go-w it`)
}
