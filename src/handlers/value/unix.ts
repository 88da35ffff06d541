/**
 * Listening Unix sockets, and bound datagram ones, by value: name, backlog, options, and of the file in the file system
 * its mode and owner. The file that is there from before the reboot is replaced, if it is a socket and nobody has it:
 * somebody is EADDRINUSE, and anything but a socket EEXIST.
 *
 * luod runs as root, and directories on the way may be of users. So it replaces and makes the file as the user that the
 * file was of, and can do nothing there that the user could not; only in a directory that nobody but root may write to
 * it acts as root. No link is followed.
 *
 * To whoever connects, the listener is of the process that called listen(2): luod. A service that calls it again, as
 * Node.js does, is named from then on.
 */
import { fchmodSync, fstatSync, lstatSync, rmSync, type Stats } from 'node:fs'
import { dirname } from 'node:path'
import { isLuoError, LuoError } from '../../errors.js'
import type { Fd } from '../../sys/fd.js'
import { fileInfo } from '../../sys/file-info.js'
import { asFileUser, changeOwner, withoutUmask } from '../../sys/file-user.js'
import { howOpened, locate, lookAt } from '../../sys/same-file.js'
import {
  AF,
  bindSocket,
  connectSocket,
  listenSocket,
  networkOf,
  openSocket,
  peerName,
  SOCK,
  setNonblocking,
  socketName,
  socketType,
} from '../../sys/socket.js'
import { unixSocketDetails } from '../../sys/unix-diag.js'
import type { HeldFile } from '../held-file.js'
import type { Check } from './check.js'
import { describeOptions, readOptions, type SocketOptions, setOptions, whyOptionsCannot } from './options.js'

const TYPES = ['stream', 'datagram', 'packets'] as const
type Type = (typeof TYPES)[number]
const FAMILY_BYTES = 2
/** sun_path. */
const MAX_NAME_BYTES = 108
const MAX_MODE = 0o7777
const MAX_ID = 2 ** 32 - 2
const MAX_BACKLOG = 2 ** 31 - 1
const OTHERS_MAY_WRITE = 0o022

interface UnixPath {
  path: string
  mode: number
  uid: number
  gid: number
}

export interface UnixDescription extends SocketOptions {
  type: Type
  nonblock: boolean
  /** What is behind the NUL of an abstract name, in hexadecimal; else there is a file. */
  abstract?: string
  file?: UnixPath
  /** Of one that listens. */
  backlog?: number
}

function typeOf(fd: Fd): Type | undefined {
  return TYPES.find((name) => SOCK[name] === socketType(fd))
}

/** Without the family; empty when it has no name. */
function nameOf(fd: Fd): Buffer {
  const name = Buffer.from(socketName(fd).subarray(FAMILY_BYTES))
  return name[0] === 0 || name.length === 0 ? name : name.subarray(0, name.indexOf(0) < 0 ? undefined : name.indexOf(0))
}

/** Why it cannot cross, if it cannot. */
export function whyUnixCannot({ fd, info }: HeldFile): string | undefined {
  if (!info.listening && (typeOf(fd) !== 'datagram' || peerName(fd))) {
    return 'a connection ends with this kernel; only a socket that listens, or a bound one of datagrams, crosses'
  }
  const name = nameOf(fd)
  if (name.length === 0) return 'it has no name'
  const details = unixSocketDetails(info.ino)
  if (!details) return 'it is of another network namespace than luod, or this kernel has no unix_diag'
  using fresh = openSocket(AF.unix, SOCK.stream)
  if (networkOf(fd) !== networkOf(fresh)) return 'it is of another network namespace than luod'
  if (name[0] !== 0 && !isFileOf(name.toString(), details.fileInode)) {
    return `its path ${name} is not absolute, or does not lead to it from here`
  }
  return whyOptionsCannot(fd)
}

function isFileOf(path: string, inode: number | undefined): boolean {
  try {
    using located = path.startsWith('/') ? locate(path) : undefined
    return located !== undefined && lookAt(located).ino % 2 ** 32 === inode
  } catch {
    return false
  }
}

