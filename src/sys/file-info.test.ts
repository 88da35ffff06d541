import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  fstatSync,
  linkSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { closeAll, countOpenFds, Fd } from './fd.js'
import { checked } from './ffi.js'
import { closingWaits, fileInfo, inodeKey, sameOpenFile } from './file-info.js'
import { scratch } from './mapping.js'
import { addSeals, createMemfd, writeAt } from './memfd.js'
import { dupHandle } from './node.js'
import { openPidfd } from './pidfd.js'
import { listenUnix, receive, send, socketPair } from './unix.js'

/** What the next `readlink` of the file says, instead of the truth. */
let lie: string | undefined
/** As before Linux 6.10. */
let oldKernel = false
let noStatx = false
let calls: unknown[][] = []

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>()
  return { ...fs, readlinkSync: (path: string) => lie ?? fs.readlinkSync(path) }
})
vi.mock('./ffi.js', async (original) => {
  const ffi = await original<typeof import('./ffi.js')>()
  const F_DUPFD_QUERY = 1027
  const libc: typeof ffi.libc = (call, ...args) => {
    calls.push([call, ...args])
    const refused =
      (oldKernel && call === 'fcntl' && args[1] === F_DUPFD_QUERY) ||
      (noStatx && call === 'syscall' && args[0] === ffi.SYS.statx)
    return refused ? -1 : ffi.libc(call, ...args)
  }
  return { ...ffi, libc, errno: () => (noStatx ? 'EPERM' : ffi.errno()) }
})

const AF_INET = 2
const AF_NETLINK = 16
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const SOCK_RAW = 3
const SOCK_CLOEXEC = 0o2000000
const EPOLL_CLOEXEC = 0o2000000

/** Numbers of system calls on x86-64 and arm64. */
const MAKERS = {
  eventfd: [290, 19],
  timerfd: [283, 85],
  signalfd: [289, 74],
  inotify: [294, 26],
  pipe: [293, 59],
} as const

let folder: string
let openAtStart: number
const files: Fd[] = []
const memory = scratch(8)

function owned(number: number): Fd {
  const fd = Fd.adopt(number)
  files.push(fd)
  return fd
}

function make(what: keyof typeof MAKERS, a = 0, b = 0, c = 0): number {
  const number = MAKERS[what][process.arch === 'x64' ? 0 : 1]
  return checked(`make a ${what}`, 'syscall', number, a, b, c, 0, 0)
}

const CLOCK_MONOTONIC = 1
const anonymous = {
  eventfd: () => owned(make('eventfd')),
  timerfd: () => owned(make('timerfd', CLOCK_MONOTONIC)),
  // An empty set of signals, of 8 bytes.
  signalfd: () => owned(make('signalfd', -1, memory.address, 8)),
  inotify: () => owned(make('inotify')),
  epoll: () => owned(checked('make an epoll', 'epoll_create1', EPOLL_CLOEXEC)),
}

function pipe(): Fd[] {
  make('pipe', memory.address)
  return [...new Int32Array(memory.buffer, 0, 2)].map(owned)
}

const open = (path: string, flags = 'r') => owned(openSync(path, flags))
const kindOf = (fd: Fd) => fileInfo(fd).kind

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-info-'))
  spawnSync('true')
  closeAll(socketPair())
  openAtStart = countOpenFds()
})

afterEach(() => {
  lie = undefined
  oldKernel = false
  noStatx = false
  closeAll(files.splice(0))
})

afterAll(() => rmSync(folder, { recursive: true }))

