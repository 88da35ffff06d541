/**
 * Sessions of the kernel's device for programs that make the ioctls themselves: luod has the device, which takes one
 * opener, so they ask it for a session. luod keeps no copy of what it gives out. All of it is for root: EPERM.
 *
 * Names that begin with `luod` are luod's own: they are not given out (EPERM), and not listed. Nor are those given out
 * that begin with `systemd`: 261 and newer has the stores of its services in one at a kexec.
 */
import { type ForeignSession, foreignSessions } from '../backends/kernel.js'
import { checkName } from '../core/names.js'
import { LuoError } from '../errors.js'
import type { KernelSession, Methods } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { createSession, retrieveSession } from '../sys/liveupdate.js'
import type { Answer, Call } from '../wire/server.js'
import type { Answers } from './answers.js'

/** Of `luod-internal`, and whatever else luod keeps. */
const OWN = 'luod'
const SYSTEMD = 'systemd'
/** In one answer, which with names of 63 bytes, each of six in JSON, is well below what a message may have. */
export const MAX_LISTED = 1_000

/** The two calls of the device. The descriptor is the caller's, and the session's only one. */
export interface SessionOpener {
  createSession(name: string): Fd
  retrieveSession(name: string): Fd
}

/** `device` stays the caller's. */
export function sessionOpener(device: Fd): SessionOpener {
  return {
    createSession: (name) => createSession(device, name),
    retrieveSession: (name) => retrieveSession(device, name),
  }
}

/** `complete`: every process was looked at, and everything that was found is listed. */
export function kernelSessions(
  peer: { uid: number },
  look: () => { sessions: ForeignSession[]; complete: boolean } = foreignSessions,
): Methods['KernelSessions']['output'] {
  mustBeRoot('list the sessions of the kernel', peer)
  const { sessions, complete } = look()
  const foreign = sessions.filter(({ name }) => !isOwn(name))
  return { sessions: foreign.slice(0, MAX_LISTED).map(described), complete: complete && foreign.length <= MAX_LISTED }
}

function described({ name, direction, pid, comm }: ForeignSession): KernelSession {
  return { name, pid, command: comm, ...(direction && { direction }) }
}

/**
 * EINVAL for a name that the kernel cannot have, and what it answers itself. LUO_REPEATED when this request was
 * answered before: the descriptor went out with that answer.
 */
export async function openKernelSession(
  device: SessionOpener | undefined,
  answers: Pick<Answers, 'once'>,
  { input, peer }: Pick<Call<'OpenKernelSession'>, 'input' | 'peer'>,
): Promise<Answer<'OpenKernelSession'>> {
  const what = `open the session ${JSON.stringify(input.name)} of the kernel`
  mustBeRoot(what, peer)
  checkName(input.name)
  const owner = [OWN, SYSTEMD].find((reserved) => input.name.startsWith(reserved))
  if (owner) throw new LuoError('EPERM', `${what}: names that begin with ${owner} are ${owner}'s own; take another`)
  if (!device) {
    throw new LuoError('LUO_UNSUPPORTED', `${what}: this luod does not have the device of the kernel (luoctl status)`)
  }
  let session: Fd | undefined
  try {
    const output = await answers.once(peer.uid, 'OpenKernelSession', input, () => {
      session = input.direction === 'outgoing' ? device.createSession(input.name) : device.retrieveSession(input.name)
      return { fds: 1, session_fd: 0 }
    })
    if (session) return { output, fds: [session] }
  } catch (error) {
    session?.close()
    throw error
  }
  throw new LuoError('LUO_REPEATED', `${what}: this request was answered, and the descriptor went out with the answer`)
}

function isOwn(name: string): boolean {
  return name.startsWith(OWN)
}

function mustBeRoot(what: string, { uid }: { uid: number }): void {
  if (uid !== 0) throw new LuoError('EPERM', `${what}: uid ${uid} may not, root may`)
}
