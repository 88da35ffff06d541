import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, Fd } from './fd.js'
import { checked } from './ffi.js'
import { sameOpenFile } from './file-info.js'
import { nofileLimit, raiseNofile } from './limits.js'
import { createMemfd, readAt, writeAt } from './memfd.js'
import { pidfdOwner, signalPidfd } from './pidfd.js'
import {
  acceptUnix,
  connectUnix,
  listenUnix,
  MAX_FDS_PER_MESSAGE,
  MAX_SOCKET_PATH_BYTES,
  madeHere,
  peerCredentials,
  peerPidfd,
  type Received,
  receive,
  send,
  socketPair,
  unixAddress,
} from './unix.js'

const O_CLOEXEC = 0o2000000
const O_NONBLOCK = 0o4000

let folder: string
let openAtStart: number
const open: Fd[] = []

/** Closed after the test. */
function own<T extends Fd | readonly Fd[]>(fds: T): T {
  open.push(...[fds].flat())
  return fds
}

function take(socket: Fd): Received {
  const got = receive(socket)
  if (!got) throw new Error('nothing has come')
  own(got.fds)
  return got
}

const bytes = (text: string) => Buffer.from(text)
const textOf = (got: Received) => Buffer.from(got.bytes).toString()
/** Memory files, each of which holds its own number. */
const files = (count: number) =>
  own(
    Array.from({ length: count }, (_, index) => {
      const fd = createMemfd(`file ${index}`)
      writeAt(fd, Uint8Array.of(index), 0)
      return fd
    }),
  )
const numberIn = (fd: Fd) => {
  const byte = new Uint8Array(1)
  readAt(fd, byte, 0)
  return byte[0]
}
const flagsOf = (fd: Fd) =>
  Number.parseInt(/^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'utf8'))?.[1] ?? '0', 8)

/** Runs `action` while exactly `count` more descriptors can be opened. */
function withRoomFor<T>(count: number, action: () => T): T {
  const { soft } = nofileLimit()
  const probes = Array.from({ length: count + 1 }, () => createMemfd('probe'))
  const limit = probes.at(-1)?.number ?? 0
  closeAll(probes)
  try {
    raiseNofile(limit)
    return action()
  } finally {
    raiseNofile(soft)
  }
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'luo-passing-'))
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  openAtStart = countOpenFds()
})

afterEach(() => {
  closeAll(open.splice(0))
})

afterAll(() => rmSync(folder, { recursive: true }))

describe('a message', () => {
  test.each([0, 1, 2, 3, MAX_FDS_PER_MESSAGE])('carries %s files, in their order', (count) => {
    const [a, b] = own(socketPair())
    const sent = files(count)
    expect(send(a, bytes('hello'), sent)).toBe(5)
    const got = take(b)
    expect([textOf(got), got.truncated]).toEqual(['hello', false])
    expect(got.fds.map(numberIn)).toEqual(sent.map((_, index) => index))
  })

  test('with one file more than the kernel takes is refused, and nothing of it goes', () => {
    const [a, b] = own(socketPair())
    const [file] = files(1)
    const many = Array.from({ length: MAX_FDS_PER_MESSAGE + 1 }, () => file as Fd)
    expect(codeOf(() => send(a, bytes('x'), many))).toBe('EINVAL')
    expect(receive(b)).toBe(undefined)
    expect(send(a, bytes('x'), many.slice(1))).toBe(1)
    expect(take(b).fds).toHaveLength(MAX_FDS_PER_MESSAGE)
  })

  test('of no bytes is refused, with a file and without', () => {
    const [a, b] = own(socketPair())
    expect(codeOf(() => send(a, new Uint8Array(0)))).toBe('EINVAL')
    expect(codeOf(() => send(a, new Uint8Array(0), files(1)))).toBe('EINVAL')
    expect(receive(b)).toBe(undefined)
  })

  test('with a closed file is EBADF, and nothing of it goes', () => {
    const [a, b] = own(socketPair())
    const [first, second] = files(2)
    second?.close()
    expect(codeOf(() => send(a, bytes('x'), [first, second] as Fd[]))).toBe('EBADF')
    expect(receive(b)).toBe(undefined)
  })

  test('may be read after the sender has closed its files and itself', () => {
    const [a, b] = own(socketPair())
    const sent = files(2)
    send(a, bytes('x'), sent)
    closeAll([a, ...sent])
    expect(take(b).fds.map(numberIn)).toEqual([0, 1])
    expect(take(b).bytes).toHaveLength(0)
  })

  test('may carry the socket that it is sent on, and the one that it is read from', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('x'), [a, b])
    const [theirs, ours] = take(b).fds as [Fd, Fd]
    send(theirs, bytes('through a copy'))
    expect(textOf(take(ours))).toBe('through a copy')
  })

  test('is not merged with the next one when each has a file', () => {
    const [a, b] = own(socketPair())
    const [first, second] = files(2) as [Fd, Fd]
    send(a, bytes('one'), [first])
    send(a, bytes('two'), [second])
    const got = [take(b), take(b)]
    expect(got.map(textOf)).toEqual(['one', 'two'])
    expect(got.map(({ fds }) => fds.map(numberIn))).toEqual([[0], [1]])
  })

  test('of more than fits is sent in part, and its files with the first part', () => {
    const [a, b] = own(socketPair())
    const long = new Uint8Array(200_000).map((_, index) => index % 251)
    const first = send(a, long, files(1))
    expect(first).toBeGreaterThan(0)
    expect(first).toBeLessThan(long.length)
    const got = take(b)
    expect([got.fds.length, Buffer.compare(got.bytes, long.subarray(0, got.bytes.length))]).toEqual([1, 0])
  })

  test('is a copy that later messages do not change', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('first'))
    const first = take(b)
    send(a, bytes('other'))
    take(b)
    expect(textOf(first)).toBe('first')
  })

  test('hands over open files: their position, and what is written later, are shared', () => {
    const [a, b] = own(socketPair())
    const [file] = files(1) as [Fd]
    send(a, bytes('x'), [file])
    const [copy] = take(b).fds as [Fd]
    writeAt(copy, Uint8Array.of(42), 0)
    expect(numberIn(file)).toBe(42)
    expect(sameOpenFile(copy, file)).toBe(true)
  })
})

