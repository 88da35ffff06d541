/**
 * libc, as functions. The FFI library is loaded on the first call and not before, so that everything which needs no
 * system call of ours works where it is not installed and on other systems.
 *
 * Rules for callers, all of them inside `sys/`: validate every number first, because the FFI turns NaN, 1.5 and 1e10
 * into ints without a word and checks no bounds; read `errno()` straight after the call, before anything allocates.
 */
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { type ErrnoName, LuoError } from '../errors.js'

/** An address is a number: user space ends at 2^47, or 2^56 with five levels and a hint that we never give. */
const SIGNATURES = {
  close: 'int close(int fd)',
  dup2: 'int dup2(int fd, int to)',
  fcntl: 'int fcntl(int fd, int command, int64_t argument)',
  memfd_create: 'int memfd_create(const char *name, uint32_t flags)',
  flock: 'int flock(int fd, int operation)',
  ftruncate: 'int ftruncate(int fd, int64_t length)',
  read: 'int64_t read(int fd, uint8_t *bytes, size_t length)',
  pread: 'int64_t pread(int fd, uint8_t *bytes, size_t length, int64_t offset)',
  pwrite: 'int64_t pwrite(int fd, const uint8_t *bytes, size_t length, int64_t offset)',
  mmap: 'int64_t mmap(int64_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
  munmap: 'int munmap(int64_t address, size_t length)',
  mremap: 'int64_t mremap(int64_t address, size_t length, size_t to, int flags, int64_t target)',
  socket: 'int socket(int domain, int type, int protocol)',
  socketpair: 'int socketpair(int domain, int type, int protocol, int *pair)',
  bind: 'int bind(int fd, const uint8_t *address, uint32_t size)',
  listen: 'int listen(int fd, int backlog)',
  connect: 'int connect(int fd, const uint8_t *address, uint32_t size)',
  accept4: 'int accept4(int fd, int64_t address, int64_t size, int flags)',
  shutdown: 'int shutdown(int fd, int how)',
  getsockopt: 'int getsockopt(int fd, int level, int name, uint8_t *value, uint32_t *size)',
  setsockopt: 'int setsockopt(int fd, int level, int name, const uint8_t *value, uint32_t size)',
  getsockname: 'int getsockname(int fd, uint8_t *address, uint32_t *size)',
  getpeername: 'int getpeername(int fd, uint8_t *address, uint32_t *size)',
  if_nametoindex: 'uint32_t if_nametoindex(const char *name)',
  if_indextoname: 'int64_t if_indextoname(uint32_t index, uint8_t *name)',
  eventfd: 'int eventfd(uint32_t initial, int flags)',
  sendmsg: 'int64_t sendmsg(int fd, int64_t message, int flags)',
  recvmsg: 'int64_t recvmsg(int fd, int64_t message, int flags)',
  sendto:
    'int64_t sendto(int fd, const uint8_t *bytes, size_t length, int flags, const uint8_t *address, uint32_t size)',
  epoll_create1: 'int epoll_create1(int flags)',
  epoll_ctl: 'int epoll_ctl(int epoll, int operation, int fd, uint8_t *event)',
  poll: 'int poll(uint8_t *fds, uint64_t count, int timeout)',
  epoll_wait: 'int epoll_wait(int epoll, uint8_t *events, int count, int timeout)',
  syscall: 'int64_t syscall(int64_t number, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f)',
  readlink: 'int64_t readlink(int64_t path, int64_t bytes, size_t length)',
  fstatfs: 'int fstatfs(int fd, int64_t out)',
  getrlimit: 'int getrlimit(int resource, uint64_t *limits)',
  setrlimit: 'int setrlimit(int resource, const uint64_t *limits)',
  fallocate: 'int fallocate(int fd, int mode, int64_t offset, int64_t length)',
  lseek: 'int64_t lseek(int fd, int64_t offset, int whence)',
  ioctl: 'int ioctl(int fd, uint64_t request, int64_t argument)',
  sched_setscheduler: 'int sched_setscheduler(int pid, int policy, const uint8_t *priority)',
  prctl: 'int prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d)',
  waitpid: 'int waitpid(int pid, int *status, int flags)',
  reboot: 'int reboot(int command)',
  mount: 'int mount(const char *source, const char *target, const char *type, uint64_t flags, const char *options)',
} as const

export type Call = keyof typeof SIGNATURES
type Argument = number | bigint | string | ArrayBufferView | null

type Koffi = typeof import('koffi')

let library: { koffi: Koffi; calls: Map<Call, (...args: Argument[]) => number | bigint> } | undefined

export function koffi(): Koffi {
  return load().koffi
}

