import { execFileSync } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, readSync, rmSync, unlinkSync, writeSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Orchestrator } from '../core/orchestrator.js'
import type { Session } from '../core/session.js'
import { isLuoError } from '../errors.js'
import { closeAll, countOpenFds, Fd } from '../sys/fd.js'
import { checked } from '../sys/ffi.js'
import { type FileInfo, type FileKind, fileInfo, sameOpenFile } from '../sys/file-info.js'
import { nofileLimit, raiseNofile } from '../sys/limits.js'
import { scratch } from '../sys/mapping.js'
import { createMemfd, fileSize, readAt, writeAt } from '../sys/memfd.js'
import { dupHandle } from '../sys/node.js'
import { openPidfd } from '../sys/pidfd.js'
import { socketPair } from '../sys/unix.js'
import { type HeldFile, REFERENCE_KINDS, referenceHandlers } from './reference.js'

/** System calls that only these tests make, on x86-64 and arm64. */
const CALLS =
  process.arch === 'x64'
    ? { eventfd2: 290, timerfd: 283, signalfd4: 289, inotify: 294, pipe2: 293 }
    : { eventfd2: 19, timerfd: 85, signalfd4: 74, inotify: 26, pipe2: 59 }
const AF_INET = 2
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const CLOCK_MONOTONIC = 1
const O_CLOEXEC = 0o2000000

/** Zeroes: an empty set of signals, and room for the two ends of a pipe. */
const area = scratch(64)

const codeOf = (run: () => unknown): unknown => {
  try {
    run()
    return undefined
  } catch (error) {
    return isLuoError(error) ? error.code : error
  }
}
const call = (name: keyof typeof CALLS, ...args: [number, number, number, number]): Fd =>
  Fd.adopt(checked(name, 'syscall', CALLS[name], ...args))
const socket = (type: number): Fd => Fd.adopt(checked('open a socket', 'socket', AF_INET, type, 0))

let directory: string
let openBefore: number
let owned: Fd[]
let orchestrator: Orchestrator<HeldFile, HeldFile>
let session: Session<HeldFile, HeldFile>
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'reference-'))
  openBefore = countOpenFds()
  owned = []
  orchestrator = new Orchestrator(referenceHandlers())
  session = orchestrator.createSession('0', 'web')
})
afterEach(() => {
  orchestrator.release(session)
  closeAll(owned)
  rmSync(directory, { recursive: true })
  expect(countOpenFds()).toBe(openBefore)
})

/** Closed at the end of the test, if not before. */
function own(fd: Fd): Fd {
  owned.push(fd)
  return fd
}

const toPreserve = (token: string, fd: Fd, info: FileInfo = fileInfo(fd)) => ({
  token,
  file: { fd, info },
  kind: info.kind,
  format: undefined,
})

/** The reading end; the writing end is the test's too. */
function pipe(): [Fd, Fd] {
  checked('make a pipe', 'syscall', CALLS.pipe2, area.address, 0, 0, 0)
  const [read = -1, write = -1] = new Int32Array(area.buffer, 0, 2)
  const ends: [Fd, Fd] = [own(Fd.adopt(read)), own(Fd.adopt(write))]
  new Int32Array(area.buffer, 0, 2).fill(0)
  return ends
}

function connected(): Fd {
  const [here, there] = socketPair()
  own(there)
  return here
}

function unlinkedInShm(): Fd {
  const path = `/dev/shm/reference-test-${process.pid}`
  const fd = Fd.adopt(openSync(path, 'wx+'))
  unlinkSync(path)
  return fd
}

function fifo(): Fd {
  const path = join(directory, 'fifo')
  execFileSync('mkfifo', [path])
  return Fd.adopt(openSync(path, 'r+'))
}

/** What every Linux that runs this has; of the other kinds only what the kernel says of them is given below. */
const REAL: [FileKind, () => Fd][] = [
  ['memfd', () => createMemfd('store', { size: 4096 })],
  ['shmem', unlinkedInShm],
  ['tcp', () => socket(SOCK_STREAM)],
  ['udp', () => socket(SOCK_DGRAM)],
  ['unix', connected],
  ['pipe', () => pipe()[0]],
  ['fifo', fifo],
  ['file', () => Fd.adopt(openSync(join(directory, 'file'), 'w+'))],
  ['directory', () => Fd.adopt(openSync(directory, 'r'))],
  ['eventfd', () => call('eventfd2', 0, 0, 0, 0)],
  ['timerfd', () => call('timerfd', CLOCK_MONOTONIC, 0, 0, 0)],
  ['inotify', () => call('inotify', 0, 0, 0, 0)],
  ['pidfd', () => openPidfd(process.pid)],
]
const REAL_REFUSED: [FileKind, () => Fd][] = [
  ['epoll', () => Fd.adopt(checked('open an epoll', 'epoll_create1', 0))],
  ['signalfd', () => call('signalfd4', -1, area.address, 8, 0)],
  ['character', () => Fd.adopt(openSync('/dev/null', 'r+'))],
]
const REFUSED: FileKind[] = ['socket', 'character', 'block', 'epoll', 'signalfd', 'io_uring', 'anonymous']
/** Of these an inode is one object, so that it can be preserved once only. */
const ONCE: FileKind[] = ['memfd', 'shmem', 'hugetlb', 'tcp', 'mptcp', 'udp', 'unix']
const KEPT = Object.keys(REFERENCE_KINDS) as FileKind[]

