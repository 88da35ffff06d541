import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, Fd } from './fd.js'
import { checked } from './ffi.js'
import { notify } from './notify.js'
import { listenUnix, receive, sendDatagram, socketPair, unixAddress } from './unix.js'

const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000

let folder: string
let openAtStart: number

/** What a service manager listens on. */
function manager(path: string): Fd {
  const fd = Fd.adopt(checked('open a datagram socket', 'socket', AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))
  const address = unixAddress(path)
  checked(`bind ${path}`, 'bind', fd.number, address, address.length)
  return fd
}

const next = (fd: Fd): string | undefined => {
  const got = receive(fd)
  return got && Buffer.from(got.bytes).toString()
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-notify-'))
  closeAll(socketPair())
  openAtStart = countOpenFds()
})

afterAll(() => rmSync(folder, { recursive: true }))

describe('a notification', () => {
  test('is one datagram each', () => {
    const path = join(folder, 'path')
    using socket = manager(path)
    notify(path, 'READY=1')
    notify(path, 'STATUS=two\nlines')
    expect([next(socket), next(socket), next(socket)]).toEqual(['READY=1', 'STATUS=two\nlines', undefined])
  })

  test('reaches an abstract name, which no file leads to', () => {
    const name = `@luo-notify-${process.pid}`
    using socket = manager(name)
    notify(name, 'READY=1')
    expect(next(socket)).toBe('READY=1')
    expect(existsSync(name)).toBe(false)
  })

  test('may hold bytes that are no text', () => {
    const path = join(folder, 'bytes')
    using socket = manager(path)
    sendDatagram(path, Uint8Array.of(0, 255, 0))
    expect([...(receive(socket)?.bytes ?? [])]).toEqual([0, 255, 0])
  })

  test('to nobody is ENOENT, and to somebody who has gone ECONNREFUSED', () => {
    expect(codeOf(() => notify(join(folder, 'nobody'), 'READY=1'))).toBe('ENOENT')
    const path = join(folder, 'gone')
    manager(path).close()
    expect(codeOf(() => notify(path, 'READY=1'))).toBe('ECONNREFUSED')
  })

  test('to a manager that does not read is an error, and does not wait', () => {
    const path = join(folder, 'full')
    using socket = manager(path)
    const fill = () => {
      for (let count = 0; count < 100_000; count++) notify(path, 'WATCHDOG=1')
    }
    expect(codeOf(fill)).toBe('EAGAIN')
    expect(next(socket)).toBe('WATCHDOG=1')
    notify(path, 'READY=1')
  })

  test('to a stream socket is EPROTOTYPE', () => {
    const path = join(folder, 'stream')
    using listener = listenUnix(path)
    expect(listener.closed).toBe(false)
    expect(codeOf(() => notify(path, 'READY=1'))).toBe('EPROTOTYPE')
  })

  test('that is too long for a datagram is EMSGSIZE', () => {
    const path = join(folder, 'long')
    using socket = manager(path)
    expect(codeOf(() => notify(path, 'x'.repeat(2 ** 24)))).toBe('EMSGSIZE')
    expect(next(socket)).toBe(undefined)
  })

  test('is refused at an address that is none', () => {
    expect(codeOf(() => notify('relative', 'READY=1'))).toBe('EINVAL')
    expect(codeOf(() => notify('', 'READY=1'))).toBe('EINVAL')
    expect(codeOf(() => notify(`/${'x'.repeat(200)}`, 'READY=1'))).toBe('ENAMETOOLONG')
  })
})

test('no descriptor is left open', () => {
  expect(countOpenFds()).toBe(openAtStart)
})