describe('the kind', () => {
  test('of memory is memfd, with its size', () => {
    using fd = createMemfd('name', { size: 5 * 2 ** 30 })
    expect(fileInfo(fd)).toMatchObject({
      kind: 'memfd',
      size: 5 * 2 ** 30,
      listening: false,
    })
  })

  test('of a sealed memory file is memfd still', () => {
    using fd = createMemfd('sealed', { size: 10 })
    addSeals(fd, ['write', 'grow', 'shrink', 'seal'])
    expect(kindOf(fd)).toBe('memfd')
  })

  test('of a file of /dev/shm is file as long as a name leads to it, and shmem after', () => {
    const path = `/dev/shm/luo-info-${process.pid}`
    const other = `${path}-other`
    const fd = open(path, 'w+')
    linkSync(path, other)
    expect(kindOf(fd)).toBe('file')
    unlinkSync(path)
    expect(kindOf(fd)).toBe('file')
    unlinkSync(other)
    expect(kindOf(fd)).toBe('shmem')
  })

  test('of a file on disk is file, also without a name, and under any name', () => {
    const path = join(folder, 'plain')
    writeFileSync(path, 'hello')
    const fd = open(path)
    expect(fileInfo(fd)).toMatchObject({ kind: 'file', size: 5 })
    for (const name of ['memfd:x (deleted)', 'anon_inode:[eventfd]', 'pipe:[1]', 'pidfd:[1]', 'socket:[1]']) {
      renameSync(path, join(folder, name))
      expect(kindOf(fd)).toBe('file')
      renameSync(join(folder, name), path)
    }
    unlinkSync(path)
    expect(kindOf(fd)).not.toBe('memfd')
  })

  // Whoever has a mount namespace of their own can have a file at its root, with any name.
  test.each(['/memfd:x', '/memfd:x (deleted)'])('of a file whose path is %s is not memfd', (path) => {
    const real = join(folder, 'real')
    writeFileSync(real, 'x')
    const fd = open(real)
    lie = path
    expect(kindOf(fd)).toBe('file')
  })

  test('of a directory, of a character device, and of what a symbolic link leads to', () => {
    symlinkSync('/dev/null', join(folder, 'link'))
    expect(kindOf(open(folder))).toBe('directory')
    expect(kindOf(open('/dev/null'))).toBe('character')
    expect(kindOf(open(join(folder, 'link')))).toBe('character')
  })

  test('of both sides of a pseudo-terminal', () => {
    const TIOCSPTLCK = 0x40045431
    const TIOCGPTN = 0x80045430
    const ioctl = process.arch === 'x64' ? 16 : 29
    const O_NOCTTY = 0o400
    const master = owned(openSync('/dev/ptmx', 2 | O_NOCTTY))
    checked('unlock', 'syscall', ioctl, master.number, TIOCSPTLCK, memory.address, 0, 0)
    checked('ask the number', 'syscall', ioctl, master.number, TIOCGPTN, memory.address, 0, 0)
    const [number] = new Uint32Array(memory.buffer, 0, 1)
    const slave = owned(openSync(`/dev/pts/${number}`, 2 | O_NOCTTY))
    new Uint32Array(memory.buffer, 0, 1).fill(0)
    expect([master, slave].map(kindOf)).toEqual(['pty-master', 'pty-slave'])
    expect(kindOf(open('/dev/zero'))).toBe('character')
  })

  test('of a pipe is pipe at both ends, and of one with a name fifo', () => {
    expect(pipe().map(kindOf)).toEqual(['pipe', 'pipe'])
    const path = join(folder, 'pipe:[1]')
    expect(spawnSync('mkfifo', [path]).status).toBe(0)
    const fd = open(path, 'r+')
    expect(kindOf(fd)).toBe('fifo')
    unlinkSync(path)
    expect(kindOf(fd)).toBe('fifo')
  })

  test.each(Object.keys(anonymous) as (keyof typeof anonymous)[])('of an anonymous file is %s', (kind) => {
    expect(kindOf(anonymous[kind]())).toBe(kind)
  })

  test('of an anonymous file that nobody knows is anonymous', () => {
    const fd = anonymous.eventfd()
    lie = 'anon_inode:[of the next kernel]'
    expect(kindOf(fd)).toBe('anonymous')
  })

  test('of a process is pidfd', () => {
    using fd = openPidfd(process.pid)
    expect(kindOf(fd)).toBe('pidfd')
  })

  test('of a Unix socket is unix: a pair, a listener, and one for datagrams', () => {
    const pair = socketPair()
    const listener = listenUnix(`@luo-info-${process.pid}`)
    const datagrams = owned(checked('open', 'socket', 1, SOCK_DGRAM | SOCK_CLOEXEC, 0))
    files.push(...pair, listener)
    for (const fd of [...pair, datagrams]) expect(fileInfo(fd)).toMatchObject({ kind: 'unix', listening: false })
    expect(fileInfo(listener)).toMatchObject({ kind: 'unix', listening: true })
  })

  test('of TCP is tcp, and only the listener listens', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const accepted = once(server, 'connection')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const [socket] = (await accepted) as [Socket]
    const copies = [server, client, socket].map((object) => dupHandle(object))
    files.push(...copies, owned(checked('open', 'socket', AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)))
    expect(files.map((fd) => fileInfo(fd).kind)).toEqual(files.map(() => 'tcp'))
    expect(copies.map((fd) => fileInfo(fd).listening)).toEqual([true, false, false])
    client.destroy()
    socket.destroy()
    server.close()
    await once(server, 'close')
  })

  test('of UDP is udp, bound or not', () => {
    const fd = owned(checked('open', 'socket', AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0))
    expect(fileInfo(fd)).toMatchObject({ kind: 'udp', listening: false })
    const anyPort = Uint8Array.from([AF_INET, 0, 0, 0, 127, 0, 0, 1, ...new Uint8Array(8)])
    checked('bind', 'bind', fd.number, anyPort, anyPort.length)
    expect(fileInfo(fd)).toMatchObject({ kind: 'udp', listening: false })
  })

  test('of another socket is socket', () => {
    expect(kindOf(owned(checked('open', 'socket', AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)))).toBe('socket')
  })

  test('of a closed file is EBADF', () => {
    const fd = createMemfd('closed')
    fd.close()
    expect(() => fileInfo(fd)).toThrow('closed')
  })
})

