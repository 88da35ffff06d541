/**
 * The kinds of files: the one table that says which are kept, what of each crosses what, and why the others are
 * refused. The handlers are made from it, docs/kinds.md and `luoctl kinds` show it, and a test goes through it: a
 * property without a proof that passes is a failure.
 */
import type { FileKind } from '../sys/file-info.js'

/** What crosses which change of code. */
export interface Crossing {
  /** Of the service, or of luod: the kernel goes on. */
  readonly update: string
  /** A new generation of the orchestrator on the same kernel; descriptors travel beside the memory. */
  readonly emulatedKexec: string
  /** A new kernel, by /dev/liveupdate. */
  readonly kexec: KexecCrossing
}

/** By the kernel itself; by value, written down by luod and made again; or refused when it is preserved. */
export interface KexecCrossing {
  readonly by: 'kernel' | 'value' | 'nothing'
  /** What crosses, or why nothing does. */
  readonly what: string
}

export interface KeptKind {
  readonly compatible: string
  readonly what: string
  /**
   * What can be preserved only once: an inode, where it is one object however often it was opened, or an open file,
   * where inodes are shared by many.
   */
  readonly identity: 'inode' | 'open file'
  readonly crosses: Crossing
  /** By id: what is found again on the other side of an update, and of an emulated kexec. */
  readonly properties: Readonly<Record<string, string>>
  /** By id: what is found again after a kexec, of a kind that crosses it by value. */
  readonly byValue?: Readonly<Record<string, string>>
}

export interface RefusedKind {
  readonly what: string
  /** Follows "ENOENT: ". */
  readonly reason: string
}

/** luod holds another descriptor of the same open file: whatever the kernel has in it is there. */
const BY_REFERENCE = 'the open file itself, with all that is in it'

const overKexec = (by: KexecCrossing['by']) => (what: string) =>
  ({ update: BY_REFERENCE, emulatedKexec: BY_REFERENCE, kexec: { by, what } }) as const satisfies Crossing

const byKernel = overKexec('kernel')('contents, size, position, seals')
const byValue = overKexec('value')
const refusedBecause = overKexec('nothing')

const NONBLOCK = 'O_NONBLOCK, set or not'
const UNREAD = 'bytes that arrived and were not read'
const QUEUE = 'listens on, with its backlog; connections that wait in its queue are accepted later'
const CONNECTED = 'goes on in both directions; the peer sees no end of file and no reset'
const OPTIONS = 'socket options, such as'
const LISTENS = 'listens at the same address, with its backlog'
const SOCKET_OPTIONS = 'socket options that somebody has set; the others are the defaults of the next kernel'