export function describeUnix({ fd, info }: HeldFile): UnixDescription {
  const name = nameOf(fd)
  const type = typeOf(fd) ?? 'stream'
  using fresh = openSocket(AF.unix, SOCK[type])
  const common = { type, nonblock: howOpened(fd).flags.includes('nonblock'), ...describeOptions(fd, fresh) }
  const backlog = info.listening ? { backlog: unixSocketDetails(info.ino)?.backlog ?? 0 } : {}
  if (name[0] === 0) return { ...common, ...backlog, abstract: name.subarray(1).toString('hex') }
  const path = name.toString()
  const { mode, uid, gid } = lstatSync(path)
  return { ...common, ...backlog, file: { path, mode: mode & MAX_MODE, uid, gid } }
}

export function readUnixDescription(check: Check): UnixDescription {
  const type = check.oneOf('type', TYPES)
  if (check.has('backlog') === (type === 'datagram')) throw check.wrong('"backlog" does not fit the type')
  if (check.has('abstract') === check.has('file')) throw check.wrong('there is to be one name')
  const backlog = check.has('backlog') ? { backlog: check.integer('backlog', 0, MAX_BACKLOG) } : {}
  const common = { type, nonblock: check.flag('nonblock'), ...readOptions(check), ...backlog }
  if (check.has('abstract')) return { ...common, abstract: check.text('abstract', /^([0-9a-f]{2}){0,107}$/) }
  const file = check.within('file')
  const path = file.text('path', /^\//)
  if (Buffer.byteLength(path) >= MAX_NAME_BYTES) throw file.wrong('"path" is too long for a socket')
  const [mode, uid, gid] = [
    file.integer('mode', 0, MAX_MODE),
    file.integer('uid', 0, MAX_ID),
    file.integer('gid', 0, MAX_ID),
  ]
  return { ...common, file: { path, mode, uid, gid } }
}

export function recreateUnix(description: UnixDescription): Fd {
  const { type, abstract = '', file, backlog, nonblock } = description
  const fd = openSocket(AF.unix, SOCK[type])
  try {
    setOptions(fd, description)
    const what = file?.path ?? `the abstract name @${Buffer.from(abstract, 'hex')}`
    const name = file ? Buffer.from(`${file.path}\0`) : Buffer.from(`00${abstract}`, 'hex')
    const address = Buffer.concat([Uint8Array.of(AF.unix, 0), name])
    if (file) bindToFile(fd, file, address, type)
    else bindSocket(fd, address, what)
    if (backlog !== undefined) listenSocket(fd, backlog, what)
    setNonblocking(fd, nonblock)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

function bindToFile(fd: Fd, file: UnixPath, address: Uint8Array, type: Type): void {
  const { path, mode, uid, gid } = file
  const user = onlyRootsDirectory(dirname(path)) ? { uid: 0, gid: 0 } : { uid, gid }
  // The file gets the mode of the socket: there is no moment in which it has another one.
  fchmodSync(fd.number, mode)
  asFileUser(user.uid, user.gid, () => {
    removeStale(path, address, type)
    withoutUmask(() => bindSocket(fd, address, path))
  })
  using located = locate(path)
  const { ino } = lookAt(located)
  if (unixSocketDetails(fileInfo(fd).ino)?.fileInode !== ino % 2 ** 32) {
    throw new LuoError('EADDRINUSE', `bind to ${path}: somebody replaced it meanwhile`)
  }
  const now = fstatSync(located.number)
  if (now.uid !== uid || now.gid !== gid) changeOwner(located, uid, gid)
}

/**
 * Nobody else can put anything there, or in place of it. Else, and for a luod that is not root, the file's owner acts.
 */
function onlyRootsDirectory(path: string): boolean {
  using located = locate(path)
  const { uid, mode }: Stats = fstatSync(located.number)
  return uid === 0 && (mode & OTHERS_MAY_WRITE) === 0
}

function removeStale(path: string, address: Uint8Array, type: Type): void {
  const there = lstatSync(path, { throwIfNoEntry: false })
  if (!there) return
  if (!there.isSocket()) throw new LuoError('EEXIST', `bind to ${path}: something is there, and is no socket`)
  if (somebodyHas(address, type)) throw new LuoError('EADDRINUSE', `bind to ${path}: somebody has it already`)
  rmSync(path)
}

function somebodyHas(address: Uint8Array, type: Type): boolean {
  using probe = openSocket(AF.unix, SOCK[type])
  try {
    connectSocket(probe, address, 'a socket')
    return true
  } catch (error) {
    return !isLuoError(error, 'ECONNREFUSED')
  }
}
