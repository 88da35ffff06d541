/** Proofs for Unix sockets, pipes and FIFOs. */
import { execFileSync } from 'node:child_process'
import { openSync, rmSync, writeSync } from 'node:fs'
import { expect } from 'vitest'
import { Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { sameOpenFile } from '../../src/sys/file-info.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { peerCredentials, receive, send, unixAddress } from '../../src/sys/unix.js'
import {
  accept,
  address,
  bind,
  connect,
  failsWith,
  flags,
  getOption,
  type Kit,
  listen,
  O_CLOEXEC,
  O_NONBLOCK,
  pipe,
  read,
  SOCK,
  SOL_SOCKET,
  setOption,
  setReceiveLimit,
  socket,
  waits,
  write,
} from './kit.js'
import type { Proof } from './proofs.js'

const AF_UNIX = 1
const SO_RCVBUF = 8
const SO_PASSCRED = 16
const F_SETPIPE_SZ = 1031
const F_GETPIPE_SZ = 1032
const BACKLOG = 2

type Type = keyof typeof SOCK
const TYPES = Object.keys(SOCK) as Type[]
const CONNECTION_TYPES = ['stream', 'seqpacket'] as const

export function pair(kit: Kit, type: Type): [Fd, Fd] {
  const numbers = new Int32Array(2)
  checked('make a pair', 'socketpair', AF_UNIX, SOCK[type] | O_CLOEXEC, 0, numbers)
  const [a = -1, b = -1] = numbers
  const ends: [Fd, Fd] = [kit.adopt(a), kit.adopt(b)]
  for (const end of ends) setReceiveLimit(end)
  return ends
}

/** The same proof for every type. */
const ofTypes =
  (types: readonly Type[], proof: (kit: Kit, cross: Parameters<Proof>[1], type: Type) => void): Proof =>
  (kit, cross) => {
    for (const type of types) proof(kit, cross, type)
  }

const UNIX_PROOFS = {
  listening: ofTypes(CONNECTION_TYPES, (kit, cross, type) => {
    const server = socket(kit, AF_UNIX, SOCK[type])
    const where = unixAddress(kit.path(`${type}.sock`))
    bind(server, where)
    listen(server, BACKLOG)
    const client = () => socket(kit, AF_UNIX, SOCK[type] | O_NONBLOCK)
    const clients = [client(), client(), client()]
    const [first, ...others] = clients
    if (!first) return
    connect(first, where)
    write(first, 'client 0')
    const [back] = cross([server], () => {
      others.forEach((other, index) => {
        connect(other, where)
        write(other, `client ${index + 1}`)
      })
      // Its backlog is what it was.
      expect(failsWith(() => connect(client(), where))).toBe('EAGAIN')
    })
    clients.forEach((_, index) => {
      expect(read(accept(kit, back))).toBe(`client ${index}`)
    })
    expect(waits(back)).toBe(false)
  }),
  connected: ofTypes(TYPES, (kit, cross, type) => {
    const [fd, peer] = pair(kit, type)
    const [back] = cross([fd], () => {
      expect(waits(peer)).toBe(false)
      write(peer, 'meanwhile')
    })
    expect(read(back)).toBe('meanwhile')
    write(back, 'answer')
    expect(read(peer)).toBe('answer')
    expect(waits(peer)).toBe(false)
  }),
  unread: ofTypes(TYPES, (kit, cross, type) => {
    const [fd, peer] = pair(kit, type)
    write(peer, 'one, ')
    write(peer, 'two')
    const [back] = cross([fd])
    const texts = type === 'stream' ? ['one, two'] : ['one, ', 'two']
    expect(texts.map(() => read(back))).toEqual(texts)
    expect(waits(back)).toBe(false)
  }),
  'passed files': ofTypes(TYPES, (kit, cross, type) => {
    const [fd, peer] = pair(kit, type)
    const passed = kit.own(createMemfd('passed'))
    send(peer, Uint8Array.of(1), [passed])
    const [back] = cross([fd])
    const [arrived] = receive(back)?.fds ?? []
    expect(arrived && sameOpenFile(kit.own(arrived), passed)).toBe(true)
  }),
  credentials: ofTypes(CONNECTION_TYPES, (kit, cross, type) => {
    const [fd] = pair(kit, type)
    const before = peerCredentials(fd)
    const [back] = cross([fd])
    expect(before.pid).toBe(process.pid)
    expect(peerCredentials(back)).toEqual(before)
  }),
  bound: ofTypes(TYPES, (kit, cross, type) => {
    for (const name of [kit.path(`bound-${type}`), `@luo-kinds-${process.pid}-${type}`]) {
      const fd = socket(kit, AF_UNIX, SOCK[type])
      bind(fd, unixAddress(name))
      const where = address(fd)
      const [back] = cross([fd], () => {
        const other = socket(kit, AF_UNIX, SOCK[type])
        expect(failsWith(() => bind(other, unixAddress(name)))).toBe('EADDRINUSE')
      })
      expect(address(back)).toEqual(where)
    }
  }),
  options: ofTypes(TYPES, (kit, cross, type) => {
    const [fd] = pair(kit, type)
    setOption(fd, SOL_SOCKET, SO_PASSCRED, 1)
    setOption(fd, SOL_SOCKET, SO_RCVBUF, 50_000)
    const size = getOption(fd, SOL_SOCKET, SO_RCVBUF)
    const [back] = cross([fd])
    expect(getOption(back, SOL_SOCKET, SO_PASSCRED)).toBe(1)
    expect(getOption(back, SOL_SOCKET, SO_RCVBUF)).toBe(size)
  }),
}

export function fifo(kit: Kit, name = 'fifo'): [Fd, Fd] {
  const path = kit.path(name)
  execFileSync('mkfifo', [path])
  // Opened for both first: neither of the others waits for the other end then.
  using both = Fd.adopt(openSync(path, 'r+'))
  const ends: [Fd, Fd] = [kit.adopt(openSync(path, 'r')), kit.adopt(openSync(path, 'w'))]
  both.close()
  return ends
}

type MakePipe = (kit: Kit, name?: string) => [Fd, Fd]

const unread =
  (make: MakePipe): Proof =>
  (kit, cross) => {
    const [reader, writer] = make(kit)
    write(writer, 'in the pipe')
    const backs = cross([reader, writer])
    expect(read(backs[0])).toBe('in the pipe')
    write(backs[1], 'more')
    expect(read(backs[0])).toBe('more')
  }

const otherEnd =
  (make: MakePipe): Proof =>
  (kit, cross) => {
    const [reader, writer] = make(kit, 'kept-reader')
    const [backReader] = cross([reader], () => write(writer, 'no EPIPE'))
    expect(read(backReader)).toBe('no EPIPE')
    writer.close()
    expect(read(backReader)).toBe('')
    const [otherReader, otherWriter] = make(kit, 'kept-writer')
    const [backWriter] = cross([otherWriter], () => expect(waits(otherReader)).toBe(false))
    write(backWriter, 'no end of file')
    expect(read(otherReader)).toBe('no end of file')
    otherReader.close()
    expect(failsWith(() => writeSync(backWriter.number, 'x'))).toBe('EPIPE')
  }

const PIPE_PROOFS = {
  unread: unread((kit) => pipe(kit)),
  'other end': otherEnd((kit) => pipe(kit)),
  capacity: ((kit, cross) => {
    const [reader, writer] = pipe(kit)
    checked('set the capacity', 'fcntl', writer.number, F_SETPIPE_SZ, 256 * 1024)
    const [back] = cross([writer])
    expect(checked('read the capacity', 'fcntl', back.number, F_GETPIPE_SZ, 0)).toBe(256 * 1024)
    expect(checked('read the capacity', 'fcntl', reader.number, F_GETPIPE_SZ, 0)).toBe(256 * 1024)
  }) satisfies Proof,
  flags: ((kit, cross) => {
    for (const nonblock of [0, O_NONBLOCK]) {
      const backs = cross(pipe(kit, nonblock))
      expect(backs.map((back) => flags(back) & O_NONBLOCK)).toEqual([nonblock, nonblock])
    }
  }) satisfies Proof,
}

const FIFO_PROOFS = {
  unread: unread(fifo),
  'other end': otherEnd(fifo),
  unlinked: ((kit, cross) => {
    const [reader, writer] = fifo(kit)
    const [back] = cross([reader], () => rmSync(kit.path('fifo')))
    write(writer, 'without a name')
    expect(read(back)).toBe('without a name')
  }) satisfies Proof,
  flags: ((kit, cross) => {
    const [reader] = fifo(kit)
    const nonblocking = kit.adopt(openSync(`/proc/self/fd/${reader.number}`, O_NONBLOCK))
    const backs = cross([reader, nonblocking])
    expect(backs.map((back) => flags(back) & O_NONBLOCK)).toEqual([0, O_NONBLOCK])
  }) satisfies Proof,
}

export const LOCAL_PROOFS = { unix: UNIX_PROOFS, pipe: PIPE_PROOFS, fifo: FIFO_PROOFS }