export const KEPT_KINDS = {
  memfd: {
    compatible: 'memfd-ref-v1',
    what: 'memory file (memfd_create)',
    identity: 'inode',
    crosses: byKernel,
    properties: {
      contents: 'what is in it, also what is written after it was preserved',
      size: 'its size, to the byte',
      position: 'the file position',
      seals: 'the seals, and that more can be added or not',
      holes: 'holes stay holes: they take no memory',
    },
  },
  shmem: {
    compatible: 'shmem-ref-v1',
    what: 'file of /dev/shm or another tmpfs without a name left (shm_unlink)',
    identity: 'inode',
    crosses: byKernel,
    properties: {
      contents: 'what is in it, also what is written after it was preserved',
      size: 'its size, to the byte',
      position: 'the file position',
      holes: 'holes stay holes: they take no memory',
    },
  },
  hugetlb: {
    compatible: 'hugetlb-ref-v1',
    what: 'memory file of huge pages (memfd_create with MFD_HUGETLB)',
    identity: 'inode',
    crosses: refusedBecause('the kernel takes no memory of huge pages; use other memory'),
    properties: {
      contents: 'what is in it, also what is written after it was preserved',
      size: 'its size',
      position: 'the file position',
      seals: 'the seals, and that more can be added or not',
      'page size': 'the size of its pages',
      holes:
        'holes can be written to: pages of the pool are reserved for them when it is preserved and at each freeze, or ' +
        'that fails with ENOMEM',
    },
  },
  tcp: {
    compatible: 'tcp-ref-v1',
    what: 'TCP socket',
    identity: 'inode',
    crosses: byValue('listening sockets; a connection ends with the kernel, and is refused'),
    properties: {
      listening: QUEUE,
      connected: CONNECTED,
      unread: UNREAD,
      unsent: 'bytes that were written and that the peer has no room for yet',
      'half-closed': 'one direction that was shut down stays so, and the other one stays open',
      options: `${OPTIONS} TCP_NODELAY, SO_KEEPALIVE, SO_RCVBUF`,
    },
    byValue: {
      listening: LISTENS,
      options: SOCKET_OPTIONS,
      flags: NONBLOCK,
    },
  },
  mptcp: {
    compatible: 'mptcp-ref-v1',
    what: 'Multipath TCP socket',
    identity: 'inode',
    crosses: byValue('listening sockets; a connection ends with the kernel, and is refused'),
    properties: {
      listening: QUEUE,
      connected: CONNECTED,
      unread: UNREAD,
      options: `${OPTIONS} TCP_NODELAY, SO_KEEPALIVE, SO_RCVBUF`,
    },
    byValue: {
      listening: LISTENS,
      options: SOCKET_OPTIONS,
      flags: NONBLOCK,
    },
  },
  udp: {
    compatible: 'udp-ref-v1',
    what: 'UDP socket',
    identity: 'inode',
    crosses: byValue('bound sockets; datagrams that were not read are lost'),
    properties: {
      bound: 'its address; datagrams arrive at it all the time',
      connected: 'the peer that it is connected to',
      unread: 'datagrams that were not read, each by itself and with its sender',
      options: `${OPTIONS} SO_BROADCAST, SO_RCVBUF, membership of a multicast group`,
    },
    byValue: {
      bound: 'its address, of IPv4 or IPv6; a link-local one at the interface of the same name',
      connected: 'the peer that it is connected to',
      multicast: 'membership of multicast groups, at the interface of the same name',
      options: SOCKET_OPTIONS,
      flags: NONBLOCK,
    },
  },
  unix: {
    compatible: 'unix-ref-v1',
    what: 'Unix socket of any type (stream, datagram, seqpacket)',
    identity: 'inode',
    crosses: byValue('listening sockets, and bound ones of datagrams; the others are refused'),
    properties: {
      listening: QUEUE,
      connected: CONNECTED,
      unread: 'what arrived and was not read, in messages where the type has them',
      'passed files': 'files that are under way in a message that was not read',
      credentials: "the peer's process, user and group",
      bound: 'its name: a path, or an abstract one',
      options: `${OPTIONS} SO_PASSCRED, SO_RCVBUF`,
    },
    byValue: {
      listening: LISTENS,
      packets: 'a listening socket of type SOCK_SEQPACKET too',
      datagrams: 'a bound socket of datagrams',
      abstract: 'an abstract name',
      file: 'mode and owner of the file that is its name; one that nobody has any more is replaced',
      options: SOCKET_OPTIONS,
      flags: NONBLOCK,
    },
  },
  pipe: {
    compatible: 'pipe-ref-v1',
    what: 'pipe, either end',
    identity: 'open file',
    crosses: refusedBecause('what is in a pipe, and who has its other end, end with the kernel; make a new one'),
    properties: {
      unread: UNREAD,
      'other end': 'who has the other end sees neither end of file nor EPIPE',
      capacity: 'F_SETPIPE_SZ',
      flags: NONBLOCK,
    },
  },
  fifo: {
    compatible: 'fifo-ref-v1',
    what: 'FIFO (mkfifo), opened for reading, writing or both',
    identity: 'open file',
    crosses: refusedBecause('what is in a FIFO, and who has its other end, end with the kernel; open it again'),
    properties: {
      unread: UNREAD,
      'other end': 'who has the other end sees neither end of file nor EPIPE',
      unlinked: 'goes on when its name is gone',
      flags: NONBLOCK,
    },
  },
  eventfd: {
    compatible: 'eventfd-ref-v1',
    what: 'eventfd',
    identity: 'open file',
    crosses: byValue('counter and flags'),
    properties: {
      counter: 'the counter, with what is added meanwhile',
      semaphore: 'EFD_SEMAPHORE, set or not',
      flags: NONBLOCK,
    },
    byValue: {
      counter: 'the counter',
      semaphore: 'EFD_SEMAPHORE, set or not',
      flags: NONBLOCK,
    },
  },
  timerfd: {
    compatible: 'timerfd-ref-v1',
    what: 'timerfd',
    identity: 'open file',
    crosses: refusedBecause('its clock begins anew with the kernel, or ran on meanwhile; make a new one'),
    properties: {
      running: 'goes on running: what remains gets less meanwhile',
      interval: 'the interval',
      expirations: 'expirations that were not read, those meanwhile included',
      flags: NONBLOCK,
    },
  },
  inotify: {
    compatible: 'inotify-ref-v1',
    what: 'inotify',
    identity: 'open file',
    crosses: refusedBecause('events that nobody saw would be missing; make a new one, and look at what it watches'),
    properties: {
      watches: 'the watches, by the same numbers',
      events: 'events that were not read, those meanwhile included',
      flags: NONBLOCK,
    },
  },
  pidfd: {
    compatible: 'pidfd-ref-v1',
    what: 'pidfd',
    identity: 'open file',
    crosses: refusedBecause('its process ends with the kernel'),
    properties: {
      process: 'names the same process, and signals reach it',
      exit: 'tells of its end, also of one meanwhile',
    },
  },
  file: {
    compatible: 'file-ref-v1',
    what: 'regular file of any file system',
    identity: 'open file',
    crosses: byValue('path, flags, position, flock; opened only if it is the same file, unchanged'),
    properties: {
      position: 'the file position',
      unlinked: 'contents, also when its name is gone',
      flags: 'O_APPEND, and what it was opened for',
      flock: 'locks by flock(2)',
      'OFD locks': 'locks of the open file (F_OFD_SETLK); locks of a process (F_SETLK) end with the process',
    },
    byValue: {
      position: 'the file position',
      access: 'what it was opened for',
      flags: 'O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_SYNC, O_DSYNC',
      flock: 'the lock by flock(2); LUO_CHANGED or EAGAIN rather than without',
      'the same': 'the same file, with nothing changed; else LUO_CHANGED, and nothing is opened',
    },
  },
  directory: {
    compatible: 'directory-ref-v1',
    what: 'directory',
    identity: 'open file',
    crosses: byValue('path, flags, position, flock; opened only if it is the same directory'),
    properties: {
      position: 'how far it was read (getdents)',
      renamed: 'leads to the same directory, under whatever name it has by now',
      flock: 'locks by flock(2)',
    },
    byValue: {
      position: 'how far it was read (getdents); LUO_CHANGED when its entries have changed since',
      flock: 'the lock by flock(2)',
      'the same': 'the same directory; else LUO_CHANGED, and nothing is opened',
    },
  },
  'pty-master': {
    compatible: 'pty-master-ref-v1',
    what: 'pseudo-terminal, the side of the terminal emulator (/dev/ptmx)',
    identity: 'open file',
    crosses: refusedBecause('the programs in the terminal end with the kernel; make a new one'),
    properties: {
      'no hang-up': 'programs in the terminal see no hang-up: no SIGHUP, no end of file',
      unread: 'output of the programs that was not read',
      window: 'the size of the window',
      session: 'the session that has it as its controlling terminal, and its foreground group',
    },
  },
  'pty-slave': {
    compatible: 'pty-slave-ref-v1',
    what: 'pseudo-terminal, the side of the programs (/dev/pts/N)',
    identity: 'open file',
    crosses: refusedBecause('the terminal ends with the kernel; make a new one'),
    properties: {
      settings: 'the settings (termios)',
      unread: 'input that was not read',
      'other side': 'the terminal emulator sees no end (EIO)',
      flags: NONBLOCK,
    },
  },
} as const satisfies Readonly<Partial<Record<FileKind, KeptKind>>>

