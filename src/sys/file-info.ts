/**
 * What kind of file a descriptor is, and whether two are the same. Kinds are told apart by what the kernel says of the
 * open file, never by its name: `/proc/self/fd`, stat, and for sockets their domain, type and state.
 */
import { fstatSync, readlinkSync, type Stats, statfsSync } from 'node:fs'
import type { Fd } from './fd.js'
import { checked, libc, SYS } from './ffi.js'
import { getSeals } from './memfd.js'

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
const F_DUPFD_QUERY = 1027
const TMPFS_MAGIC = 0x01021994
const HUGETLBFS_MAGIC = 0x958458f6
/** Character devices of pseudo-terminals (Documentation/admin-guide/devices.txt): /dev/ptmx, and eight majors of slaves. */
const PTMX_MAJOR = 5
const PTMX_MINOR = 2
const PTY_SLAVE_MAJORS = { first: 136, last: 143 }

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
  /** What `/proc/self/fd` says: a path, or `anon_inode:[eventfd]`. For people. */
  link: string
  dev: number
  ino: number
  size: number
  /** Sockets that accept connections. */
  listening: boolean
}

export function fileInfo(fd: Fd): FileInfo {
  const stat = fstatSync(fd.number)
  // Hundreds of connections arrive while clients wait: what is known of a socket without it is not looked up.
  const link = stat.isSocket() ? `socket:[${stat.ino}]` : linkOf(fd)
  const kind = kindOf(fd, stat, link)
  return {
    kind,
    link,
    dev: stat.dev,
    ino: stat.ino,
    size: stat.size,
    listening: stat.isSocket() && option(fd, SO_ACCEPTCONN) === 1,
  }
}

function linkOf(fd: Fd): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd.number}`)
  } catch {
    return ''
  }
}

function kindOf(fd: Fd, stat: Stats, link: string): FileKind {
  if (stat.isSocket()) return socketKind(fd)
  if (stat.isFIFO()) return link.startsWith('pipe:') ? 'pipe' : 'fifo'
  if (stat.isDirectory()) return 'directory'
  if (stat.isCharacterDevice()) return characterKind(stat.rdev)
  if (stat.isBlockDevice()) return 'block'
  // A file at the root of somebody's own mount may have such a path too.
  if (link.startsWith('/memfd:') && unlinkedMemory(fd, stat)) {
    return filesystem(fd) === HUGETLBFS_MAGIC ? 'hugetlb' : 'memfd'
  }
  if (link.startsWith('anon_inode:')) return anonymousKind(link)
  if (link.startsWith('pidfd:')) return 'pidfd'
  if (stat.isFile()) return unlinkedMemory(fd, stat) && filesystem(fd) === TMPFS_MAGIC ? 'shmem' : 'file'
  return 'anonymous'
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

/** A memfd, or a file of /dev/shm that no name leads to any more: only memory answers what its seals are. */
function unlinkedMemory(fd: Fd, stat: Stats): boolean {
  if (stat.nlink > 0) return false
  try {
    getSeals(fd)
    return true
  } catch {
    return false
  }
}

function filesystem(fd: Fd): number {
  return statfsSync(`/proc/self/fd/${fd.number}`).type
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
  const left = fileInfo(a)
  const right = fileInfo(b)
  const shared = left.link.startsWith('anon_inode:')
  return !shared && left.dev === right.dev && left.ino === right.ino && left.link === right.link
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
  const { dev, ino } = fstatSync(fd.number)
  return `${dev}:${ino}`
}
