/** What is in an eventfd, and another one with the same in it. */
import { readFileSync, readSync, writeSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { checked } from './ffi.js'

const EFD_SEMAPHORE = 1
const EFD_CLOEXEC = 0o2000000
const EFD_NONBLOCK = 0o4000
/** The counter's largest value; writing more waits. */
export const MAX_EVENTFD_COUNTER = 2n ** 64n - 2n

/** What reading and writing one takes. */
const COUNTER_BYTES = 8

export interface EventfdState {
  counter: bigint
  semaphore: boolean
}

/** LUO_UNSUPPORTED where the kernel does not say whether it is a semaphore (before 6.7). */
export function eventfdState(fd: Fd): EventfdState {
  const text = readFileSync(`/proc/self/fdinfo/${fd.number}`, 'latin1')
  const counter = /^eventfd-count:\s*([0-9a-f]+)$/m.exec(text)?.[1]
  const semaphore = /^eventfd-semaphore:\s*([01])$/m.exec(text)?.[1]
  if (counter === undefined || semaphore === undefined) {
    throw new LuoError('LUO_UNSUPPORTED', 'this kernel does not tell what is in an eventfd: Linux 6.7 does')
  }
  return { counter: BigInt(`0x${counter}`), semaphore: semaphore === '1' }
}

/** Non-blocking. */
export function createEventfd({ counter, semaphore }: EventfdState): Fd {
  if (counter < 0n || counter > MAX_EVENTFD_COUNTER) {
    throw new LuoError('EINVAL', `make an eventfd: its counter is ${counter}, and ${MAX_EVENTFD_COUNTER} at most`)
  }
  const flags = EFD_CLOEXEC | EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0)
  const fd = Fd.adopt(checked('make an eventfd', 'eventfd', 0, flags))
  try {
    if (counter > 0n) writeSync(fd.number, new Uint8Array(BigUint64Array.of(counter).buffer))
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** Takes out what is in one that is non-blocking, or one of it if it is a semaphore; false when it is empty. */
export function takeFromEventfd(fd: Fd): boolean {
  try {
    readSync(fd.number, new Uint8Array(COUNTER_BYTES))
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false
    throw error
  }
}