describe.each([
  ['asked of the kernel', false],
  ['on a kernel that cannot say', true],
])('whether two are one open file, %s', (_, old) => {
  const same = (a: Fd, b: Fd): boolean => {
    oldKernel = old
    try {
      return sameOpenFile(a, b)
    } finally {
      oldKernel = false
    }
  }

  test('is true of itself, of a copy, and of one that was sent and received', () => {
    using fd = createMemfd('same')
    using copy = fd.dup()
    const [a, b] = socketPair()
    send(a, Uint8Array.of(1), [fd])
    const [arrived] = receive(b)?.fds ?? []
    expect([same(fd, fd), same(fd, copy), arrived && same(fd, arrived)]).toEqual([true, true, true])
    closeAll([a, b, ...(arrived ? [arrived] : [])])
  })

  test('is false of two files of one name and content', () => {
    using a = createMemfd('equal', { size: 1 })
    using b = createMemfd('equal', { size: 1 })
    expect(same(a, b)).toBe(false)
  })

  test('is false of two of a kind that share one inode', () => {
    for (const kind of Object.values(anonymous)) {
      const [a, b] = [kind(), kind()]
      expect(same(a, b)).toBe(false)
      expect(same(a, a)).toBe(true)
    }
    const [a, b] = [anonymous.eventfd(), anonymous.eventfd()]
    expect(inodeKey(a)).toBe(inodeKey(b))
  })

  test('is false of the two ends of a pair of sockets', () => {
    const [a, b] = socketPair()
    files.push(a, b)
    expect(same(a, b)).toBe(false)
  })
})

test('the key of a file is its inode, however often it was opened', () => {
  const path = join(folder, 'twice')
  writeFileSync(path, 'x')
  const [a, b] = [open(path), open(path)]
  expect(inodeKey(a)).toBe(inodeKey(b))
  const { dev, ino } = fstatSync(a.number)
  expect(inodeKey(a)).toBe(`${dev}:${ino}`)
})

test('the key of a connection is the same in every copy, and another for the other end', () => {
  const [a, b] = socketPair()
  using copy = a.dup()
  expect(inodeKey(copy)).toBe(inodeKey(a))
  expect(inodeKey(b)).not.toBe(inodeKey(a))
  closeAll([a, b])
})

test('all of it is what Node says of the same file', () => {
  const path = join(folder, 'same')
  writeFileSync(path, 'four')
  using memory = createMemfd('same', { size: 2 ** 33 + 1 })
  for (const fd of [open(path), open(folder), open('/dev/null'), memory, ...pipe()]) {
    const { dev, ino, size } = fstatSync(fd.number)
    expect(fileInfo(fd)).toMatchObject({ dev, ino, size })
  }
})

test('a file system that somebody else serves is asked for nothing', () => {
  const path = join(folder, 'served')
  writeFileSync(path, 'four')
  const fd = open(path)
  fileInfo(fd)
  calls = []
  expect(fileInfo(fd).kind).toBe('file')
  expect(closingWaits(fd)).toBe(true)
  expect(calls.map(([call]) => call)).not.toContain('fstatfs')
  const AT_STATX_DONT_SYNC = 0x4000
  const looked = calls.filter(([call]) => call === 'syscall')
  expect(looked.length).toBeGreaterThan(0)
  for (const call of looked) expect(Number(call[4]) & AT_STATX_DONT_SYNC).toBe(AT_STATX_DONT_SYNC)
})

test('closing memory, pipes and sockets waits for nobody', () => {
  using memory = createMemfd('at once')
  const [, writer] = pipe()
  expect([memory, writer, anonymous.eventfd()].map((fd) => fd && closingWaits(fd))).toEqual([false, false, false])
})

test('a container that refuses statx changes nothing', () => {
  const path = join(folder, 'refused')
  writeFileSync(path, 'four')
  const all = [open(path), anonymous.eventfd(), ...pipe()]
  using memory = createMemfd('refused', { size: 5 })
  all.push(memory)
  const infos = all.map(fileInfo)
  noStatx = true
  expect(all.map(fileInfo)).toEqual(infos)
})

test('the size is what it is now', () => {
  using fd = createMemfd('grows')
  expect(fileInfo(fd).size).toBe(0)
  writeAt(fd, new Uint8Array(7), 0)
  expect(fileInfo(fd).size).toBe(7)
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
