/**
 * Processes by pidfd: a handle that never means another process, because it is taken while the process is known to be
 * there. It becomes readable when the process has ended (use `Poller`).
 */
import { constants } from 'node:os'
import { isLuoError } from '../errors.js'
import { Fd } from './fd.js'
import { checked, integer, SYS } from './ffi.js'

/** ESRCH when there is no such process. */
export function openPidfd(pid: number): Fd {
  integer(pid, 1, 2 ** 22, 'a process id')
  return Fd.adopt(checked(`open process ${pid}`, 'syscall', SYS.pidfdOpen, pid, 0, 0, 0))
}

/** Sends a signal; false when the process has ended already. */
export function signalPidfd(pidfd: Fd, signal: NodeJS.Signals | 0): boolean {
  const number = signal === 0 ? 0 : constants.signals[signal]
  try {
    checked(`send ${signal} to a process`, 'syscall', SYS.pidfdSendSignal, pidfd.number, number, 0, 0)
    return true
  } catch (error) {
    if (isLuoError(error, 'ESRCH')) return false
    throw error
  }
}
