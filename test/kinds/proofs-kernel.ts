/** Proofs for eventfd, timerfd, inotify and pidfd. */
import { spawn } from 'node:child_process'
import { readSync, writeFileSync, writeSync } from 'node:fs'
import { expect } from 'vitest'
import type { Fd } from '../../src/sys/fd.js'
import { openPidfd, pidfdOwner, signalPidfd } from '../../src/sys/pidfd.js'
import { call, flags, type Kit, memory, O_CLOEXEC, O_NONBLOCK, put, waits } from './kit.js'
import type { Proof } from './proofs.js'

const EFD_SEMAPHORE = 1
const CLOCK_MONOTONIC = 1
const IN_CREATE = 0x100
const LIMIT_MS = 5_000

export const eventfd = (kit: Kit, initial = 0, more = 0) => kit.adopt(call('eventfd2', initial, O_CLOEXEC | more))
export const timerfd = (kit: Kit, more = 0) => kit.adopt(call('timerfd_create', CLOCK_MONOTONIC, O_CLOEXEC | more))
export const inotify = (kit: Kit, more = 0) => kit.adopt(call('inotify_init1', O_CLOEXEC | more))

/** A u64: the counter of an eventfd, the expirations of a timerfd. */
export function count(fd: Fd): bigint {
  const buffer = Buffer.alloc(8)
  readSync(fd.number, buffer)
  return buffer.readBigUInt64LE()
}

export function add(fd: Fd, value: bigint): void {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64LE(value)
  writeSync(fd.number, buffer)
}

export function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

export function waitFor(fd: Fd): void {
  const end = performance.now() + LIMIT_MS
  while (!waits(fd)) {
    if (performance.now() > end) throw new Error('there is nothing to read')
    sleep(1)
  }
}

const nonblocking =
  (make: (kit: Kit, more: number) => Fd): Proof =>
  (kit, cross) => {
    const backs = cross([make(kit, 0), make(kit, O_NONBLOCK)])
    expect(backs.map((back) => flags(back) & O_NONBLOCK)).toEqual([0, O_NONBLOCK])
  }

const EVENTFD_PROOFS = {
  counter: ((kit, cross) => {
    const fd = eventfd(kit, 5)
    add(fd, 2n ** 40n)
    const [back] = cross([fd])
    add(back, 1n)
    expect(count(back)).toBe(2n ** 40n + 6n)
    expect(waits(back)).toBe(false)
  }) satisfies Proof,
  semaphore: ((kit, cross) => {
    const [semaphore, counter] = cross([eventfd(kit, 3, EFD_SEMAPHORE), eventfd(kit, 3)])
    expect([count(semaphore), count(semaphore), count(semaphore), waits(semaphore)]).toEqual([1n, 1n, 1n, false])
    expect([count(counter), waits(counter)]).toEqual([3n, false])
  }) satisfies Proof,
  flags: nonblocking((kit, more) => eventfd(kit, 0, more)),
}

const SECOND_NS = 10n ** 9n

/** struct itimerspec: the interval, then what remains. */
function setTimer(fd: Fd, time: { interval: bigint; value: bigint }): void {
  for (const [index, ns] of [time.interval, time.value].entries()) {
    memory.view.setBigInt64(index * 16, ns / SECOND_NS, true)
    memory.view.setBigInt64(index * 16 + 8, ns % SECOND_NS, true)
  }
  call('timerfd_settime', fd.number, 0, memory.address, 0)
}

function getTimer(fd: Fd): { interval: bigint; value: bigint } {
  call('timerfd_gettime', fd.number, memory.address)
  const at = (offset: number) =>
    memory.view.getBigInt64(offset, true) * SECOND_NS + memory.view.getBigInt64(offset + 8, true)
  return { interval: at(0), value: at(16) }
}

