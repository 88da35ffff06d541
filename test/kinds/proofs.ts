/** For each kind and each of its properties the proof, and for each kind something to make one of it with. */
import { existsSync, openSync, readdirSync } from 'node:fs'
import type { KeptFileKind } from '../../src/handlers/kinds.js'
import type { Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { openPidfd } from '../../src/sys/pidfd.js'
import type { Cross } from './crossing.js'
import { call, IPPROTO_MPTCP, IPPROTO_TCP, type Kit, memory, O_CLOEXEC, pipe, SOCK, socket } from './kit.js'
import { directory, FILE_KIND_PROOFS, file, terminal } from './proofs-files.js'
import { eventfd, inotify, KERNEL_PROOFS, timerfd } from './proofs-kernel.js'
import { fifo, LOCAL_PROOFS, pair } from './proofs-local.js'
import { hugeMemory, MEMORY_PROOFS, unlinkedInShm } from './proofs-memory.js'
import { boundUdp, NETWORK_PROOFS, stream } from './proofs-network.js'

/** Makes a file that has the property, crosses, and looks whether what came back has it. */
export type Proof = (kit: Kit, cross: Cross) => void

export const PROOFS: Record<string, Record<string, Proof>> = {
  ...MEMORY_PROOFS,
  ...NETWORK_PROOFS,
  ...LOCAL_PROOFS,
  ...KERNEL_PROOFS,
  ...FILE_KIND_PROOFS,
}

export const MAKERS: Record<KeptFileKind, (kit: Kit) => Fd> = {
  memfd: (kit) => kit.own(createMemfd('store', { size: 4096 })),
  shmem: unlinkedInShm,
  hugetlb: hugeMemory,
  tcp: (kit) => stream(kit, IPPROTO_TCP),
  mptcp: (kit) => stream(kit, IPPROTO_MPTCP),
  udp: boundUdp,
  unix: (kit) => pair(kit, 'stream')[0],
  pipe: (kit) => pipe(kit)[0],
  fifo: (kit) => fifo(kit)[0],
  eventfd,
  timerfd,
  inotify,
  pidfd: (kit) => kit.own(openPidfd(process.pid)),
  file,
  directory,
  'pty-master': (kit) => terminal(kit).master,
  'pty-slave': (kit) => terminal(kit).slave,
}

const AF_NETLINK = 16
const FAN_CLOEXEC = 1
const FAN_CLASS_NOTIF = 0
const IO_URING_PARAMS_BYTES = 120

/** luod's own sockets are luod's: own-sockets.test.ts. */
export const REFUSED_MAKERS: Record<string, (kit: Kit) => Fd> = {
  epoll: (kit) => kit.adopt(checked('make an epoll', 'epoll_create1', O_CLOEXEC)),
  signalfd: (kit) => {
    // An empty set of signals, of 8 bytes.
    memory.view.setBigUint64(0, 0n, true)
    return kit.adopt(call('signalfd4', -1, memory.address, 8, O_CLOEXEC))
  },
  io_uring: (kit) => {
    memory.bytes.fill(0, 0, IO_URING_PARAMS_BYTES)
    return kit.adopt(call('io_uring_setup', 1, memory.address))
  },
  character: (kit) => kit.adopt(openSync('/dev/null', 'r+')),
  block: (kit) =>
    kit.adopt(openSync(`/dev/${readdirSync('/sys/block').find((name) => existsSync(`/dev/${name}`))}`, 'r')),
  socket: (kit) => socket(kit, AF_NETLINK, SOCK.dgram),
  anonymous: (kit) => kit.adopt(call('fanotify_init', FAN_CLOEXEC | FAN_CLASS_NOTIF, 0)),
}
