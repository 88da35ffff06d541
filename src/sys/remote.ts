/**
 * Memory and files of another process: of one's own descendants without privileges, also where Yama lets only ancestors
 * look. What is read is a copy; the process may change its memory at any time.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { checked, errno, failure, integer, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'
import { openPidfd } from './pidfd.js'

/** struct iovec twice, then the data. */
const DATA_AT = 64
const MAX_BYTES = 64 * 1024
const PAGE = 4096n
const MAX_ADDRESS = 2n ** 56n
const AT_FDCWD = -100
const AT_STATX_DONT_SYNC = 0x4000
/** The type and the inode, in struct statx. */
const STATX_MASK = 0x1 | 0x100
const STATX_MODE_AT = 28
const STATX_INO_AT = 32
const S_IFMT = 0o170000
const S_IFSOCK = 0o140000

let area: { address: number; bytes: Uint8Array; view: DataView } | undefined

function memory() {
  if (!area) {
    const { address, buffer } = scratch(DATA_AT + MAX_BYTES)
    area = { address, bytes: new Uint8Array(buffer), view: new DataView(buffer) }
  }
  return area
}

/** Exactly `length` bytes; EFAULT when not all of them are there, ESRCH when the process is gone. */
export function readRemote(pid: number, address: bigint, length: number): Uint8Array {
  transfer('processVmReadv', pid, address, length)
  return memory().bytes.slice(DATA_AT, DATA_AT + length)
}

/** As much of it as can be read, from its beginning. ESRCH when the process is gone. */
export function readRemotePart(pid: number, address: bigint, length: number): Uint8Array {
  const done = tryTransfer('processVmReadv', pid, address, length)
  return memory().bytes.slice(DATA_AT, DATA_AT + done)
}

/** All of `bytes`, or EFAULT; a part may be written then. */
export function writeRemote(pid: number, address: bigint, bytes: Uint8Array): void {
  integer(bytes.length, 0, MAX_BYTES, 'the length of what is written to another process')
  memory().bytes.set(bytes, DATA_AT)
  transfer('processVmWritev', pid, address, bytes.length)
}

/** Bytes up to a NUL. ENAMETOOLONG when there is none in the first `limit` bytes. */
export function readRemoteString(pid: number, address: bigint, limit: number): Buffer {
  let before: Buffer | undefined
  let at = address
  for (let left = limit; left > 0; ) {
    // Up to the end of the page: the next one may not be there, and need not be.
    const piece = Math.min(left, Number(PAGE - (at % PAGE)))
    transfer('processVmReadv', pid, at, piece)
    const { bytes } = memory()
    const found = bytes.indexOf(0, DATA_AT)
    const isEnd = found !== -1 && found < DATA_AT + piece
    const part = Buffer.from(bytes.subarray(DATA_AT, isEnd ? found : DATA_AT + piece))
    const text = before ? Buffer.concat([before, part]) : part
    if (isEnd) return text
    before = text
    at += BigInt(piece)
    left -= piece
  }
  throw new LuoError('ENAMETOOLONG', `read a string of process ${pid}: it has more than ${limit} bytes`)
}

/** A copy of a descriptor of the process that has this thread. EBADF when it has none of this number. */
export function fdOfThread(tid: number, number: number): Fd {
  const action = `take descriptor ${number} of thread ${tid}`
  if (number < 0) throw new LuoError('EBADF', `${action}: there is none`)
  using pidfd = openPidfd(processOf(tid))
  return Fd.adopt(checked(action, 'syscall', SYS.pidfdGetfd, pidfd.number, number, 0))
}

/** The process of a thread; ESRCH when it is gone. */
function processOf(tid: number): number {
  try {
    const process = /^Tgid:\s+(\d+)/m.exec(readFileSync(`/proc/${tid}/status`, 'latin1'))?.[1]
    if (process !== undefined) return Number(process)
  } catch {
    // Gone.
  }
  throw new LuoError('ESRCH', `find the process of thread ${tid}: it is gone`)
}

/** The inode of a thread's descriptor when it is a socket. */
export function socketInode(tid: number, number: number): bigint | undefined {
  const { address, bytes, view } = memory()
  const path = Buffer.from(`/proc/${tid}/fd/${number}\0`, 'latin1')
  bytes.set(path, DATA_AT)
  const answer = DATA_AT + path.length
  // Half of what readlink costs. A file of a network or of another program is not asked how it is.
  if (libc('syscall', SYS.statx, AT_FDCWD, address + DATA_AT, AT_STATX_DONT_SYNC, STATX_MASK, address + answer) === 0) {
    const isSocket = (view.getUint16(answer + STATX_MODE_AT, true) & S_IFMT) === S_IFSOCK
    return isSocket ? view.getBigUint64(answer + STATX_INO_AT, true) : undefined
  }
  // Some containers refuse statx.
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${tid}/fd/${number}`))?.[1]
    return inode === undefined ? undefined : BigInt(inode)
  } catch {
    return undefined
  }
}

/** Whether the process of a thread has a number left for one more descriptor. */
export function mayOpenMore(tid: number): boolean {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${tid}/limits`, 'latin1'))?.[1]
    const used = new Set(readdirSync(`/proc/${tid}/fd`))
    for (let number = 0; number < Number(limit ?? Number.POSITIVE_INFINITY); number++) {
      if (!used.has(String(number))) return true
    }
    return false
  } catch {
    // It is gone, and will not ask.
    return true
  }
}

const F_GETFL = 3
const O_PATH = 0o10000000

/** Opened with O_PATH: a place, and no file. */
export function isPathOnly(fd: Fd): boolean {
  return (checked('read the flags of a file', 'fcntl', fd.number, F_GETFL, 0) & O_PATH) !== 0
}

type Transfer = 'processVmReadv' | 'processVmWritev'

function transfer(call: Transfer, pid: number, address: bigint, length: number): void {
  if (tryTransfer(call, pid, address, length) === length) return
  throw new LuoError('EFAULT', `${length} bytes at 0x${address.toString(16)} of process ${pid}`)
}

/** Answers how many bytes, from the first. */
function tryTransfer(call: Transfer, pid: number, address: bigint, length: number): number {
  integer(length, 0, MAX_BYTES, 'the length of what is read or written of another process')
  if (address < 0n || address >= MAX_ADDRESS || length === 0) return 0
  const { address: own, view } = memory()
  view.setBigUint64(0, BigInt(own + DATA_AT), true)
  view.setBigUint64(8, BigInt(length), true)
  view.setBigUint64(16, address, true)
  view.setBigUint64(24, BigInt(length), true)
  const done = libc('syscall', SYS[call], pid, own, 1, own + 16, 1, 0)
  if (done >= 0) return done
  const code = errno()
  if (code === 'EFAULT') return 0
  throw failure(`reach the memory of process ${pid}`, code)
}
