/**
 * What kind of file a descriptor is, and whether two are the same. Kinds are told apart by what the kernel says of the
 * open file, never by its name: its type, its file system, and for sockets their domain, type and state.
 *
 * Nothing here waits for a file system that somebody else serves (FUSE, 9p, NFS) and that may never answer: attributes
 * are what the kernel has of them, and a file system is asked for its name only when it is known to be the kernel's
 * own.
 */
import { fstatSync, readlinkSync } from 'node:fs'
import type { Fd } from './fd.js'
import { checked, errno, failure, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'
import { createMemfd } from './memfd.js'
import { openPidfd } from './pidfd.js'

const SOL_SOCKET = 1
const SO_ACCEPTCONN = 30
const SO_PROTOCOL = 38
const SO_DOMAIN = 39
const AF_UNIX = 1
const AF_INET = 2
const AF_INET6 = 10
const IPPROTO_TCP = 6
const IPPROTO_UDP = 17
const IPPROTO_MPTCP = 262
const SO_LINGER = 13
const F_DUPFD_QUERY = 1027
const F_GET_SEALS = 1034
const TMPFS_MAGIC = 0x01021994
const HUGETLBFS_MAGIC = 0x958458f6
/**
 * Character devices of pseudo-terminals (Documentation/admin-guide/devices.txt): /dev/ptmx, and eight majors of slaves.
 */
const PTMX_MAJOR = 5
const PTMX_MINOR = 2
const PTY_SLAVE_MAJORS = { first: 136, last: 143 }
const AT_EMPTY_PATH = 0x1000
/** What is known is enough: a file system over a network, or of a process, is not asked. */
const AT_STATX_DONT_SYNC = 0x4000
const S_IFMT = 0o170000
const S_IFSOCK = 0o140000
const S_IFREG = 0o100000
const S_IFBLK = 0o060000
const S_IFDIR = 0o040000
const S_IFCHR = 0o020000
const S_IFIFO = 0o010000

export type FileKind =
  | 'memfd'
  | 'shmem'
  | 'hugetlb'
  | 'tcp'
  | 'udp'
  | 'mptcp'
  | 'unix'
  | 'socket'
  | 'pipe'
  | 'fifo'
  | 'file'
  | 'directory'
  | 'pty-master'
  | 'pty-slave'
  | 'character'
  | 'block'
  | 'eventfd'
  | 'timerfd'
  | 'epoll'
  | 'signalfd'
  | 'inotify'
  | 'pidfd'
  | 'io_uring'
  | 'anonymous'

export interface FileInfo {
  kind: FileKind
  dev: number
  ino: number
  size: number
  /** Sockets that accept connections. */
  listening: boolean
}

interface Stat {
  type: number
  links: number
  dev: number
  /** Of a device. */
  rdev: number
  ino: number
  size: number
}

export function fileInfo(fd: Fd): FileInfo {
  const stat = statOf(fd)
  return {
    kind: kindOf(fd, stat),
    dev: stat.dev,
    ino: stat.ino,
    size: stat.size,
    listening: stat.type === S_IFSOCK && option(fd, SO_ACCEPTCONN) === 1,
  }
}

// struct statx, and an empty path before it: files come by the thousand, and Node's own stat costs several times this.
const STATX_MASK = 0x1 | 0x2 | 0x4 | 0x100 | 0x200
const STATX_AT = { links: 16, mode: 28, ino: 32, size: 40, rdev: 128, dev: 136 } as const
const PATH_BYTES = 8
const ANSWER_BYTES = 512
let area: { address: number; view: DataView } | undefined

function answerArea(): { address: number; view: DataView } {
  if (!area) {
    const { address, buffer } = scratch(PATH_BYTES + ANSWER_BYTES)
    area = { address, view: new DataView(buffer, PATH_BYTES) }
  }
  return area
}

function statOf(fd: Fd): Stat {
  const { address, view } = answerArea()
  const flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
  if (libc('syscall', SYS.statx, fd.number, address, flags, STATX_MASK, address + PATH_BYTES) === -1) {
    const code = errno()
    if (code !== 'ENOSYS' && code !== 'EPERM') throw failure('look at a file', code)
    // Some containers refuse it.
    const { mode, nlink, dev, rdev, ino, size } = fstatSync(fd.number)
    return { type: mode & S_IFMT, links: nlink, dev, rdev, ino, size }
  }
  return {
    type: view.getUint16(STATX_AT.mode, true) & S_IFMT,
    links: view.getUint32(STATX_AT.links, true),
    dev: deviceNumber(view, STATX_AT.dev),
    rdev: deviceNumber(view, STATX_AT.rdev),
    ino: view.getUint32(STATX_AT.ino, true) + view.getUint32(STATX_AT.ino + 4, true) * 2 ** 32,
    size: view.getUint32(STATX_AT.size, true) + view.getUint32(STATX_AT.size + 4, true) * 2 ** 32,
  }
}

/** One number of major and minor, as libc and Node make it. */
function deviceNumber(view: DataView, at: number): number {
  const major = view.getUint32(at, true)
  const minor = view.getUint32(at + 4, true)
  return (major & 0xfff) * 2 ** 8 + (minor & 0xff) + (minor >>> 8) * 2 ** 20 + (major >>> 12) * 2 ** 44
}

function linkOf(fd: Fd): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd.number}`)
  } catch {
    return ''
  }
}

function kindOf(fd: Fd, stat: Stat): FileKind {
  switch (stat.type) {
    case S_IFSOCK:
      return socketKind(fd)
    case S_IFIFO:
      // What has a path begins with a slash.
      return linkOf(fd).startsWith('pipe:') ? 'pipe' : 'fifo'
    case S_IFDIR:
      return 'directory'
    case S_IFCHR:
      return characterKind(stat.rdev)
    case S_IFBLK:
      return 'block'
    case S_IFREG:
      return regularKind(fd, stat)
    default:
      return anonymousKind(linkOf(fd))
  }
}

/** Memory files, and files of /dev/shm and of hugetlbfs that no name leads to any more, are memory. */
function regularKind(fd: Fd, { links, dev }: Stat): FileKind {
  if (dev === memfdDevice()) return 'memfd'
  if (!isSealable(fd)) return dev === pidfdDevice() ? 'pidfd' : 'file'
  switch (filesystem(fd)) {
    case TMPFS_MAGIC:
      return links > 0 ? 'file' : 'shmem'
    case HUGETLBFS_MAGIC:
      return links === 0 && linkOf(fd).startsWith('/memfd:') ? 'hugetlb' : 'file'
    default:
      return 'file'
  }
}

/** So are the files of tmpfs and hugetlbfs, and no others. */
function isSealable(fd: Fd): boolean {
  return libc('fcntl', fd.number, F_GET_SEALS, 0) !== -1
}

let knownPidfdDevice: number | undefined

/** Since Linux 6.9 pidfds are regular files of a file system of their own. */
function pidfdDevice(): number {
  if (knownPidfdDevice === undefined) {
    using fd = openPidfd(process.pid)
    knownPidfdDevice = statOf(fd).dev
  }
  return knownPidfdDevice
}

let knownMemfdDevice: number | undefined

/** Memory files are in a file system of the kernel's own, which is mounted nowhere. */
function memfdDevice(): number {
  if (knownMemfdDevice === undefined) {
    using fd = createMemfd('probe')
    knownMemfdDevice = statOf(fd).dev
  }
  return knownMemfdDevice
}

/** `rdev` as glibc's makedev packs it: minor 0-7, major 8-19, and the rest of the minor above. */
function characterKind(rdev: number): FileKind {
  const major = (rdev >>> 8) & 0xfff
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00)
  if (major === PTMX_MAJOR && minor === PTMX_MINOR) return 'pty-master'
  const slave = major >= PTY_SLAVE_MAJORS.first && major <= PTY_SLAVE_MAJORS.last
  return slave ? 'pty-slave' : 'character'
}

/** Linux writes most of them in brackets, inotify without. */
function anonymousKind(link: string): FileKind {
  if (link.startsWith('pidfd:')) return 'pidfd'
  if (!link.startsWith('anon_inode:')) return 'anonymous'
  const name = link.slice('anon_inode:'.length).replace(/^\[|\]$/g, '')
  switch (name) {
    case 'eventfd':
    case 'timerfd':
    case 'signalfd':
    case 'inotify':
    case 'pidfd':
    case 'io_uring':
      return name
    case 'eventpoll':
      return 'epoll'
    default:
      return 'anonymous'
  }
}

function filesystem(fd: Fd): number {
  const { address, view } = answerArea()
  checked('ask for a file system', 'fstatfs', fd.number, address + PATH_BYTES)
  return view.getUint32(0, true)
}

function socketKind(fd: Fd): FileKind {
  const domain = option(fd, SO_DOMAIN)
  if (domain === AF_UNIX) return 'unix'
  if (domain !== AF_INET && domain !== AF_INET6) return 'socket'
  const protocol = option(fd, SO_PROTOCOL)
  if (protocol === IPPROTO_MPTCP) return 'mptcp'
  return protocol === IPPROTO_TCP ? 'tcp' : protocol === IPPROTO_UDP ? 'udp' : 'socket'
}

// One pair for all calls: a new one each time costs several times what the call does.
const optionValue = new Int32Array(1)
const optionSize = Uint32Array.of(4)

function option(fd: Fd, name: number): number {
  optionSize[0] = 4
  checked('look at a socket', 'getsockopt', fd.number, SOL_SOCKET, name, optionValue, optionSize)
  return optionValue[0] ?? 0
}

/**
 * Whether both are one open file (not merely one inode). Before Linux 6.10 dev, inode and link must do; anonymous
 * files, such as eventfds, share one inode, so that copies of them are not known for what they are there.
 */
export function sameOpenFile(a: Fd, b: Fd): boolean {
  const answer = libc('fcntl', a.number, F_DUPFD_QUERY, b.number)
  if (answer !== -1) return answer === 1
  if (a.number === b.number) return true
  const link = linkOf(a)
  return !link.startsWith('anon_inode:') && inodeKey(a) === inodeKey(b) && link === linkOf(b)
}

/** struct linger: whether it is on, and seconds. */
const linger = new Int32Array(2)
const lingerSize = Uint32Array.of(8)

/**
 * For a file that another process has sent, before it is closed. A connection that lingers would hold up whoever closes
 * it last for as long as its other side likes: it does not linger any more. True for files of file systems that may ask
 * somebody at the close (FUSE and NFS flush), and for devices.
 */
export function closingWaits(fd: Fd): boolean {
  let type: number
  try {
    const stat = statOf(fd)
    if (stat.type === S_IFREG && (stat.dev === memfdDevice() || isSealable(fd))) return false
    type = stat.type
  } catch {
    // Nothing is known of it.
    return true
  }
  if (type === S_IFSOCK) stopLingering(fd)
  return type === S_IFREG || type === S_IFDIR || type === S_IFCHR || type === S_IFBLK
}

function stopLingering(fd: Fd): void {
  lingerSize[0] = linger.byteLength
  if (libc('getsockopt', fd.number, SOL_SOCKET, SO_LINGER, linger, lingerSize) === -1) return
  // Of no time at all it is a reset, and waits for nothing.
  if (linger[0] === 0 || linger[1] === 0) return
  linger.fill(0)
  libc('setsockopt', fd.number, SOL_SOCKET, SO_LINGER, linger, linger.byteLength)
}

const KCMP_FILE = 0

/**
 * An order of open files: less than, equal to or greater than 0, the same for every descriptor of an open file for as
 * long as it is open. kcmp(2) knows one. Undefined when they are two and kcmp may not be used (some containers).
 */
export function compareOpenFiles(a: Fd, b: Fd): number | undefined {
  if (a.number === b.number) return 0
  const order = libc('syscall', SYS.kcmp, process.pid, process.pid, KCMP_FILE, a.number, b.number)
  if (order === 0) return 0
  if (order === 1) return -1
  if (order === 2) return 1
  return sameOpenFile(a, b) ? 0 : undefined
}

/** `dev:ino`, which names a socket, a pipe or a file for as long as somebody has it open. */
export function inodeKey(fd: Fd): string {
  const { dev, ino } = statOf(fd)
  return `${dev}:${ino}`
}
