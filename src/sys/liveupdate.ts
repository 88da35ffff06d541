/**
 * The kernel's live update orchestrator: its device, and the six calls on it and on its sessions. `abi/uapi.ts` has the
 * layouts. The kernel checks everything itself; what is checked before is what its interface cannot carry.
 *
 * Failures are the kernel's errno with what was attempted. `openLiveupdate` says more, because what an operator can do
 * about it depends on the errno: ENOENT and ENODEV (no live update), EACCES and EPERM (not root), EBUSY (somebody has the
 * device, and who), EIO (what the kernel before handed over cannot be used).
 */
import { fstatSync, openSync } from 'node:fs'
import {
  decodeIoctl,
  encodeIoctl,
  IOCTLS,
  type IoctlName,
  type IoctlValues,
  type SessionDirection,
} from '../abi/uapi.js'
import { asLuoError, type ErrnoName, isLuoError, LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { checked } from './ffi.js'
import { scratch } from './mapping.js'
import { whoHasOpen } from './open-files.js'

export const LIVEUPDATE_DEVICE = '/dev/liveupdate'
/** No file is open with this number. */
const NO_FD = -1
const LARGEST_STRUCT = Math.max(...Object.values(IOCTLS).map(({ bytes }) => bytes))

const ADVICE: Partial<Record<ErrnoName, string>> = {
  ENOENT: 'this kernel has no live update, or it is switched off: boot with liveupdate=on kho=on',
  ENODEV: 'live update is switched off: boot with liveupdate=on kho=on',
  EACCES: 'only root may use it',
  EPERM: 'only root may use it',
  EBUSY: 'a process that cannot be seen from here has it open',
  EIO: 'what the kernel before handed over cannot be used; the kernel log says why, and only a reboot helps',
}

let area: ReturnType<typeof scratch> | undefined

export interface Holder {
  pid: number
  /** The name of the process, up to 15 bytes. */
  comm: string
}

/** The device, for one opener at a time. Closing it leaves sessions as they are. */
export function openLiveupdate(path: string = LIVEUPDATE_DEVICE): Fd {
  const device = openFile(path)
  if (!fstatSync(device.number).isFile()) return device
  device.close()
  throw new LuoError('ENODEV', `open ${path}: it is a plain file, which somebody has made, and no device: remove it`)
}

function openFile(path: string): Fd {
  try {
    return Fd.adopt(openSync(path, 'r+'))
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code as ErrnoName | undefined
    if (code === undefined) throw asLuoError(error, 'EIO', `open ${path}`)
    const holders = code === 'EBUSY' ? deviceHolders(path) : []
    const who = holders.map(({ pid, comm }) => `process ${pid} (${comm})`).join(', ')
    const why = who === '' ? (ADVICE[code] ?? code) : `${who} has it open; end it, or use what it offers`
    throw new LuoError(code, `open ${path}: ${why}`, { cause: error, params: { holders } })
  }
}

/** Who has the device open, as far as this process may look. */
export function deviceHolders(path: string = LIVEUPDATE_DEVICE): Holder[] {
  const byPid = new Map(whoHasOpen((link) => link === path).found.map(({ pid, comm }) => [pid, { pid, comm }]))
  return [...byPid.values()]
}

/** The descriptor of a new outgoing session: the session is released with its last copy. */
export function createSession(device: Fd, name: string): Fd {
  return callForFd(device, 'createSession', { name, fd: NO_FD }, `create session ${name}`)
}

/** The descriptor of an incoming session: the session is finished with its last copy. */
export function retrieveSession(device: Fd, name: string): Fd {
  return callForFd(device, 'retrieveSession', { name, fd: NO_FD }, `retrieve session ${name}`)
}

/** `token`: a u64 in decimal. Without `fd` it is EBADF, unless something that the kernel checks before is wrong. */
export function preserveFd(session: Fd, token: string, fd: Fd | undefined): void {
  call(session, 'preserveFd', { token, fd: fd ? fd.number : NO_FD }, `preserve token ${token}`)
}

/** Owned by the caller; the same open file each time. */
export function retrieveFd(session: Fd, token: string): Fd {
  return callForFd(session, 'retrieveFd', { token, fd: NO_FD }, `retrieve token ${token}`)
}

export function finishSession(session: Fd): void {
  call(session, 'finish', {}, 'finish the session')
}

/** Also of a descriptor that somebody else gave: ENOTTY or EINVAL when it is no session's. */
export function sessionName(session: Fd): string {
  return call(session, 'getName', {}, 'read the name of a session').name
}

function callForFd(target: Fd, name: IoctlName, values: Partial<IoctlValues>, action: string): Fd {
  return Fd.adopt(call(target, name, values, action).fd)
}

function call(target: Fd, name: IoctlName, values: Partial<IoctlValues>, action: string): IoctlValues {
  const { number } = target
  const ioctl = IOCTLS[name]
  const struct = encodeIoctl(ioctl, values)
  area ??= scratch(LARGEST_STRUCT)
  const bytes = new Uint8Array(area.buffer, 0, struct.length)
  bytes.set(struct)
  checked(action, 'ioctl', number, ioctl.command, area.address)
  return decodeIoctl(ioctl, bytes)
}

/** Of any session's descriptor. It asks to preserve no file, which changes nothing and is refused in different ways. */
export function sessionDirection(session: Fd): SessionDirection {
  try {
    preserveFd(session, '0', undefined)
  } catch (error) {
    if (isLuoError(error, 'EINVAL')) return 'incoming'
    if (isLuoError(error, 'EBADF') || isLuoError(error, 'EEXIST')) return 'outgoing'
    throw error
  }
  throw new LuoError('LUO_UNSUPPORTED', 'ask a session for its direction: the kernel preserved a file that is not open')
}
