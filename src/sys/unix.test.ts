import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, type Fd } from './fd.js'
import { sameOpenFile } from './file-info.js'
import { nofileLimit, raiseNofile } from './limits.js'
import { createMemfd } from './memfd.js'
import { inheritStdio } from './node.js'
import { openPidfd, pidfdOwner, signalPidfd } from './pidfd.js'
import { Poller, type Readiness } from './poller.js'
import {
  acceptUnix,
  connectUnix,
  listenUnix,
  MAX_FDS_PER_MESSAGE,
  peerCredentials,
  peerPidfd,
  receive,
  send,
  socketPair,
  unixAddress,
} from './unix.js'

let before: number
let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-unix-'))
  // The scratch memory and the epoll are made once.
  Poller.shared()
  closeAll(socketPair())
  before = countOpenFds()
})
afterEach(() => {
  rmSync(folder, { recursive: true })
  expect(countOpenFds()).toBe(before)
})

const text = (bytes: Uint8Array | undefined) => Buffer.from(bytes ?? []).toString()

/** The next thing that a poller says of `fd`. */
function readiness(fd: Fd, interest = { read: true, write: false }): Promise<Readiness> {
  return new Promise((resolve) => {
    Poller.shared().ref()
    const registration = Poller.shared().add(fd, interest, (ready) => {
      registration.close()
      Poller.shared().unref()
      resolve(ready)
    })
  })
}

test.each([0, 1, 2, MAX_FDS_PER_MESSAGE])('a message carries %d files, and they are the same open files', (count) => {
  const [a, b] = socketPair()
  const files = Array.from({ length: count }, (_, index) => createMemfd(`f${index}`))
  expect(send(a, Buffer.from('hello'), files)).toBe(5)
  const got = receive(b)
  expect([text(got?.bytes), got?.fds.length, got?.truncated]).toEqual(['hello', count, false])
  got?.fds.forEach((fd, index) => {
    const file = files[index]
    expect(file && sameOpenFile(fd, file)).toBe(true)
  })
  closeAll([a, b, ...files, ...(got?.fds ?? [])])
})

test('one file more than the kernel takes, and an empty message, are refused before they are sent', () => {
  const [a, b] = socketPair()
  using file = createMemfd('f')
  const many = Array.from({ length: MAX_FDS_PER_MESSAGE + 1 }, () => file)
  expect(codeOf(() => send(a, Buffer.from('x'), many))).toBe('EINVAL')
  // With a file, it would look like the end of the stream.
  expect(codeOf(() => send(a, new Uint8Array(0), [file]))).toBe('EINVAL')
  expect(receive(b)).toBe(undefined)
  closeAll([a, b])
})

test('files that do not fit into the limit of descriptors are reported, and what came is owned', () => {
  const [a, b] = socketPair()
  const files = Array.from({ length: 40 }, () => createMemfd('f'))
  send(a, Buffer.from('x'), files)
  const { soft } = nofileLimit()
  raiseNofile(countOpenFds() + 15)
  try {
    const got = receive(b)
    expect(got?.truncated).toBe(true)
    expect(got?.fds.length).toBeLessThan(40)
    closeAll(got?.fds ?? [])
  } finally {
    raiseNofile(soft)
  }
  closeAll([a, b, ...files])
})

test('nothing blocks: an empty socket answers nothing, a full one takes nothing, a closed one is an end', () => {
  const [a, b] = socketPair()
  expect(receive(a)).toBe(undefined)
  const chunk = new Uint8Array(60_000)
  let sent = 0
  for (let now = send(a, chunk); now > 0; now = send(a, chunk)) sent += now
  expect(sent).toBeGreaterThan(60_000)
  b.close()
  expect(codeOf(() => send(a, chunk))).toBe('EPIPE')
  a.close()
})

test('a listener has its mode, and knows who connects', () => {
  const path = join(folder, 'socket')
  const listener = listenUnix(path, 0o640)
  expect(statSync(path).mode & 0o777).toBe(0o640)
  expect(codeOf(() => listenUnix(path))).toBe('EADDRINUSE')
  expect(acceptUnix(listener)).toBe(undefined)
  const client = connectUnix(path)
  const server = acceptUnix(listener)
  if (!server) throw new Error('nobody connected')
  expect(peerCredentials(server)).toEqual({ pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() })
  const pidfd = peerPidfd(server)
  expect(pidfd && pidfdOwner(pidfd)?.pid).toBe(process.pid)
  pidfd?.close()
  closeAll([client, server, listener])
  expect(codeOf(() => connectUnix(path))).toBe('ECONNREFUSED')
})

