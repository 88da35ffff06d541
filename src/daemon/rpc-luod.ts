/** What is asked of luod about itself: to be replaced by another build. */
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { LuoError } from '../errors.js'
import type { Protection } from '../protocol/types.js'
import { trustedFile } from '../sys/trusted-file.js'
import type { Handlers } from '../wire/server.js'
import { checkText, LIMITS } from './limits.js'
import type { SessionStore } from './session-store.js'
import type { Standby } from './standby.js'

const MAX_PATH_BYTES = 4_096
/** Of the package, as it is installed. */
const MAIN = 'dist/daemon/main.js'

export interface Replacement {
  readonly protection: Protection
  /** The service manager's, if it has everything. */
  readonly store?: SessionStore | undefined
  /**
   * Resolves when what was changed until now would survive a crash, as far as luod is protected. Undefined: it would.
   */
  settled(): Promise<void> | undefined
  /** Resolves when the other one serves; then this process ends. */
  upgrade(main: string | undefined, onPhase: (phase: 'starting' | 'ready', successor: Standby) => void): Promise<void>
}

export function luodHandlers(replacement: Replacement): Pick<Handlers, 'Upgrade'> {
  return {
    Upgrade: async ({ input, peer, more, reply }) => {
      checkText('id', input.id, LIMITS.id_bytes)
      if (!more) throw new LuoError('LUO_INVALID_PARAMETER', 'upgrade: ask for more than one reply (more: true)')
      const own = process.getuid?.() ?? 0
      if (peer.uid !== 0 && peer.uid !== own) {
        throw new LuoError('EPERM', `upgrade: uid ${peer.uid} may not replace the luod of uid ${own}`)
      }
      const main = input.to === undefined ? undefined : mainFile(checkText('to', input.to, MAX_PATH_BYTES), own)
      let last: Parameters<typeof reply>[0] | undefined
      await replacement.upgrade(main, (phase, { pid = 0, version }) => {
        last = { phase, pid, ...(version === undefined ? {} : { version }) }
        reply(last)
      })
      // Nobody hears this: luod has ended.
      return { output: last ?? { phase: 'ready', pid: 0 } }
    },
  }
}

/** The main file of the build at `to`, which runs as luod: nobody else may be able to replace it. */
function mainFile(to: string, uid: number): string {
  const refuse = (why: string, cause?: unknown) => new LuoError('EPERM', `upgrade to ${to}: ${why}`, { cause })
  if (!existsSync(to)) throw new LuoError('ENOENT', `upgrade to ${to}: there is nothing`)
  if (!statSync(to).isDirectory()) return trustedFile(to, uid, refuse)
  const main = join(to, MAIN)
  if (!existsSync(main)) throw new LuoError('ENOENT', `upgrade to ${to}: there is no ${MAIN} in it`)
  return trustedFile(main, uid, refuse)
}
