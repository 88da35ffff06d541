/**
 * Files by their path over a reboot: what tells that a file is the one that it was, and opening it without a side
 * effect.
 *
 * A path is looked up to an O_PATH descriptor first, through no link of any kind. That opens nothing: no FIFO waits, no
 * device starts. What it leads to is looked at, and only then is the very same file opened, by way of that descriptor;
 * whoever changes the path in between changes nothing. Neither O_CREAT nor O_TRUNC is ever given.
 */
import { createHash } from 'node:crypto'
import { constants, fstatSync, openSync, readFileSync, readlinkSync } from 'node:fs'
import { asLuoError, type ErrnoName } from '../errors.js'
import { Fd } from './fd.js'
import { checked, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'
import { readAt } from './memfd.js'
import { setStatusFlags, statusFlags } from './socket.js'

const O_PATH = 0o10000000
const O_CLOEXEC = 0o2000000
const AT_FDCWD = -100
const AT_EMPTY_PATH = 0x1000
/** No link on the way, neither one in a file system nor one of /proc. */
const RESOLVE_NO_LINKS = 0x4 | 0x2
/** struct open_how: u64 flags, mode and resolve. */
const OPEN_HOW_BYTES = 24
const MAX_HANDLE_BYTES = 128
/** struct file_handle: u32 bytes, s32 type, then the handle; after it the number of the mount. */
const HANDLE_HEADER_BYTES = 8
/** struct statfs of 64-bit Linux. */
const FSID_AT = 56
/** What is hashed at either end of a file: one page, so that it costs the same for a large file. */
export const HASHED_BYTES = 4096

const PATH_AT = 512
const MAX_PATH_BYTES = 4096

let area: { address: number; bytes: Uint8Array; view: DataView } | undefined

function memory() {
  if (!area) {
    const { address, buffer } = scratch(PATH_AT + MAX_PATH_BYTES)
    area = { address, bytes: new Uint8Array(buffer), view: new DataView(buffer) }
  }
  return area
}

/** All as text, since these are compared and written down, and not counted with. */
export interface FileIdentity {
  /** Number of the device: of a running kernel. A reboot may give another to the same file system. */
  dev: string
  ino: string
  /** Number of the kind of file system, and what it calls itself; '0' when it calls itself nothing. */
  fsType: string
  fsId: string
  /** The name for which a file server would know it, with the generation of the inode; '' without. */
  handle: string
  /** In ns; '0' when the file system does not know. */
  born: string
}

export interface FileState {
  size: string
  mtime: string
  ctime: string
}

export function identityOf(fd: Fd): FileIdentity {
  const { dev, ino, birthtimeNs } = fstatSync(fd.number, { bigint: true })
  const { address, view } = memory()
  checked('ask for a file system', 'fstatfs', fd.number, address)
  const [fsType, fsId] = [view.getUint32(0, true), view.getBigUint64(FSID_AT, true)]
  return {
    dev: `${dev}`,
    ino: `${ino}`,
    fsType: `0x${fsType.toString(16)}`,
    fsId: `0x${fsId.toString(16)}`,
    handle: handleOf(fd),
    born: `${birthtimeNs}`,
  }
}

/** name_to_handle_at(2): what NFS servers give out, so that it must stay the same over a reboot. */
function handleOf(fd: Fd): string {
  const { address, bytes, view } = memory()
  view.setUint32(0, MAX_HANDLE_BYTES, true)
  bytes[PATH_AT] = 0
  const mount = address + HANDLE_HEADER_BYTES + MAX_HANDLE_BYTES
  if (libc('syscall', SYS.nameToHandleAt, fd.number, address + PATH_AT, address, mount, AT_EMPTY_PATH) === -1) return ''
  const length = view.getUint32(0, true)
  const handle = bytes.subarray(HANDLE_HEADER_BYTES, HANDLE_HEADER_BYTES + length)
  return `${view.getInt32(4, true)}:${Buffer.from(handle).toString('hex')}`
}

export function stateOf(fd: Fd): FileState {
  const { size, mtimeNs, ctimeNs } = fstatSync(fd.number, { bigint: true })
  return { size: `${size}`, mtime: `${mtimeNs}`, ctime: `${ctimeNs}` }
}

/** SHA-256 of the first and the last page of a regular file; '' when it may not be read. */
export function endsHash(fd: Fd): string {
  let readable: Fd
  try {
    readable = reopen(fd, constants.O_RDONLY)
  } catch {
    return ''
  }
  using file = readable
  const { size } = fstatSync(file.number)
  const page = new Uint8Array(HASHED_BYTES)
  const hash = createHash('sha256').update(page.subarray(0, readAt(file, page, 0)))
  if (size > HASHED_BYTES) hash.update(page.subarray(0, readAt(file, page, size - HASHED_BYTES)))
  return hash.digest('hex')
}

/** Where the kernel says that an open file is now. " (deleted)" is at its end when its name is gone. */
export function pathOf(fd: Fd): string {
  return readlinkSync(`/proc/self/fd/${fd.number}`)
}

/** Leads to what is at an absolute path; nothing is opened. ELOOP when there is a link on the way. */
export function locate(path: string): Fd {
  const name = Buffer.from(path)
  if (name.length >= MAX_PATH_BYTES || name.includes(0) || !path.startsWith('/')) {
    throw asLuoError(new Error('it is no absolute path'), 'EINVAL', `look up "${path.slice(0, 100)}"`)
  }
  const { address, bytes, view } = memory()
  view.setBigUint64(0, BigInt(O_PATH | O_CLOEXEC), true)
  view.setBigUint64(8, 0n, true)
  view.setBigUint64(16, BigInt(RESOLVE_NO_LINKS), true)
  bytes.set(name, PATH_AT)
  bytes[PATH_AT + name.length] = 0
  const call = [SYS.openat2, AT_FDCWD, address + PATH_AT, address, OPEN_HOW_BYTES] as const
  return Fd.adopt(checked(`look up ${path}`, 'syscall', ...call))
}

/** What an O_PATH descriptor leads to: sockets, FIFOs and devices answer no more than that. */
export function lookAt(fd: Fd): { kind: 'file' | 'directory' | 'other'; dev: number; ino: number } {
  const stat = fstatSync(fd.number)
  return { kind: stat.isFile() ? 'file' : stat.isDirectory() ? 'directory' : 'other', dev: stat.dev, ino: stat.ino }
}

/** The same file, opened anew. Never waits: a lease of somebody else is EAGAIN. */
export function reopen(fd: Fd, flags: number): Fd {
  try {
    return Fd.adopt(openSync(`/proc/self/fd/${fd.number}`, flags | constants.O_NONBLOCK))
  } catch (error) {
    throw asLuoError(error, ((error as NodeJS.ErrnoException).code ?? 'EIO') as ErrnoName, 'open a file again')
  }
}

const STATUS_FLAGS = {
  append: constants.O_APPEND,
  nonblock: constants.O_NONBLOCK,
  direct: constants.O_DIRECT,
  noatime: constants.O_NOATIME,
} as const
/** Of open(2) only. O_SYNC holds O_DSYNC. */
const OPEN_FLAGS = { sync: constants.O_SYNC, dsync: constants.O_DSYNC } as const
const ALL_FLAGS = { ...STATUS_FLAGS, ...OPEN_FLAGS }
export type OpenFlag = keyof typeof ALL_FLAGS
export const OPEN_FLAG_NAMES = Object.keys(ALL_FLAGS) as OpenFlag[]
const ACCESS = { read: constants.O_RDONLY, write: constants.O_WRONLY, 'read-write': constants.O_RDWR } as const
export type Access = keyof typeof ACCESS
export const ACCESS_NAMES = Object.keys(ACCESS) as Access[]
const O_ACCMODE = 3

export interface Opened {
  access: Access
  flags: OpenFlag[]
}

/** What it was opened for. Names, since the numbers differ between architectures. */
export function howOpened(fd: Fd): Opened {
  const bits = statusFlags(fd)
  const access = ACCESS_NAMES.find((name) => ACCESS[name] === (bits & O_ACCMODE)) ?? 'read'
  return { access, flags: OPEN_FLAG_NAMES.filter((name) => (bits & ALL_FLAGS[name]) === ALL_FLAGS[name]) }
}

/** Opens what `located` leads to, as it was opened. */
export function openLocated(located: Fd, { access, flags }: Opened, directory: boolean): Fd {
  const of = (table: Readonly<Record<string, number>>) => flags.reduce((bits, flag) => bits | (table[flag] ?? 0), 0)
  const fd = reopen(located, ACCESS[access] | of(OPEN_FLAGS) | (directory ? constants.O_DIRECTORY : 0))
  try {
    setStatusFlags(fd, of(STATUS_FLAGS))
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** The position as text: that of a directory is a number of 63 bits that means something to the file system only. */
export function positionText(fd: Fd): string {
  return /^pos:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'latin1'))?.[1] ?? '0'
}

export function seekTo(fd: Fd, position: string): void {
  const SEEK_SET = 0
  checked(`go to ${position}`, 'lseek', fd.number, BigInt(position), SEEK_SET)
}

/** "FLOCK ADVISORY WRITE": the locks and leases of this open file. */
export function locksOf(fd: Fd): string[] {
  const text = readFileSync(`/proc/self/fdinfo/${fd.number}`, 'latin1')
  return [...text.matchAll(/^lock:\s*\d+: (\w+)\s+\w+\s+(\w+)/gm)].map(([, type, mode]) => `${type} ${mode}`)
}

const LOCKS = { shared: 1, exclusive: 2 } as const
const LOCK_NB = 4
export type FileLock = keyof typeof LOCKS
export const FILE_LOCKS = Object.keys(LOCKS) as FileLock[]

/** flock(2); EAGAIN when somebody has it. */
export function lockAgain(fd: Fd, lock: FileLock): void {
  checked(`lock a file (${lock})`, 'flock', fd.number, LOCKS[lock] | LOCK_NB)
}
