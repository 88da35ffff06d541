/** What a supervisor that is process 1 needs of the system: to reap those that are not its own children. */
import { readdirSync, readFileSync } from 'node:fs'
import { errno, libc } from './ffi.js'

const WNOHANG = 1
/** Reaped in one go; more come with the next SIGCHLD. */
const MAX_REAPED = 1024

/**
 * Waits for dead children that nobody here waits for; answers how many there were. `known` are children that the
 * runtime waits for itself: stealing their exit would leave it waiting forever, so each is asked about by pid.
 */
export function reapOthers(known: (pid: number) => boolean): number {
  let reaped = 0
  for (const pid of childrenOf(process.pid)) {
    if (reaped >= MAX_REAPED) break
    if (known(pid)) continue
    const result = libc('waitpid', pid, new Int32Array(1), WNOHANG)
    if (result === pid) reaped += 1
    else if (result === -1 && errno() === 'EINTR') continue
  }
  return reaped
}

/** All processes that this one has started, directly or not, and that have not ended; the nearest first. */
export function descendants(ancestor: number): number[] {
  const children = new Map<number, number[]>()
  for (const pid of processes()) {
    const { parent, state } = statOf(pid) ?? {}
    if (parent === undefined || state === 'Z') continue
    children.set(parent, [...(children.get(parent) ?? []), pid])
  }
  const found: number[] = []
  for (
    let next = children.get(ancestor) ?? [];
    next.length > 0;
    next = next.flatMap((pid) => children.get(pid) ?? [])
  ) {
    found.push(...next)
  }
  return found
}

function processes(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
}

function childrenOf(parent: number): number[] {
  return processes().filter((pid) => statOf(pid)?.parent === parent)
}

function statOf(pid: number): { parent: number; state: string } | undefined {
  try {
    // The name in parentheses may hold anything: what follows its last parenthesis is "state ppid …".
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const [state = '', parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { parent: Number(parent), state }
  } catch {
    return undefined
  }
}