test('addresses: absolute or abstract, and not too long', () => {
  expect(unixAddress('/a').length).toBe(5)
  expect(unixAddress('@a')[2]).toBe(0)
  expect(codeOf(() => unixAddress('relative'))).toBe('EINVAL')
  expect(codeOf(() => unixAddress(''))).toBe('EINVAL')
  expect(codeOf(() => unixAddress('/a\0b'))).toBe('EINVAL')
  expect(codeOf(() => unixAddress(`/${'x'.repeat(107)}`))).toBe('ENAMETOOLONG')
  expect(unixAddress(`/${'x'.repeat(106)}`).length).toBe(110)
})

test('a poller tells of data, of room, and of the end; also of the end when nobody asks for anything', async () => {
  const [a, b] = socketPair()
  expect(await readiness(a, { read: false, write: true })).toMatchObject({ writable: true })
  send(b, Buffer.from('x'))
  expect(await readiness(a)).toMatchObject({ readable: true, hangup: false })
  b.close()
  expect(await readiness(a, { read: false, write: false })).toMatchObject({ hangup: true })
  a.close()
})

test('a callback may take another registration away; what is left unread is told again', async () => {
  const [a, b] = socketPair()
  const [c, d] = socketPair()
  const heard: string[] = []
  Poller.shared().ref()
  await new Promise<void>((resolve) => {
    const first = Poller.shared().add(a, { read: true, write: false }, () => {
      heard.push('a')
      if (heard.length === 1) second.close()
      if (heard.filter((name) => name === 'a').length === 3) {
        first.close()
        resolve()
      }
    })
    const second = Poller.shared().add(c, { read: true, write: false }, () => {
      heard.push('c')
      second.close()
    })
    send(b, Buffer.from('x'))
    send(d, Buffer.from('x'))
  })
  Poller.shared().unref()
  expect(heard.filter((name) => name === 'a')).toHaveLength(3)
  expect(heard.filter((name) => name === 'c').length).toBeLessThanOrEqual(1)
  closeAll([a, b, c, d])
})

test('the end of a pair is seen when the last copy is gone: a duplicate, and one in flight', async () => {
  const [end, holder] = socketPair()
  const [a, b] = socketPair()
  const copy = holder.dup()
  send(a, Buffer.from('x'), [copy])
  copy.close()
  holder.close()
  expect(receive(end)).toBe(undefined)
  // The copy that nobody has received is the last one.
  closeAll([a, b])
  expect(await readiness(end, { read: false, write: false })).toMatchObject({ hangup: true })
  end.close()
})

test('the end of a pair is seen when its holder is killed, and not while a child of it lives', async () => {
  const [end, holder] = socketPair()
  // A shell with a child of its own, which inherits the descriptor too.
  const script = 'sleep 60 & echo $!; wait'
  const shell: ChildProcess = spawn('sh', ['-c', script], {
    stdio: ['ignore', 'pipe', 'inherit', inheritStdio(holder)],
  })
  const [line] = shell.stdout ? await once(shell.stdout, 'data') : ['0']
  holder.close()
  const ended = once(shell, 'exit')
  shell.kill('SIGKILL')
  await ended
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(receive(end)).toBe(undefined)
  const hangup = readiness(end, { read: false, write: false })
  process.kill(Number(String(line)), 'SIGKILL')
  expect(await hangup).toMatchObject({ hangup: true })
  end.close()
  shell.stdout?.destroy()
})

test('a pidfd becomes readable when its process ends, and never means another one', async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  const pidfd = openPidfd(child.pid ?? 0)
  expect(pidfdOwner(pidfd)).toEqual({ pid: child.pid, uid: process.getuid?.() })
  const ended = readiness(pidfd)
  expect(signalPidfd(pidfd, 0)).toBe(true)
  expect(signalPidfd(pidfd, 'SIGKILL')).toBe(true)
  expect(await ended).toMatchObject({ readable: true })
  if (child.signalCode === null) await once(child, 'exit')
  expect(signalPidfd(pidfd, 'SIGKILL')).toBe(false)
  expect(pidfdOwner(pidfd)).toBe(undefined)
  expect(codeOf(() => openPidfd(child.pid ?? 0))).toBe('ESRCH')
  expect(codeOf(() => openPidfd(0))).toBe('EINVAL')
  pidfd.close()
})