export type KeptFileKind = keyof typeof KEPT_KINDS
/** Kinds of which something crosses a kexec by value. */
export type ByValueKind = {
  [K in KeptFileKind]: (typeof KEPT_KINDS)[K] extends { readonly byValue: object } ? K : never
}[KeptFileKind]

export const REFUSED_KINDS: Readonly<Record<Exclude<FileKind, KeptFileKind> | 'luod', RefusedKind>> = {
  epoll: {
    what: 'epoll',
    reason: 'an epoll watches files of the process that made it; preserve those files and make a new epoll',
  },
  signalfd: {
    what: 'signalfd',
    reason: 'a signalfd reads the signals of whoever reads it; make a new one',
  },
  io_uring: {
    what: 'io_uring',
    reason: 'an io_uring works on the memory and the files of the process that made it; make a new one',
  },
  luod: {
    what: "luod's own sockets: its listener, connections to it, session descriptors, tickets",
    reason: "this is one of luod's own sockets; luod would wait for its own end, and it means nothing to a successor",
  },
  character: {
    what: 'character device, other than a pseudo-terminal',
    reason: 'the state of a device is in its driver, and may belong to the process that opened it; open it again',
  },
  block: {
    what: 'block device',
    reason: 'a block device stays open for as long as luod has it, so that nobody could detach it; open it again',
  },
  socket: {
    what: 'socket of another family (netlink, packet, vsock, raw …)',
    reason: 'nothing is known about what sockets of this family share with the process that opened them; open it again',
  },
  anonymous: {
    what: 'anonymous file of another kind (fanotify, userfaultfd, BPF, perf …)',
    reason: 'nothing is known about what files of this kind share with the process that made them; make a new one',
  },
}

/** Why nothing of this kind crosses a kexec; undefined when something does. */
export function refusalOverKexec(kind: FileKind): string | undefined {
  if (!(kind in KEPT_KINDS)) return REFUSED_KINDS[kind as keyof typeof REFUSED_KINDS].reason
  const { by, what }: KexecCrossing = KEPT_KINDS[kind as KeptFileKind].crosses.kexec
  return by === 'nothing' ? what : undefined
}

/** One row for each kind, in the order of the table: what `luoctl kinds --json` prints. */
export interface KindRow {
  kind: string
  kept: boolean
  what: string
  compatible?: string
  identity?: KeptKind['identity']
  crosses?: Crossing
  properties?: Readonly<Record<string, string>>
  byValue?: Readonly<Record<string, string>>
  reason?: string
}

export function kindRows(): KindRow[] {
  return [
    ...Object.entries(KEPT_KINDS).map(([kind, row]) => ({ kind, kept: true, ...row })),
    ...Object.entries(REFUSED_KINDS).map(([kind, row]) => ({ kind, kept: false, ...row })),
  ]
}