describe('what arrives', () => {
  test('is not inherited by children', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('x'), files(3))
    expect(take(b).fds.map((fd) => flagsOf(fd) & O_CLOEXEC)).toEqual([O_CLOEXEC, O_CLOEXEC, O_CLOEXEC])
  })

  test.each([0, 1, 2, 7])('is reported as truncated when there is room for %s of 8 files, and owned', (room) => {
    const [a, b] = own(socketPair())
    const sent = files(8)
    send(a, bytes('x'), sent)
    const before = countOpenFds()
    const got = withRoomFor(room, () => take(b))
    expect([textOf(got), got.truncated, got.fds.map(numberIn)]).toEqual(['x', true, [...Array(room).keys()]])
    expect(countOpenFds()).toBe(before + room)
    closeAll(got.fds)
    expect(countOpenFds()).toBe(before)
  })

  test('is whole again when there is room for all', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('x'), files(8))
    send(a, bytes('y'), files(8))
    expect(withRoomFor(3, () => take(b)).truncated).toBe(true)
    closeAll(open.splice(-3))
    const got = withRoomFor(8, () => take(b))
    expect([textOf(got), got.truncated, got.fds.length]).toEqual(['y', false, 8])
  })

  test('without files is not truncated when there is room for none', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('x'))
    expect(withRoomFor(0, () => take(b)).truncated).toBe(false)
  })

  test('is thrown away by Node, which is why its sockets are not used', async () => {
    const path = join(folder, 'node')
    const listener = own(listenUnix(path))
    const client = createConnection(path)
    await once(client, 'connect')
    const server = own(acceptUnix(listener) as Fd)
    const before = countOpenFds()
    send(server, bytes('x'), files(1))
    const [data] = await once(client, 'data')
    expect(String(data)).toBe('x')
    // Only the file that we have made ourselves.
    expect(countOpenFds()).toBe(before + 1)
    client.destroy()
    await once(client, 'close')
  })
})

