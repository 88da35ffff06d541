/**
 * Which processes have a file open, as far as this one may look: /proc/PID/fd of others needs the right to trace them,
 * which root has. Processes come and go meanwhile; what ended is left out.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { Fd } from './fd.js'
import { errno, libc, SYS } from './ffi.js'
import { openPidfd } from './pidfd.js'

/** Found at most: a process can have a million descriptors of one file. */
const MAX_FOUND = 10_000

export interface OpenFile {
  readonly pid: number
  /** The name of the process, up to 15 bytes; empty when it ended meanwhile. */
  readonly comm: string
  /** What /proc shows it as: a path, or `anon_inode:[eventfd]` and the like. */
  readonly link: string
  /** A descriptor of the same open file, owned by the caller; undefined when it cannot be had (any more). */
  take(): Fd | undefined
}

export interface OpenFiles {
  readonly found: readonly OpenFile[]
  /** False when there are processes that this one may not look into, or more was found than is answered. */
  readonly complete: boolean
}

/** Descriptors whose link in /proc is one of these. */
export function whoHasOpen(isOne: (link: string) => boolean): OpenFiles {
  const found: OpenFile[] = []
  let complete = true
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const pid = Number(name)
    let numbers: string[]
    try {
      numbers = readdirSync(`/proc/${pid}/fd`)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EACCES') complete = false
      continue
    }
    for (const number of numbers) {
      const link = linkOf(pid, number)
      if (link === undefined || !isOne(link)) continue
      if (found.length === MAX_FOUND) return { found, complete: false }
      found.push({ pid, comm: commOf(pid), link, take: () => take(pid, Number(number), link) })
    }
  }
  return { found, complete }
}

function linkOf(pid: number, number: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${number}`)
  } catch {
    return undefined
  }
}

function commOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd()
  } catch {
    return ''
  }
}

function take(pid: number, number: number, link: string): Fd | undefined {
  let pidfd: Fd
  try {
    pidfd = openPidfd(pid)
  } catch {
    return undefined
  }
  try {
    const got = libc('syscall', SYS.pidfdGetfd, pidfd.number, number, 0)
    if (got === -1) return void errno()
    const fd = Fd.adopt(got)
    // The number, or the process, may be another by now.
    if (linkOf(process.pid, String(got)) === link) return fd
    fd.close()
    return undefined
  } finally {
    pidfd.close()
  }
}
