/**
 * Loads plug-ins: ES modules that only the operator chooses, since they run inside luod, and that nobody else can
 * replace (`sys/trusted-file.ts`). What a plug-in imports is looked at by nobody: keep it beside it.
 *
 * All failures are LUO_PLUGIN, and luod does not start then.
 */
import { pathToFileURL } from 'node:url'
import { LuoError } from '../errors.js'
import { trustedFile } from '../sys/trusted-file.js'
import type { Register } from './index.js'

export interface Plugin {
  /** As the operator gave it. */
  readonly path: string
  readonly register: Register
}

export async function loadPlugin(path: string, uid: number = process.geteuid?.() ?? 0): Promise<Plugin> {
  const module = trustedFile(path, uid, (why, cause) => refused(path, why, cause))
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
