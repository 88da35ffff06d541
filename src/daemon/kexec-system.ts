/** What a kexec asks of the machine; tests have their own. */
import { execFile } from 'node:child_process'
import { foreignSessions } from '../backends/kernel.js'
import { LuoError } from '../errors.js'
import {
  isKernelLoaded,
  kexecPermission,
  rebootIntoLoaded,
  remountReadOnly,
  remountWritable,
  sync,
} from '../sys/kexec.js'
import { askKeeper, type Keeper } from './kexec-keeper.js'

const SYSTEMCTL_MS = 30_000

export interface IncomingSession {
  name: string
  pid: number
  command: string
}

export interface KexecSystem {
  /** Throws when it is known that the reboot would fail. */
  mustBePossible(how: 'direct' | 'systemd'): void
  /** Open sessions of other processes that came in over the last kexec, and are not finished. */
  incoming(): IncomingSession[]
  sync(): void
  remountReadOnly(): { readOnly: string[]; failed: { path: string; code: string }[] }
  remountWritable(paths: readonly string[]): void
  /** Does not return, but by an error. */
  reboot(): void
  /** Who has the sessions at the reboot call of the service manager's kexec. Rejects when nobody would. */
  keeper(storeWorks: boolean): Promise<Keeper>
  /** Resolves when the service manager has begun; its word may be the last that this process hears. */
  askManager(): Promise<void>
}

export const MACHINE: KexecSystem = {
  mustBePossible: (how) => {
    if (!isKernelLoaded()) {
      throw new LuoError('LUO_NOT_FOUND', 'kexec: no kernel is loaded; load one (luoctl kexec load)')
    }
    if (how === 'direct' && !kexecPermission().mayReboot) {
      throw new LuoError('EPERM', 'kexec: luod may not reboot: it needs CAP_SYS_BOOT')
    }
  },
  incoming: () =>
    foreignSessions().sessions.flatMap(({ direction, name, pid, comm: command }) =>
      direction === 'incoming' ? [{ name, pid, command }] : [],
    ),
  sync,
  remountReadOnly,
  remountWritable,
  reboot: rebootIntoLoaded,
  keeper: askKeeper,
  askManager: () =>
    new Promise((resolve, reject) => {
      execFile('systemctl', ['kexec'], { timeout: SYSTEMCTL_MS }, (error, _, said) => {
        if (!error) return resolve()
        const why = said.trim().split('\n').at(-1) || error.message
        reject(new LuoError('EIO', `kexec: systemctl kexec: ${why}`, { cause: error }))
      })
    }),
}