function load() {
  if (library) return library
  if (process.platform !== 'linux') {
    throw new LuoError('LUO_UNSUPPORTED', `live updates need Linux, and this is ${process.platform}`)
  }
  let loaded: Koffi
  try {
    loaded = createRequire(import.meta.url)('koffi') as Koffi
  } catch (error) {
    // The first line: what follows is who asked for it.
    const [why = ''] = (error as Error).message.split('\n')
    throw new LuoError(
      'LUO_UNSUPPORTED',
      `load the native part, the package koffi: ${why}; npm install --include=optional installs it`,
      { cause: error },
    )
  }
  const libc = loaded.load(null)
  const calls = new Map<Call, (...args: Argument[]) => number | bigint>()
  for (const [name, signature] of Object.entries(SIGNATURES)) calls.set(name as Call, libc.func(signature))
  const all = libc.func(SIGNATURES.syscall)
  // A system call has six arguments for the machine, whatever it uses.
  calls.set('syscall', (number, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0) => all(number, a, b, c, d, e, f))
  library = { koffi: loaded, calls }
  return library
}

/** What a call answers instead: it fails with an errno, or is made with other arguments. */
export type Interference = (call: Call, args: readonly Argument[]) => ErrnoName | Argument[] | undefined

let interference: Interference | undefined

/** For tests: whatever fails, is asked for too much, or does less than it was asked for. */
export function interfere(how: Interference | undefined): void {
  interference = how
}

/** Calls libc. The answer is the call's own, -1 included: see `errno`. */
export function libc(call: Call, ...args: Argument[]): number {
  const instead = interference?.(call, args)
  if (instead !== undefined) {
    if (typeof instead !== 'string') return made(call, instead)
    load().koffi.errno(errnoNumber(instead))
    return -1
  }
  return made(call, args)
}

function made(call: Call, args: readonly Argument[]): number {
  const found = load().calls.get(call)
  if (!found) throw new LuoError('LUO_UNSUPPORTED', `libc has no ${call}`)
  return Number(found(...args))
}

const ERRNO_NAMES = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name as ErrnoName]))
ERRNO_NAMES.set(constants.errno.EAGAIN, 'EAGAIN')
ERRNO_NAMES.set(constants.errno.EOPNOTSUPP, 'EOPNOTSUPP')

export function errnoName(value: number): ErrnoName {
  return ERRNO_NAMES.get(value) ?? `E${value}`
}

/** The number of an errno. */
export function errnoNumber(name: ErrnoName): number {
  return (constants.errno as Record<string, number>)[name] ?? constants.errno.EIO
}

/** The name of the last call's errno. */
export function errno(): ErrnoName {
  return errnoName(load().koffi.errno())
}

/** The last call's errno as an error. `action` names what was attempted, with which value. */
export function failure(action: string, code: ErrnoName = errno()): LuoError {
  return new LuoError(code, `${action}: ${code}`)
}

/** Calls libc until it is not interrupted; -1 becomes an error. */
export function checked(action: string, call: Call, ...args: Argument[]): number {
  for (;;) {
    const result = libc(call, ...args)
    if (result !== -1) return result
    const code = errno()
    if (code !== 'EINTR') throw failure(action, code)
  }
}

/** `value` when it is an integer from `low` to `high`. */
export function integer(value: number, low: number, high: number, what: string): number {
  if (Number.isSafeInteger(value) && value >= low && value <= high) return value
  throw new LuoError('EINVAL', `${what} is ${value}, and an integer from ${low} to ${high} is needed`)
}

/** Numbers of system calls that libc may not wrap; those of pidfds are the same on every architecture. */
export const SYS = {
  pidfdSendSignal: 424,
  pidfdOpen: 434,
  kcmp: process.arch === 'arm64' ? 272 : 312,
  openat2: 437,
  pidfdGetfd: 438,
  seccomp: process.arch === 'arm64' ? 277 : 317,
  execve: process.arch === 'arm64' ? 221 : 59,
  exitGroup: process.arch === 'arm64' ? 94 : 231,
  processVmReadv: process.arch === 'arm64' ? 270 : 310,
  processVmWritev: process.arch === 'arm64' ? 271 : 311,
  statx: process.arch === 'arm64' ? 291 : 332,
  nameToHandleAt: process.arch === 'arm64' ? 264 : 303,
  fchownat: process.arch === 'arm64' ? 54 : 260,
  setfsuid: process.arch === 'arm64' ? 151 : 122,
  setfsgid: process.arch === 'arm64' ? 152 : 123,
  kexecFileLoad: process.arch === 'arm64' ? 294 : 320,
  sync: process.arch === 'arm64' ? 81 : 162,
} as const
