/** What root asks of a luod that has the kernel's device: kexecs, and the kernel's own sessions. */
import { LuoError } from '../errors.js'
import type { Handlers } from '../wire/server.js'

type KexecMethods = 'Kexec' | 'AbortKexec' | 'KernelSessions' | 'OpenKernelSession'

export function kexecHandlers(): Pick<Handlers, KexecMethods> {
  const unsupported = (what: string) => () => {
    throw new LuoError('LUO_UNSUPPORTED', `${what}: this luod does not have the kernel's device (luoctl status)`)
  }
  return {
    Kexec: unsupported('kexec'),
    AbortKexec: unsupported('abort the kexec'),
    KernelSessions: unsupported('list the sessions of the kernel'),
    OpenKernelSession: unsupported('open a session of the kernel'),
  }
}