describe('a socket', () => {
  test('answers undefined when there is nothing, and does not wait', () => {
    const [a] = own(socketPair())
    expect(receive(a)).toBe(undefined)
  })

  test('takes nothing when it is full, not even the files, and goes on when it was read', () => {
    const [a, b] = own(socketPair())
    const chunk = new Uint8Array(64 * 1024)
    let sent = 0
    for (let now = send(a, chunk); now > 0; now = send(a, chunk)) sent += now
    const [file] = files(1) as [Fd]
    expect(send(a, bytes('later'), [file])).toBe(0)
    let read = 0
    for (let got = receive(b); got; got = receive(b)) {
      read += got.bytes.length
      expect(got.fds).toEqual([])
    }
    expect(read).toBe(sent)
    expect(send(a, bytes('later'), [file])).toBe(5)
    expect(take(b).fds).toHaveLength(1)
  })

  test('is an empty message at its end, again and again', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('last'))
    a.close()
    expect(textOf(take(b))).toBe('last')
    expect(take(b)).toEqual({ bytes: new Uint8Array(0), fds: [], truncated: false })
    expect(take(b).bytes).toHaveLength(0)
  })

  test('whose other side has gone is EPIPE to write to, and no signal', () => {
    const [a, b] = own(socketPair())
    b.close()
    expect(codeOf(() => send(a, bytes('x')))).toBe('EPIPE')
  })

  test('whose other side went without reading what was sent is ECONNRESET', () => {
    const [a, b] = own(socketPair())
    send(a, bytes('unread'))
    b.close()
    expect(codeOf(() => receive(a))).toBe('ECONNRESET')
  })

  test('is non-blocking and not inherited, however it was made', () => {
    const path = join(folder, 'flags')
    const listener = own(listenUnix(path))
    const client = own(connectUnix(path))
    const server = own(acceptUnix(listener) as Fd)
    for (const fd of [...own(socketPair()), listener, client, server]) {
      expect(flagsOf(fd) & (O_CLOEXEC | O_NONBLOCK)).toBe(O_CLOEXEC | O_NONBLOCK)
    }
  })

  test('that was closed is EBADF', () => {
    const [a, b] = own(socketPair())
    a.close()
    expect(codeOf(() => send(a, bytes('x')))).toBe('EBADF')
    expect(codeOf(() => receive(a))).toBe('EBADF')
    expect(codeOf(() => peerCredentials(a))).toBe('EBADF')
    expect(receive(b)?.bytes).toHaveLength(0)
  })

  test('is ENOTSOCK when it is none', () => {
    const [file] = files(1) as [Fd]
    expect(codeOf(() => send(file, bytes('x')))).toBe('ENOTSOCK')
    expect(codeOf(() => receive(file))).toBe('ENOTSOCK')
    expect(codeOf(() => acceptUnix(file))).toBe('ENOTSOCK')
    expect(codeOf(() => peerCredentials(file))).toBe('ENOTSOCK')
    expect(peerPidfd(file)).toBe(undefined)
  })
})

describe('a listener', () => {
  test('has nobody, then each who connects in turn', () => {
    const path = join(folder, 'turns')
    const listener = own(listenUnix(path))
    expect(acceptUnix(listener)).toBe(undefined)
    const clients = own([connectUnix(path), connectUnix(path)])
    clients.forEach((client, index) => {
      send(client, bytes(`client ${index}`))
    })
    const servers = own([acceptUnix(listener) as Fd, acceptUnix(listener) as Fd])
    expect(servers.map((server) => textOf(take(server)))).toEqual(['client 0', 'client 1'])
    expect(acceptUnix(listener)).toBe(undefined)
  })

  test.each([0o600, 0o666])('has the mode %o, whatever the umask is', (mode) => {
    const path = join(folder, `mode ${mode}`)
    const before = process.umask(0o777)
    try {
      own(listenUnix(path, mode))
    } finally {
      process.umask(before)
    }
    expect(statSync(path).mode & 0o777).toBe(mode)
    own(listenUnix(join(folder, `default ${mode}`)))
    expect(statSync(join(folder, `default ${mode}`)).mode & 0o777).toBe(0o600)
  })

  test('leaves alone what is at its path already: EADDRINUSE', () => {
    const path = join(folder, 'taken')
    own(listenUnix(path))
    const before = countOpenFds()
    expect(codeOf(() => listenUnix(path))).toBe('EADDRINUSE')
    writeFileSync(`${path}-file`, 'kept')
    expect(codeOf(() => listenUnix(`${path}-file`))).toBe('EADDRINUSE')
    expect(readFileSync(`${path}-file`, 'utf8')).toBe('kept')
    expect(countOpenFds()).toBe(before)
    own(connectUnix(path))
  })

  test('at an abstract name has no file, and is gone with its last descriptor', () => {
    const name = `@luo-unix-${process.pid}`
    const listener = listenUnix(name)
    expect(existsSync(name)).toBe(false)
    own(connectUnix(name))
    const copy = listener.dup()
    listener.close()
    own(connectUnix(name))
    copy.close()
    expect(codeOf(() => connectUnix(name))).toBe('ECONNREFUSED')
    listenUnix(name).close()
  })

  test('that is full is EAGAIN for the next, and not for ever', () => {
    const path = join(folder, 'full')
    const listener = own(listenUnix(path))
    const fill = () => {
      for (let count = 0; count < 1_000; count++) own(connectUnix(path))
    }
    expect(codeOf(fill)).toBe('EAGAIN')
    own(acceptUnix(listener) as Fd)
    own(connectUnix(path))
  })

  test('keeps a connection waiting when there is no descriptor for it', () => {
    const path = join(folder, 'emfile')
    const listener = own(listenUnix(path))
    const client = own(connectUnix(path))
    expect(withRoomFor(0, () => codeOf(() => acceptUnix(listener)))).toBe('EMFILE')
    const server = own(acceptUnix(listener) as Fd)
    send(client, bytes('still here'))
    expect(textOf(take(server))).toBe('still here')
  })

  test('that is not there is ENOENT, and one that has gone ECONNREFUSED', () => {
    const before = countOpenFds()
    expect(codeOf(() => connectUnix(join(folder, 'nobody')))).toBe('ENOENT')
    const path = join(folder, 'gone')
    listenUnix(path).close()
    expect(codeOf(() => connectUnix(path))).toBe('ECONNREFUSED')
    expect(countOpenFds()).toBe(before)
  })
})

