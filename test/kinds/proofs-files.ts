/** Proofs for files, directories and pseudo-terminals. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { expect } from 'vitest'
import type { Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { call, failsWith, flags, type Kit, memory, O_NONBLOCK, position, put, read, waits, write } from './kit.js'
import type { Proof } from './proofs.js'
import { waitFor } from './proofs-kernel.js'

const O_RDWR = 2
const O_NOCTTY = 0o400
const O_APPEND = 0o2000
const O_ACCMODE = 3
const LOCK_EX_NB = 2 | 4
const F_OFD_SETLK = 37
const F_WRLCK = 1

export const file = (kit: Kit, name = 'file') => kit.adopt(openSync(kit.path(name), 'w+'))
export const directory = (kit: Kit) => kit.adopt(openSync(kit.directory, 'r'))

function flock(fd: Fd): void {
  checked('lock', 'flock', fd.number, LOCK_EX_NB)
}

/** struct flock: a lock for writing on the whole file. */
function ofdLock(fd: Fd): void {
  memory.bytes.fill(0, 0, 32)
  memory.view.setInt16(0, F_WRLCK, true)
  checked('lock', 'fcntl', fd.number, F_OFD_SETLK, memory.address)
}

const locked =
  (open: (kit: Kit) => Fd, lock: (fd: Fd) => void): Proof =>
  (kit, cross) => {
    const [fd, other] = [open(kit), open(kit)]
    lock(fd)
    const [back] = cross([fd], () => expect(failsWith(() => lock(other))).toBe('EAGAIN'))
    expect(failsWith(() => lock(other))).toBe('EAGAIN')
    back.close()
    lock(other)
  }

const FILE_PROOFS = {
  position: ((kit, cross) => {
    const fd = file(kit)
    write(fd, 'twelve bytes')
    const [back] = cross([fd])
    expect(position(back)).toBe(12)
    write(back, ', and more')
    expect(readFileSync(kit.path('file'), 'utf8')).toBe('twelve bytes, and more')
  }) satisfies Proof,
  unlinked: ((kit, cross) => {
    const fd = file(kit)
    write(fd, 'without a name')
    rmSync(kit.path('file'))
    const [back] = cross([fd])
    expect(readFileSync(`/proc/self/fd/${back.number}`, 'utf8')).toBe('without a name')
  }) satisfies Proof,
  flags: ((kit, cross) => {
    writeFileSync(kit.path('file'), 'start')
    const modes = ['r', 'r+', 'a', 'a+'].map((mode) => kit.adopt(openSync(kit.path('file'), mode)))
    const before = modes.map((fd) => flags(fd) & (O_ACCMODE | O_APPEND))
    const backs = cross(modes)
    expect(backs.map((back) => flags(back) & (O_ACCMODE | O_APPEND))).toEqual(before)
    expect(failsWith(() => writeSync(backs[0]?.number ?? -1, 'x'))).toBe('EBADF')
  }) satisfies Proof,
  flock: locked(file, flock),
  'OFD locks': locked(file, ofdLock),
}

/** The names that one getdents64(2) with room for few answers. */
export function someNames(fd: Fd): string[] {
  const got = call('getdents64', fd.number, memory.address, 128)
  const names: string[] = []
  for (let at = 0; at < got; at += memory.view.getUint16(at + 16, true)) {
    const end = memory.bytes.indexOf(0, at + 19)
    names.push(Buffer.from(memory.bytes.slice(at + 19, end)).toString())
  }
  return names
}

const DIRECTORY_PROOFS = {
  position: ((kit, cross) => {
    const names = Array.from({ length: 20 }, (_, index) => `entry-${index}`)
    for (const name of names) writeFileSync(kit.path(name), '')
    const fd = directory(kit)
    const found = someNames(fd)
    expect(found.length).toBeLessThan(20)
    const [back] = cross([fd])
    for (let more = someNames(back); more.length > 0; more = someNames(back)) found.push(...more)
    expect(found.toSorted()).toEqual(['.', '..', ...names].toSorted())
  }) satisfies Proof,
  renamed: ((kit, cross) => {
    mkdirSync(kit.path('old'))
    const fd = kit.adopt(openSync(kit.path('old'), 'r'))
    const [back] = cross([fd], () => renameSync(kit.path('old'), kit.path('new')))
    writeFileSync(`/proc/self/fd/${back.number}/inside`, '')
    expect(existsSync(kit.path('new/inside'))).toBe(true)
  }) satisfies Proof,
  flock: locked(directory, flock),
}

const TCGETS = 0x5401
const TCSETS = 0x5402
const TIOCGPGRP = 0x540f
const TIOCGWINSZ = 0x5413
const TIOCSWINSZ = 0x5414
const TIOCGSID = 0x5429
const TIOCGPTN = 0x80045430
const TIOCSPTLCK = 0x40045431
/** struct termios of the kernel: four u32 of flags, then the line discipline and 19 characters. */
const TERMIOS_BYTES = 36
const LFLAG_AT = 12
const ICANON_ECHO = 2 | 8

