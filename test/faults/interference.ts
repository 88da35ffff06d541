/**
 * Calls of libc that fail once, for want of descriptors, memory or space, or do half of what they were asked for: which
 * can fail how, and one after the other of all that some work makes.
 */
import { type Call, type Interference, interfere } from '../../src/sys/ffi.js'

type Instead = (args: Parameters<Interference>[1]) => ReturnType<Interference>

const WANT_DESCRIPTORS = ['fcntl', 'memfd_create', 'socketpair', 'accept4', 'syscall'] as const
const WANT_SPACE = ['pwrite', 'ftruncate', 'fallocate'] as const
const WANT_MEMORY = [...WANT_DESCRIPTORS, 'recvmsg', 'sendmsg', 'epoll_ctl', 'mmap'] as const
/** Watching one file less, or a watched one in another way, takes no memory. */
const EPOLL_CTL_ADD = 1

export const FAILURES: readonly [string, readonly Call[], Instead][] = [
  ['EMFILE', WANT_DESCRIPTORS, () => 'EMFILE'],
  ['ENOSPC', WANT_SPACE, () => 'ENOSPC'],
  ['ENOMEM', WANT_MEMORY, () => 'ENOMEM'],
  ['EINTR', ['recvmsg', 'sendmsg', 'pwrite', 'accept4'], () => 'EINTR'],
  ['a short write', ['pwrite'], ([fd, bytes, length, offset]) => [fd, bytes, Number(length) >> 1, offset] as never],
]

export interface Struck {
  call: Call | undefined
  /** For messages: which call of how many. */
  where: string
}

/** While it runs, calls are those of somebody else: nothing fails. */
let aside = 0

export function besides<T>(work: () => T): T {
  aside += 1
  try {
    return work()
  } finally {
    aside -= 1
  }
}

/** Whatever else fails or not. */
let base: Interference = () => undefined

/** From here on, also while nothing fails: the test stands for something that the kernel knows. */
export function always(how: Interference): void {
  base = how
  interfere(how)
}

export interface Failing {
  calls: readonly Call[]
  instead: Instead
  /** Before each time, with nothing failing. */
  before?(): Promise<void> | void
  /** Makes the same calls each time. */
  work(): Promise<void> | void
  /** After each time, with nothing failing. */
  after(struck: Struck): Promise<void> | void
}

/** Answers how many calls have failed. */
export async function failEach({ calls, instead, before, work, after }: Failing): Promise<number> {
  const mayFail: Interference = (call, args) =>
    aside === 0 && calls.includes(call) && (call !== 'epoll_ctl' || args[1] === EPOLL_CTL_ADD)
      ? instead(args)
      : undefined
  let count = 0
  await before?.()
  interfere((call, args) => {
    if (mayFail(call, args) !== undefined) count += 1
    return base(call, args)
  })
  await quietly(work)
  await after({ call: undefined, where: 'with nothing failing' })
  for (let place = 0; place < count; place++) {
    await before?.()
    let at = 0
    let call: Call | undefined
    interfere((made, args) => {
      const answer = mayFail(made, args)
      if (call !== undefined || answer === undefined || at++ < place) return base(made, args)
      call = made
      return answer
    })
    await quietly(work)
    await after({ call, where: `${call} at ${place} of ${count}` })
  }
  return count
}

async function quietly(work: () => Promise<void> | void): Promise<void> {
  try {
    await work()
  } finally {
    interfere(base)
  }
}