const TIMERFD_PROOFS = {
  running: ((kit, cross) => {
    const fd = timerfd(kit)
    setTimer(fd, { interval: 0n, value: 1000n * SECOND_NS })
    const before = getTimer(fd).value
    const [back] = cross([fd])
    const after = getTimer(back).value
    expect(after).toBeLessThan(before)
    expect(after).toBeGreaterThan(0n)
  }) satisfies Proof,
  interval: ((kit, cross) => {
    const fd = timerfd(kit)
    setTimer(fd, { interval: 123_456_789n, value: 1000n * SECOND_NS })
    const [back] = cross([fd])
    expect(getTimer(back).interval).toBe(123_456_789n)
  }) satisfies Proof,
  expirations: ((kit, cross) => {
    const [once, often] = [timerfd(kit), timerfd(kit)]
    setTimer(once, { interval: 0n, value: 1n })
    waitFor(once)
    setTimer(often, { interval: SECOND_NS / 1000n, value: SECOND_NS / 1000n })
    const backs = cross([once, often], () => sleep(20))
    expect(count(backs[0])).toBe(1n)
    // 20 ms and more have passed, whatever else this machine does.
    expect(count(backs[1])).toBeGreaterThanOrEqual(20n)
  }) satisfies Proof,
  flags: nonblocking(timerfd),
}

function watch(fd: Fd, path: string): number {
  return call('inotify_add_watch', fd.number, put(Buffer.from(`${path}\0`)), IN_CREATE)
}

/** struct inotify_event, the first and the only one: number of the watch, and the name. */
function event(fd: Fd): { watch: number; name: string } {
  const buffer = Buffer.alloc(4096)
  // Room for one event only: they are read one by one.
  const got = readSync(fd.number, buffer, 0, 16 + 16, null)
  const name = buffer.toString('latin1', 16, got)
  return { watch: buffer.readInt32LE(0), name: name.slice(0, name.indexOf('\0')) }
}

const INOTIFY_PROOFS = {
  watches: ((kit, cross) => {
    const fd = inotify(kit)
    const number = watch(fd, kit.directory)
    const [back] = cross([fd])
    writeFileSync(kit.path('later'), '')
    expect(event(back)).toEqual({ watch: number, name: 'later' })
    expect(watch(back, kit.directory)).toBe(number)
  }) satisfies Proof,
  events: ((kit, cross) => {
    const fd = inotify(kit)
    const number = watch(fd, kit.directory)
    writeFileSync(kit.path('before'), '')
    const [back] = cross([fd], () => writeFileSync(kit.path('meanwhile'), ''))
    expect(['before', 'meanwhile'].map(() => event(back))).toEqual(
      ['before', 'meanwhile'].map((name) => ({ watch: number, name })),
    )
    expect(waits(back)).toBe(false)
  }) satisfies Proof,
  flags: nonblocking(inotify),
}

function child(kit: Kit): number {
  const process = spawn('sleep', ['1000'], { stdio: 'ignore' })
  kit.atEnd(() => process.kill('SIGKILL'))
  if (process.pid === undefined) throw new Error('no child')
  return process.pid
}

const PIDFD_PROOFS = {
  process: ((kit, cross) => {
    const pid = child(kit)
    const [back] = cross([kit.own(openPidfd(pid))])
    expect(pidfdOwner(back)?.pid).toBe(pid)
    expect(waits(back)).toBe(false)
    expect(signalPidfd(back, 'SIGKILL')).toBe(true)
    waitFor(back)
  }) satisfies Proof,
  exit: ((kit, cross) => {
    const pid = child(kit)
    const [back] = cross([kit.own(openPidfd(pid))], () => process.kill(pid, 'SIGKILL'))
    waitFor(back)
  }) satisfies Proof,
}

export const KERNEL_PROOFS = {
  eventfd: EVENTFD_PROOFS,
  timerfd: TIMERFD_PROOFS,
  inotify: INOTIFY_PROOFS,
  pidfd: PIDFD_PROOFS,
}