export function terminal(kit: Kit, more = 0): { master: Fd; slave: Fd } {
  const master = kit.adopt(openSync('/dev/ptmx', O_RDWR | O_NOCTTY))
  memory.view.setInt32(0, 0, true)
  call('ioctl', master.number, TIOCSPTLCK, memory.address)
  call('ioctl', master.number, TIOCGPTN, memory.address)
  const path = `/dev/pts/${memory.view.getUint32(0, true)}`
  return { master, slave: kit.adopt(openSync(path, O_RDWR | O_NOCTTY | more)) }
}

function settings(fd: Fd): Uint8Array {
  call('ioctl', fd.number, TCGETS, memory.address)
  return memory.bytes.slice(0, TERMIOS_BYTES)
}

/** Neither echo nor lines. */
function setRaw(fd: Fd): void {
  const bytes = settings(fd)
  const view = new DataView(bytes.buffer)
  view.setUint32(LFLAG_AT, view.getUint32(LFLAG_AT, true) & ~ICANON_ECHO, true)
  call('ioctl', fd.number, TCSETS, put(bytes))
}

function number(fd: Fd, request: number): number {
  call('ioctl', fd.number, request, memory.address)
  return memory.view.getInt32(0, true)
}

const MASTER_PROOFS = {
  'no hang-up': ((kit, cross) => {
    const { master, slave } = terminal(kit)
    setRaw(slave)
    const [back] = cross([master], () => expect(waits(slave)).toBe(false))
    write(back, 'typed')
    expect(read(slave)).toBe('typed')
  }) satisfies Proof,
  unread: ((kit, cross) => {
    const { master, slave } = terminal(kit)
    write(slave, 'output')
    const [back] = cross([master])
    expect(read(back)).toBe('output')
  }) satisfies Proof,
  window: ((kit, cross) => {
    const { master, slave } = terminal(kit)
    call('ioctl', master.number, TIOCSWINSZ, put(Uint8Array.of(50, 0, 132, 0, 0, 0, 0, 0)))
    const [back] = cross([master])
    for (const side of [back, slave]) {
      call('ioctl', side.number, TIOCGWINSZ, memory.address)
      expect([memory.view.getUint16(0, true), memory.view.getUint16(2, true)]).toEqual([50, 132])
    }
  }) satisfies Proof,
  session: ((kit, cross) => {
    const { master, slave } = terminal(kit)
    setRaw(slave)
    const script = 'echo ready; head -c 5; echo " came"'
    const shell = spawn('setsid', ['--ctty', 'sh', '-c', script], { stdio: [slave.number, slave.number, slave.number] })
    kit.atEnd(() => shell.kill('SIGKILL'))
    slave.close()
    waitFor(master)
    expect(read(master)).toBe('ready\r\n')
    const [back] = cross([master])
    expect(number(back, TIOCGSID)).toBe(shell.pid)
    expect(number(back, TIOCGPGRP)).toBe(shell.pid)
    write(back, 'hello')
    let text = ''
    while (!text.includes('came')) {
      waitFor(back)
      text += read(back)
    }
    expect(text).toBe('hello came\r\n')
  }) satisfies Proof,
}

const SLAVE_PROOFS = {
  settings: ((kit, cross) => {
    const { slave } = terminal(kit)
    const before = settings(slave)
    setRaw(slave)
    const raw = settings(slave)
    const [back] = cross([slave])
    expect(settings(back)).toEqual(raw)
    expect(raw).not.toEqual(before)
  }) satisfies Proof,
  unread: ((kit, cross) => {
    const { master, slave } = terminal(kit)
    write(master, 'a line\nand a half')
    const [back] = cross([slave])
    expect(read(back)).toBe('a line\n')
    write(master, '.\n')
    expect(read(back)).toBe('and a half.\n')
  }) satisfies Proof,
  'other side': ((kit, cross) => {
    const { master, slave } = terminal(kit)
    const [back] = cross([slave], () => expect(waits(master)).toBe(false))
    write(back, 'output')
    expect(read(master)).toBe('output')
    back.close()
    expect(failsWith(() => read(master))).toBe('EIO')
  }) satisfies Proof,
  flags: ((kit, cross) => {
    const [{ slave: blocking }, { slave: not }] = [terminal(kit), terminal(kit, O_NONBLOCK)]
    const backs = cross([blocking, not])
    expect(backs.map((back) => flags(back) & O_NONBLOCK)).toEqual([0, O_NONBLOCK])
  }) satisfies Proof,
}

export const FILE_KIND_PROOFS = {
  file: FILE_PROOFS,
  directory: DIRECTORY_PROOFS,
  'pty-master': MASTER_PROOFS,
  'pty-slave': SLAVE_PROOFS,
}
