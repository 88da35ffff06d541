/**
 * The notification protocol of systemd, sd_notify(3): datagrams to a Unix socket, which Node cannot send. A manager
 * that is gone or does not read is an error with the errno's name; nothing blocks.
 *
 * A message may bring files along: to be kept by the manager (`FDSTORE=1`), which gives them to the next process of the
 * service; or one end of a pair, which the manager closes when it has done all that was asked before (`BARRIER=1`).
 */
import { LuoError } from '../errors.js'
import type { Fd } from './fd.js'
import { AF, connectSocket, openSocket, SOCK } from './socket.js'
import { send, sendDatagram, unixAddress } from './unix.js'

/** Sends `message` ("READY=1", "MAINPID=12") to the socket at `path`, or at an abstract name (`@name`). */
export function notify(path: string, message: string): void {
  sendDatagram(path, Buffer.from(message))
}

/** sd_notify(3) of FDNAME. */
const MAX_NAME_BYTES = 255

/** Keeps the files under this one name, in addition to those that are kept under it already. */
export function storeMessage(name: string): string {
  // Without FDPOLL=0 the manager would drop a file as soon as its other end is gone.
  return `FDSTORE=1\nFDNAME=${checkedName(name)}\nFDPOLL=0\n`
}

/** Lets go of all files of this name. */
export function unstoreMessage(name: string): string {
  return `FDSTOREREMOVE=1\nFDNAME=${checkedName(name)}\n`
}

/** It may hold nothing else, and brings exactly one file. */
export const BARRIER_MESSAGE = 'BARRIER=1'

/** ASCII without control characters and colons: the manager gives another one a name of its own. */
function checkedName(name: string): string {
  if (name.length <= MAX_NAME_BYTES && /^[ -9;-~]+$/.test(name)) return name
  throw new LuoError('EINVAL', `keep a file as "${name.slice(0, 40)}": at most ${MAX_NAME_BYTES} of ASCII, without ":"`)
}

/** One connection for many messages. Their order is kept. */
export class NotifyChannel {
  /** To be watched for being writable, after a `send` that was false. */
  readonly socket: Fd

  constructor(path: string) {
    const address = unixAddress(path)
    this.socket = openSocket(AF.unix, SOCK.datagram)
    try {
      connectSocket(this.socket, address, path)
    } catch (error) {
      this.socket.close()
      throw error
    }
  }

  /** False when the manager has too much to read already: nothing was sent. At most 253 files. */
  send(message: string, fds: readonly Fd[] = []): boolean {
    return send(this.socket, Buffer.from(message), fds) > 0
  }

  close(): void {
    this.socket.close()
  }
}
