/**
 * Processes by pidfd: a handle that never means another process, because it is taken while the process is known to be
 * there. It becomes readable when the process has ended (use `Poller`).
 */
import { readdirSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { isLuoError } from '../errors.js'
import { Fd } from './fd.js'
import { checked, integer, libc, SYS } from './ffi.js'

/** ESRCH when there is no such process. */
export function openPidfd(pid: number): Fd {
  integer(pid, 1, 2 ** 22, 'a process id')
  return Fd.adopt(checked(`open process ${pid}`, 'syscall', SYS.pidfdOpen, pid, 0, 0, 0, 0))
}

/** Sends a signal; false when the process has ended already. */
export function signalPidfd(pidfd: Fd, signal: NodeJS.Signals | 0): boolean {
  const number = signal === 0 ? 0 : constants.signals[signal]
  try {
    checked(`send ${signal} to a process`, 'syscall', SYS.pidfdSendSignal, pidfd.number, number, 0, 0, 0)
    return true
  } catch (error) {
    if (isLuoError(error, 'ESRCH')) return false
    throw error
  }
}

/**
 * SIGKILL; false when the process has ended already. That it may not be killed (EPERM: it has other credentials by now)
 * is no error: it is there, and whoever waits for its end has a deadline.
 */
export function killProcess(pidfd: Fd): boolean {
  try {
    return signalPidfd(pidfd, 'SIGKILL')
  } catch {
    return true
  }
}

/** False when the kernel would refuse to let us kill it: it acts with our uid, and has another one to go back to. */
export function mayKill(pidfd: Fd): boolean {
  try {
    signalPidfd(pidfd, 0)
    return true
  } catch (error) {
    return !isLuoError(error, 'EPERM')
  }
}

/** Which process it is and whose (its real uid); undefined when it has ended, or is of another pid namespace. */
export function pidfdOwner(pidfd: Fd): { pid: number; uid: number } | undefined {
  const pid = pidOf(pidfd)
  if (pid === undefined) return undefined
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1])
    // Asked again: had it ended in between, the number could be another process by now.
    return pidOf(pidfd) === pid && Number.isInteger(uid) ? { pid, uid } : undefined
  } catch {
    return undefined
  }
}

/** PF_EXITING of the kernel's include/linux/sched.h. */
const EXITING = 0x4
/** Of /proc/PID/stat, counted after the name in parentheses, which may hold anything. */
const FLAGS_FIELD = 6

/** Whether it has ended, or is just ending: the kernel says so before it closes the files of the process. */
export function isEnding(pidfd: Fd): boolean {
  const pid = pidOf(pidfd)
  if (pid === undefined) return !signalPidfd(pidfd, 0)
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const flags = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[FLAGS_FIELD])
    // Asked again: had it ended in between, the number could be another process by now.
    return (flags & EXITING) !== 0 || pidOf(pidfd) !== pid
  } catch (error) {
    // It has ended meanwhile. Without a descriptor to look through nobody knows.
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return true
    throw error
  }
}

/** The same; false too when that cannot be seen just now, for want of a descriptor. */
export function seemsEnding(pidfd: Fd): boolean {
  try {
    return isEnding(pidfd)
  } catch {
    return false
  }
}

/** Of the kernel's include/uapi/linux/sched.h. Its priority is 0, an int. */
const SCHED_IDLE = 5
const NO_PRIORITY = new Uint8Array(4)

/** For one that is ending: from here on it gets what nobody else wants of the processors. Best effort: never fails. */
export function standBack(pidfd: Fd): void {
  try {
    const pid = pidOf(pidfd)
    if (pid === undefined) return
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      libc('sched_setscheduler', Number(thread), SCHED_IDLE, NO_PRIORITY)
    }
  } catch {
    // It has ended.
  }
}

/** PR_SET_PDEATHSIG of the kernel's include/uapi/linux/prctl.h. */
const SET_PARENT_DEATH_SIGNAL = 1

/**
 * This process gets the signal when the thread that started it ends: long before the other ends of the parent's sockets
 * show it, because its memory goes between the two. It may come more than once, and others may send it: ask `isEnding`.
 */
export function signalAtEndOfParent(signal: NodeJS.Signals): void {
  libc('prctl', SET_PARENT_DEATH_SIGNAL, constants.signals[signal], 0, 0, 0)
}

function pidOf(pidfd: Fd): number | undefined {
  const info = readFileSync(`/proc/self/fdinfo/${pidfd.number}`, 'latin1')
  const pid = Number(/^Pid:\s+(-?\d+)/m.exec(info)?.[1])
  return pid > 0 ? pid : undefined
}