describe('the kinds', () => {
  test('that are kept are these, each with a name of its own', () => {
    expect(KEPT.toSorted()).toEqual([...REAL.map(([kind]) => kind), 'hugetlb', 'mptcp'].toSorted())
    for (const [kind, compatible] of Object.entries(REFERENCE_KINDS)) expect(compatible).toBe(`${kind}-ref-v1`)
    expect(REFUSED.filter((kind) => KEPT.includes(kind))).toEqual([])
  })

  test.each(REAL)(
    '%s: is kept, and retrieved as the same open file after the caller has closed theirs',
    (kind, make) => {
      const original = own(make())
      const witness = own(original.dup())
      const [preserved] = orchestrator.preserve(session, [toPreserve('0', original)])
      expect(preserved).toMatchObject({ kind, handler: { compatible: `${kind}-ref-v1` } })
      const open = countOpenFds()
      original.close()
      expect(countOpenFds()).toBe(open - 1)
      const [found] = orchestrator.retrieve(session, ['0'])
      const fd = own(found?.file.fd as Fd)
      expect(sameOpenFile(fd, witness)).toBe(true)
      expect(found?.file.info.kind).toBe(kind)
      expect(fileInfo(fd).kind).toBe(kind)
    },
  )

  test.each(REAL_REFUSED)('%s: is refused with ENOENT', (kind, make) => {
    const fd = own(make())
    expect(fileInfo(fd).kind).toBe(kind)
    const open = countOpenFds()
    expect(codeOf(() => orchestrator.preserve(session, [toPreserve('0', fd)]))).toBe('ENOENT')
    expect(countOpenFds()).toBe(open)
  })

  test.each([...KEPT, ...REFUSED])('%s: is judged by what the kernel says of it, and by nothing else', (kind) => {
    const fd = own(createMemfd('any'))
    const info = { ...fileInfo(fd), kind }
    const handler = referenceHandlers().find({ fd, info })
    expect(handler?.compatible).toBe(REFERENCE_KINDS[kind])
    const code = codeOf(() => orchestrator.preserve(session, [toPreserve('0', fd, info)]))
    expect(code).toBe(REFUSED.includes(kind) ? 'ENOENT' : undefined)
  })
})

