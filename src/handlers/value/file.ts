/**
 * Regular files and directories by value: the path, what they were opened for, the position, a lock of flock(2), and
 * what tells that it is the same file. What is there after the reboot is opened only when all of that fits; else it is
 * LUO_CHANGED, with the path and what differs.
 *
 * The same file: inode, birth time, and the name that a file server would give out for it, which holds the generation
 * of the inode, so that an inode that was used again is told apart. And the file system: on the same kernel its device
 * number. A reboot numbers devices in the order in which they are found, and file systems without one of their own
 * (btrfs, overlay, NFS, 9p) in the order in which they are mounted; so after it the number need not be the same when
 * the kind of file system is, and either the identity that it gives itself (statfs) or the file server's name. An
 * overlay that numbers its inodes anew at each mount has its directories refused by this, and never confused.
 *
 * And unchanged: size and both times in ns, and a hash of the first and the last page. Times say it of a file system
 * that works; the hash also of one that lost its last writes, or that counts in seconds. Of a directory only what it
 * is, since others make files there; but a position in it means nothing once its entries have changed.
 */
import { readFileSync } from 'node:fs'
import { isLuoError, LuoError } from '../../errors.js'
import type { Fd } from '../../sys/fd.js'
import {
  ACCESS_NAMES,
  endsHash,
  FILE_LOCKS,
  type FileIdentity,
  type FileLock,
  type FileState,
  howOpened,
  identityOf,
  locate,
  lockAgain,
  locksOf,
  lookAt,
  OPEN_FLAG_NAMES,
  type Opened,
  openLocated,
  pathOf,
  positionText,
  seekTo,
  stateOf,
} from '../../sys/same-file.js'
import type { HeldFile } from '../held-file.js'
import type { Check } from './check.js'

/** File systems that end with the kernel, or with a process of it. */
const PASSING: Readonly<Record<string, string>> = {
  '0x1021994': 'tmpfs',
  '0x858458f6': 'ramfs',
  '0x958458f6': 'hugetlbfs',
  '0x9fa0': 'proc',
  '0x62656572': 'sysfs',
  '0x64626720': 'debugfs',
  '0x74726163': 'tracefs',
  '0x27e0eb': 'cgroup',
  '0x63677270': 'cgroup2',
  '0x62656570': 'configfs',
  '0x73636673': 'securityfs',
  '0xcafe4a11': 'bpf',
  '0x1cd1': 'devpts',
  '0x19800202': 'mqueue',
  '0x6e736673': 'nsfs',
  '0x42494e4d': 'binfmt_misc',
  '0x65735543': 'fusectl',
  '0x65735546': 'fuse',
  '0x5345434d': 'secretmem',
  '0x474d454d': 'guest_memfd',
}
const BOOT_ID = '/proc/sys/kernel/random/boot_id'
const DIGITS = /^\d{1,20}$/
const HEX = /^0x[0-9a-f]{1,16}$/
const HANDLE = /^(-?\d{1,11}:[0-9a-f]{0,256})?$/
const SHA256 = /^([0-9a-f]{64})?$/
const UUID = /^[0-9a-f-]{36}$/
/** off_t. */
const MAX_POSITION = 2n ** 63n - 1n
const DELETED = / \(deleted\)$/

export interface FileDescription extends Opened {
  path: string
  /** Of the kernel that this was described under. */
  boot: string
  identity: FileIdentity
  state: FileState
  /** Of a regular file that can be read; '' of others. */
  hash: string
  position: string
  lock?: FileLock
}

type Kind = 'file' | 'directory'

/** Why it cannot cross, if it cannot. Some system calls, and nothing is read. */
export function whyFileCannot({ fd, info }: HeldFile): string | undefined {
  const fileSystem = PASSING[identityOf(fd).fsType]
  if (fileSystem === 'fuse') return 'it is of a FUSE file system, whose server ends with this kernel'
  if (fileSystem) return `it is of ${fileSystem}, which ends with this kernel`
  const path = pathOf(fd)
  if (DELETED.test(path) && !leadsTo(path, info)) return 'no name leads to it any more'
  if (!leadsTo(path, info)) return `its path ${path} does not lead to it from here`
  const lock = locksOf(fd).find((name) => !(name in FLOCKS))
  if (lock) return `it has a lock that does not cross (${lock})`
  return undefined
}

function leadsTo(path: string, info: HeldFile['info']): boolean {
  try {
    using located = locate(path)
    const there = lookAt(located)
    return there.kind === info.kind && there.dev === info.dev && there.ino === info.ino
  } catch {
    return false
  }
}

