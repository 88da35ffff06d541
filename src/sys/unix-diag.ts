/**
 * What the kernel tells of a Unix socket to nobody but sock_diag(7): its backlog, and which file of a file system is
 * its name. Undefined when the kernel does not know the socket: it is of another network namespace, or has no
 * unix_diag.
 */
import { Fd } from './fd.js'
import { checked, errno, failure, libc } from './ffi.js'
import { AF, SOCK } from './socket.js'

const NETLINK_SOCK_DIAG = 4
const SOCK_CLOEXEC = 0o2000000
const SOCK_DIAG_BY_FAMILY = 20
const NLM_F_REQUEST = 1
const NLMSG_ERROR = 2
const UDIAG_SHOW_VFS = 2
const UDIAG_SHOW_RQLEN = 0x10
const UNIX_DIAG_VFS = 1
const UNIX_DIAG_RQLEN = 4
const ALL_STATES = 0xffffffff
const NO_COOKIE = 0xffffffff
/** struct nlmsghdr, struct unix_diag_req, struct unix_diag_msg, struct nlattr. */
const HEADER_BYTES = 16
const REQUEST_BYTES = 24
const MESSAGE_BYTES = 16
const ATTRIBUTE_BYTES = 4
const ANSWER_BYTES = 4096

export interface UnixSocketDetails {
  /** What listen(2) was told; of a socket that does not listen, something else. */
  backlog: number | undefined
  /** The lower 32 bits of the inode of the file that it is bound to; undefined for one without a path. */
  fileInode: number | undefined
}

/** `inode`: the socket's own, as fstat(2) says. */
export function unixSocketDetails(inode: number): UnixSocketDetails | undefined {
  using fd = Fd.adopt(
    checked('ask about sockets', 'socket', AF.netlink, SOCK.datagram | SOCK_CLOEXEC, NETLINK_SOCK_DIAG),
  )
  const request = new DataView(new ArrayBuffer(HEADER_BYTES + REQUEST_BYTES))
  request.setUint32(0, request.byteLength, true)
  request.setUint16(4, SOCK_DIAG_BY_FAMILY, true)
  request.setUint16(6, NLM_F_REQUEST, true)
  request.setUint8(HEADER_BYTES, AF.unix)
  request.setUint32(HEADER_BYTES + 4, ALL_STATES, true)
  request.setUint32(HEADER_BYTES + 8, inode % 2 ** 32, true)
  request.setUint32(HEADER_BYTES + 12, UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN, true)
  request.setUint32(HEADER_BYTES + 16, NO_COOKIE, true)
  request.setUint32(HEADER_BYTES + 20, NO_COOKIE, true)
  // A struct sockaddr_nl of zeros but for the family is the kernel.
  const kernel = Uint8Array.of(AF.netlink, ...new Uint8Array(11))
  const bytes = new Uint8Array(request.buffer)
  checked('ask about a Unix socket', 'sendto', fd.number, bytes, bytes.length, 0, kernel, kernel.length)
  return decode(receiveAnswer(fd))
}

/** The kernel answers within sendto: nothing is waited for. */
function receiveAnswer(fd: Fd): DataView {
  const answer = new Uint8Array(ANSWER_BYTES)
  const got = libc('read', fd.number, answer, answer.length)
  if (got === -1) throw failure('read what the kernel says of a Unix socket', errno())
  return new DataView(answer.buffer, 0, got)
}

function decode(view: DataView): UnixSocketDetails | undefined {
  if (view.byteLength < HEADER_BYTES + MESSAGE_BYTES || view.getUint16(4, true) === NLMSG_ERROR) return undefined
  const details: UnixSocketDetails = { backlog: undefined, fileInode: undefined }
  let at = HEADER_BYTES + MESSAGE_BYTES
  while (at + ATTRIBUTE_BYTES <= view.byteLength) {
    const length = view.getUint16(at, true)
    if (length < ATTRIBUTE_BYTES || at + length > view.byteLength) break
    const type = view.getUint16(at + 2, true)
    if (type === UNIX_DIAG_VFS) details.fileInode = view.getUint32(at + ATTRIBUTE_BYTES, true)
    // The length of the queue, then the most that it may be.
    if (type === UNIX_DIAG_RQLEN) details.backlog = view.getUint32(at + ATTRIBUTE_BYTES + 4, true)
    at += Math.ceil(length / 4) * 4
  }
  return details
}