describe('an address', () => {
  test('may be as long as the kernel takes, and not a byte longer', () => {
    const longest = `/${'x'.repeat(MAX_SOCKET_PATH_BYTES - 1)}`
    expect(unixAddress(longest)).toHaveLength(2 + MAX_SOCKET_PATH_BYTES + 1)
    expect(codeOf(() => unixAddress(`${longest}x`))).toBe('ENAMETOOLONG')
    // Bytes, not characters.
    expect(codeOf(() => unixAddress(`/${'ü'.repeat(54)}`))).toBe('ENAMETOOLONG')
    expect(unixAddress(`/${'ü'.repeat(53)}`)).toHaveLength(110)
  })

  test('of the longest path is one that can be listened at', () => {
    const path = join(folder, 'x'.repeat(MAX_SOCKET_PATH_BYTES - Buffer.byteLength(folder) - 1))
    expect(Buffer.byteLength(path)).toBe(MAX_SOCKET_PATH_BYTES)
    own(listenUnix(path))
    own(connectUnix(path))
    expect(existsSync(path)).toBe(true)
    expect(codeOf(() => listenUnix(`${path}x`))).toBe('ENAMETOOLONG')
  })

  test('of the longest abstract name has one byte more', () => {
    const name = `@${process.pid}-${'x'.repeat(200)}`.slice(0, MAX_SOCKET_PATH_BYTES + 1)
    own(listenUnix(name))
    own(connectUnix(name))
    expect(codeOf(() => connectUnix(name.slice(0, -1)))).toBe('ECONNREFUSED')
    expect(codeOf(() => unixAddress(`${name}x`))).toBe('ENAMETOOLONG')
  })

  test.each(['', '/', '@', 'relative', './relative', '~/home', '/a\0b', '@a\0b'])('is not %j', (path) => {
    const before = countOpenFds()
    expect(codeOf(() => listenUnix(path))).toBe('EINVAL')
    expect(codeOf(() => connectUnix(path))).toBe('EINVAL')
    expect(countOpenFds()).toBe(before)
  })
})

describe('who connected', () => {
  test('is known of both kinds of connection, at both ends', () => {
    const path = join(folder, 'who')
    const listener = own(listenUnix(path))
    const client = own(connectUnix(path))
    const server = own(acceptUnix(listener) as Fd)
    const us = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() }
    for (const fd of [client, server, ...own(socketPair())]) {
      expect(peerCredentials(fd)).toEqual(us)
      const pidfd = own(peerPidfd(fd) as Fd)
      expect(pidfdOwner(pidfd)).toEqual({ pid: process.pid, uid: process.getuid?.() })
      expect(flagsOf(pidfd) & O_CLOEXEC).toBe(O_CLOEXEC)
    }
  })

  test('and whether that was this process, wherever a copy comes from', () => {
    const path = join(folder, 'made-here')
    const listener = own(listenUnix(path))
    const client = own(connectUnix(path))
    for (const fd of [listener, client, ...own(socketPair())]) expect(madeHere(fd)).toBe(true)
    // Neither bound to anybody nor made by anybody: of no process.
    const alone = own(Fd.adopt(checked('open a socket', 'socket', 1, 1 | O_CLOEXEC, 0)))
    expect(madeHere(alone)).toBe(false)
  })

  test('is the process that did, and it can be told when that has ended', async () => {
    const path = join(folder, 'child')
    const listener = own(listenUnix(path))
    const program = `require('node:net').connect(${JSON.stringify(path)}).on('data', () => process.exit())`
    const child = spawn(process.execPath, ['-e', program], { stdio: 'ignore' })
    const server = await vi.waitFor(
      () => {
        const accepted = acceptUnix(listener)
        if (!accepted) throw new Error('nobody has connected')
        return own(accepted)
      },
      { timeout: 5_000 },
    )
    expect(peerCredentials(server).pid).toBe(child.pid)
    expect(madeHere(server)).toBe(false)
    const pidfd = own(peerPidfd(server) as Fd)
    expect(pidfdOwner(pidfd)?.pid).toBe(child.pid)
    send(server, bytes('end'))
    await once(child, 'exit')
    expect(signalPidfd(pidfd, 0)).toBe(false)
    expect(pidfdOwner(pidfd)).toBe(undefined)
    // Asked only now, it is nobody, or somebody who has ended: never another process.
    const late = peerPidfd(server)
    if (late) own(late)
    expect(late && pidfdOwner(late)).toBe(undefined)
    expect(late ? signalPidfd(late, 0) : false).toBe(false)
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