/** As /proc names the locks of flock(2). */
const FLOCKS: Readonly<Record<string, FileLock>> = { 'FLOCK READ': 'shared', 'FLOCK WRITE': 'exclusive' }

export function describeFile({ fd, info }: HeldFile): FileDescription {
  const [lock] = locksOf(fd).flatMap((name) => FLOCKS[name] ?? [])
  return {
    path: pathOf(fd),
    ...howOpened(fd),
    boot: bootId(),
    identity: identityOf(fd),
    state: stateOf(fd),
    hash: info.kind === 'file' ? endsHash(fd) : '',
    position: positionText(fd),
    ...(lock ? { lock } : {}),
  }
}

function bootId(): string {
  return readFileSync(BOOT_ID, 'latin1').trim()
}

export function readFileDescription(check: Check): FileDescription {
  const identity = check.within('identity')
  const state = check.within('state')
  const position = check.text('position', DIGITS)
  if (BigInt(position) > MAX_POSITION) throw check.wrong('"position" is too large')
  return {
    path: check.text('path', /^\//),
    access: check.oneOf('access', ACCESS_NAMES),
    flags: check.someOf('flags', OPEN_FLAG_NAMES),
    boot: check.text('boot', UUID),
    identity: {
      dev: identity.text('dev', DIGITS),
      ino: identity.text('ino', DIGITS),
      fsType: identity.text('fsType', HEX),
      fsId: identity.text('fsId', HEX),
      handle: identity.text('handle', HANDLE),
      born: identity.text('born', DIGITS),
    },
    state: {
      size: state.text('size', DIGITS),
      mtime: state.text('mtime', /^-?\d{1,20}$/),
      ctime: state.text('ctime', /^-?\d{1,20}$/),
    },
    hash: check.text('hash', SHA256),
    position,
    ...(check.has('lock') ? { lock: check.oneOf('lock', FILE_LOCKS) } : {}),
  }
}

export function recreateFile(kind: Kind, description: FileDescription): Fd {
  const { path, position, lock } = description
  using located = lookUp(path)
  const differs = differences(kind, description, located)
  if (differs.length > 0) throw changed(path, differs)
  const fd = openLocated(located, description, kind === 'directory')
  try {
    if (position !== '0') seekTo(fd, position)
    if (lock) lockAgain(fd, lock)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

function lookUp(path: string): Fd {
  try {
    return locate(path)
  } catch (error) {
    if (isLuoError(error, 'ENOENT') || isLuoError(error, 'ENOTDIR')) throw changed(path, ['missing'], error)
    if (isLuoError(error, 'ELOOP')) throw changed(path, ['a link on the way'], error)
    throw error
  }
}

function changed(path: string, differs: readonly string[], cause?: unknown): LuoError {
  const missing = differs[0] === 'missing'
  const what = missing ? 'it is missing' : `it is not the file that it was: ${differs.join(', ')}`
  return new LuoError('LUO_CHANGED', `open ${path} again: ${what}`, { cause, params: { path, differs } })
}

/** What tells that it is another one; of the same one, what tells that it has changed. */
function differences(kind: Kind, description: FileDescription, located: Fd): string[] {
  if (lookAt(located).kind !== kind) return ['kind']
  const differs = otherFile(description, identityOf(located))
  if (differs.length > 0) return differs
  const before = description.state
  const now = stateOf(located)
  if (kind === 'directory') {
    return description.position !== '0' && before.mtime !== now.mtime ? ['entries, so that the position is lost'] : []
  }
  const states = (['size', 'mtime', 'ctime'] as const).filter((name) => before[name] !== now[name])
  if (states.length > 0 || description.hash === '') return states
  return endsHash(located) === description.hash ? [] : ['contents']
}

function otherFile({ identity: before, boot }: FileDescription, now: FileIdentity): string[] {
  const differs: string[] = []
  if (!sameFileSystem(before, now, boot === bootId())) differs.push('file system')
  if (before.ino !== now.ino) differs.push('inode')
  else if (before.handle !== now.handle) differs.push('generation')
  if (before.born !== '0' && before.born !== now.born) differs.push('birth time')
  return differs
}

function sameFileSystem(before: FileIdentity, now: FileIdentity, sameBoot: boolean): boolean {
  if (before.fsType !== now.fsType) return false
  if (before.dev === now.dev) return true
  if (sameBoot) return false
  return (before.fsId !== '0x0' && before.fsId === now.fsId) || (before.handle !== '' && before.handle === now.handle)
}