describe('a file that is preserved', () => {
  test('has what was written to it before, and what is written to it afterwards', () => {
    const fd = own(createMemfd('store', { size: 8 }))
    writeAt(fd, Buffer.from('before'), 0)
    orchestrator.preserve(session, [toPreserve('0', fd)])
    writeAt(fd, Buffer.from('after.'), 0)
    fd.close()
    const [found] = orchestrator.retrieve(session, ['0'])
    const again = own(found?.file.fd as Fd)
    const bytes = new Uint8Array(6)
    readAt(again, bytes, 0)
    expect(Buffer.from(bytes).toString()).toBe('after.')
    expect(fileSize(again)).toBe(8)
  })

  test('keeps a pipe open, with what is in it', () => {
    const [read, write] = pipe()
    writeSync(write.number, 'in the pipe')
    orchestrator.preserve(session, [toPreserve('0', read)])
    closeAll([read, write])
    const [found] = orchestrator.retrieve(session, ['0'])
    const bytes = Buffer.alloc(64)
    expect(bytes.toString('utf8', 0, readSync(own(found?.file.fd as Fd).number, bytes))).toBe('in the pipe')
  })

  test('keeps a listening socket alive: clients connect after its server is gone', async () => {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const fd = own(dupHandle(server))
    orchestrator.preserve(session, [toPreserve('0', fd)])
    fd.close()
    await new Promise((resolve) => server.close(resolve))
    const client = connect(port, '127.0.0.1')
    await new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject))
    client.destroy()
    await new Promise((resolve) => client.once('close', resolve))
    const [found] = orchestrator.retrieve(session, ['0'])
    expect(fileInfo(own(found?.file.fd as Fd))).toMatchObject({ kind: 'tcp', listening: true })
  })

  test('has close-on-exec on every reference', () => {
    const fd = own(createMemfd('store'))
    const [preserved] = orchestrator.preserve(session, [toPreserve('0', fd)])
    const [found] = orchestrator.retrieve(session, ['0'])
    for (const reference of [preserved?.data.fd, own(found?.file.fd as Fd)]) {
      const [, flags = ''] =
        /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${reference?.number}`, 'utf8')) ?? []
      expect(Number.parseInt(flags, 8) & O_CLOEXEC).toBe(O_CLOEXEC)
    }
  })

  test('costs one descriptor, and each retrieve another one, until it is let go of', () => {
    const fd = own(createMemfd('store'))
    const open = countOpenFds()
    orchestrator.preserve(session, [toPreserve('0', fd)])
    expect(countOpenFds()).toBe(open + 1)
    const found = orchestrator.retrieve(session, ['0', '0'])
    expect(countOpenFds()).toBe(open + 3)
    closeAll(found.map(({ file }) => file.fd))
    expect(countOpenFds()).toBe(open + 1)
    orchestrator.unpreserve(session, ['0'])
    expect(countOpenFds()).toBe(open)
    expect(fd.closed).toBe(false)
  })

  test('is let go of with its session, and by finish', () => {
    const fds = REAL.slice(0, 4).map(([, make]) => own(make()))
    const open = countOpenFds()
    orchestrator.preserve(
      session,
      fds.map((fd, index) => toPreserve(String(index), fd)),
    )
    expect(countOpenFds()).toBe(open + 4)
    orchestrator.freeze([session])
    orchestrator.release(session)
    expect(countOpenFds()).toBe(open)
    const [first] = fds
    const file: HeldFile = { fd: first as Fd, info: fileInfo(first as Fd) }
    const handler = referenceHandlers().find(file)
    const data = handler?.preserve(file) as HeldFile
    handler?.finish(data)
    expect(countOpenFds()).toBe(open)
  })
})

describe('already preserved', () => {
  const makers = new Map(REAL)

  test.each(ONCE)('%s: the same one is EBUSY, in the same session and in another', (kind) => {
    const fd = own(makers.get(kind)?.() ?? createMemfd('any'))
    const info = { ...fileInfo(fd), kind }
    const second = own(fd.dup())
    orchestrator.preserve(session, [toPreserve('0', fd, info)])
    const other = orchestrator.createSession('1', 'other')
    const open = countOpenFds()
    for (const where of [session, other]) {
      expect(codeOf(() => orchestrator.preserve(where, [toPreserve('1', second, info)]))).toBe('EBUSY')
    }
    expect(countOpenFds()).toBe(open)
    orchestrator.unpreserve(session, ['0'])
    orchestrator.preserve(other, [toPreserve('1', second, info)])
    orchestrator.release(other)
  })

  test.each(['memfd', 'tcp'] as const)('%s: another one of the kind is not', (kind) => {
    for (const token of ['0', '1']) {
      orchestrator.preserve(session, [toPreserve(token, own(makers.get(kind)?.() as Fd))])
    }
    expect(orchestrator.fileCount).toBe(2)
  })

  test.each(KEPT.filter((kind) => !ONCE.includes(kind)))('%s: is never EBUSY, it is one more reference', (kind) => {
    const fd = own(makers.get(kind)?.() as Fd)
    const other = orchestrator.createSession('1', 'other')
    orchestrator.preserve(session, [toPreserve('0', fd), toPreserve('1', fd)])
    orchestrator.preserve(other, [toPreserve('0', fd)])
    expect(orchestrator.fileCount).toBe(3)
    orchestrator.release(other)
  })
})

describe('when no more files may be opened', () => {
  /** Nothing that is open now is hurt; the first of what is to come finds `room` more numbers. */
  function withRoomFor(room: number, run: () => void): void {
    const { soft } = nofileLimit()
    const highest = Math.max(...owned.filter((fd) => !fd.closed).map((fd) => fd.number), 64)
    const fillers: Fd[] = []
    try {
      const filler = createMemfd('filler')
      fillers.push(filler)
      while ((fillers.at(-1)?.number ?? 0) <= highest + room) fillers.push(filler.dup())
      raiseNofile((fillers.at(-1)?.number ?? 0) + 1)
      closeAll(fillers.slice(fillers.length - room))
      run()
    } finally {
      raiseNofile(soft)
      closeAll(fillers)
    }
  }

  test('preserve is EMFILE, all or nothing', () => {
    const fds = [0, 1, 2].map((index) => own(createMemfd(`store-${index}`)))
    const files = fds.map((fd, index) => toPreserve(String(index), fd))
    const open = countOpenFds()
    withRoomFor(2, () => expect(codeOf(() => orchestrator.preserve(session, files))).toBe('EMFILE'))
    expect(session.files.size).toBe(0)
    expect(countOpenFds()).toBe(open)
    orchestrator.preserve(session, files)
  })

  test('retrieve is EMFILE, and leaks nothing', () => {
    const fds = [0, 1, 2].map((index) => own(createMemfd(`store-${index}`)))
    orchestrator.preserve(
      session,
      fds.map((fd, index) => toPreserve(String(index), fd)),
    )
    const open = countOpenFds()
    withRoomFor(2, () => expect(codeOf(() => orchestrator.retrieve(session, ['0', '1', '2']))).toBe('EMFILE'))
    expect(countOpenFds()).toBe(open)
    expect(session.files.size).toBe(3)
  })
})

test('a closed file is EBADF, and nothing of the request is kept', () => {
  const fd = createMemfd('store')
  const info = fileInfo(fd)
  fd.close()
  const good = own(createMemfd('good'))
  const open = countOpenFds()
  expect(codeOf(() => orchestrator.preserve(session, [toPreserve('0', good), toPreserve('1', fd, info)]))).toBe('EBADF')
  expect(countOpenFds()).toBe(open)
})
