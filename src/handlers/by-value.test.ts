import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { LuoError } from '../errors.js'
import { createEventfd } from '../sys/eventfd.js'
import { countOpenFds, Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { scratch } from '../sys/mapping.js'
import { createMemfd } from '../sys/memfd.js'
import { AF, bindSocket, connectSocket, listenSocket, openSocket, SOCK, setSocketOption } from '../sys/socket.js'
import { encodeAddress } from '../sys/socket-address.js'
import { socketPair } from '../sys/unix.js'
import { DESCRIPTION_VERSION, describe as describeFile, recreate, whyNotByValue } from './by-value.js'

type Json = Record<string, unknown>

let folder: string
let files: Fd[]
let openBefore: number
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-by-value-'))
  chmodSync(folder, 0o755)
  writeFileSync(join(folder, 'file'), 'text')
})
afterAll(() => rmSync(folder, { recursive: true }))
beforeEach(() => {
  openBefore = countOpenFds()
  files = []
})
afterEach(() => {
  for (const fd of files) fd.close()
  expect(countOpenFds()).toBe(openBefore)
})

function own(fd: Fd): Fd {
  files.push(fd)
  return fd
}

const held = (fd: Fd) => ({ fd, info: fileInfo(fd) })
const why = (fd: Fd) => whyNotByValue(held(fd))
const open = (path: string, flags = 'r') => own(Fd.adopt(openSync(path, flags)))

function socket(family: 'ipv4' | 'ipv6', type: 'stream' | 'datagram'): Fd {
  return own(openSocket(AF[family], SOCK[type]))
}

function bound(type: 'stream' | 'datagram'): Fd {
  const fd = socket('ipv4', type)
  bindSocket(fd, encodeAddress({ family: 'ipv4', address: '127.0.0.1', port: 0 }), 'it')
  return fd
}

/** One of each kind, described and closed. */
function descriptions(): Record<string, Json> {
  const tcp = bound('stream')
  listenSocket(tcp, 5, 'it')
  const unix = own(openSocket(AF.unix, SOCK.stream))
  bindSocket(unix, Buffer.from(`\x01\0${join(folder, 'socket')}\0`), 'it')
  listenSocket(unix, 5, 'it')
  const udp = bound('datagram')
  connectSocket(udp, encodeAddress({ family: 'ipv4', address: '127.0.0.1', port: 9 }), 'it')
  const all = {
    file: open(join(folder, 'file')),
    directory: open(folder),
    tcp,
    udp,
    unix,
    eventfd: own(createEventfd({ counter: 7n, semaphore: true })),
  }
  const described = Object.entries(all).map(([kind, fd]) => {
    const description = JSON.parse(JSON.stringify(describeFile(held(fd)))) as Json
    fd.close()
    return [kind, description] as const
  })
  rmSync(join(folder, 'socket'))
  return Object.fromEntries(described)
}

/** Every field at every depth, as a path to it. */
function paths(value: unknown, at: readonly (string | number)[] = []): (readonly (string | number)[])[] {
  const inner: [string | number, unknown][] = Array.isArray(value)
    ? [...value.entries()]
    : value !== null && typeof value === 'object'
      ? Object.entries(value)
      : []
  return inner.flatMap(([key, each]) => [[...at, key], ...paths(each, [...at, key])])
}

function changed(value: unknown, [key, ...rest]: readonly (string | number)[], to: unknown): unknown {
  if (key === undefined) return to
  const copy = (Array.isArray(value) ? [...value] : { ...(value as Json) }) as Json
  copy[key] = changed(copy[key], rest, to)
  return copy
}

describe('a description that is not as it has to be', () => {
  const BAD = [
    undefined,
    null,
    true,
    -1,
    1.5,
    2 ** 60,
    Number.NaN,
    '',
    '\0',
    'x'.repeat(10_000),
    '../../etc',
    '99999999999999999999',
    [],
    [[]],
    {},
    ['append', 'append'],
    Array.from({ length: 10_000 }, () => ({})),
  ]

  test('is refused with a LuoError, whichever field it is, and leaves nothing open', () => {
    for (const [kind, description] of Object.entries(descriptions())) {
      for (const path of paths(description)) {
        for (const bad of BAD) {
          const code = codeOf(() => own(recreate(changed(description, path, bad))).close())
          // Some of them are right for some fields.
          expect(code, `${kind}: ${path.join('.')} is ${String(bad).slice(0, 20)}`).toSatisfy(
            (answer) =>
              answer === undefined || /^(LUO_RECORDS|LUO_CHANGED|LUO_UNSUPPORTED|E[A-Z]+)$/.test(String(answer)),
          )
          rmSync(join(folder, 'socket'), { force: true })
        }
        expect(codeOf(() => recreate(changed(description, path, Symbol('of no type'))))).toBe('LUO_RECORDS')
      }
    }
  })

  test.each([undefined, null, 1, 'text', [], {}, { version: 0 }, { version: 1 }, { version: 1, kind: 'pipe' }])(
    'is LUO_RECORDS: %j',
    (description) => {
      expect(codeOf(() => recreate(description))).toBe('LUO_RECORDS')
    },
  )

  test('has no field of Object', () => {
    const { tcp = {} } = descriptions()
    for (const kind of ['toString', '__proto__', 'constructor']) {
      expect(codeOf(() => recreate({ ...tcp, kind }))).toBe('LUO_RECORDS')
    }
  })

  test('of a newer version is LUO_RECORDS_VERSION, and fields that are not known are left alone', () => {
    const { tcp = {} } = descriptions()
    expect(codeOf(() => recreate({ ...tcp, version: DESCRIPTION_VERSION + 1 }))).toBe('LUO_RECORDS_VERSION')
    own(recreate({ ...tcp, hint: 'of a later version' }))
  })
})

describe('what cannot cross by value is refused, with the reason', () => {
  test.each<[string, () => Fd, RegExp]>([
    ['a connection of TCP', () => bound('stream'), /only a listening socket/],
    ['UDP without a port', () => socket('ipv6', 'datagram'), /not bound/],
    ['a connected Unix socket', () => socketPair().map(own)[0] as Fd, /only a socket that listens/],
    ['a Unix socket without a name', () => own(openSocket(AF.unix, SOCK.datagram)), /no name/],
    ['a file of /proc', () => open('/proc/self/status'), /of proc, which ends/],
    ['a directory of /sys', () => open('/sys'), /of sysfs/],
    ['a file of /dev/shm', () => open('/dev/shm'), /of tmpfs/],
    ['a device', () => open('/dev/null'), /driver/],
    [
      'a file without a name',
      () => {
        const fd = open(join(folder, 'gone'), 'w')
        rmSync(join(folder, 'gone'))
        return fd
      },
      /no name leads to it/,
    ],
  ])('%s', (_, make, reason) => {
    const fd = make()
    expect(why(fd)).toMatch(reason)
    expect(codeOf(() => describeFile(held(fd)))).toBe('ENOENT')
    expect(() => describeFile(held(fd))).toThrow(reason)
  })

  test('a file whose name leads to another one by now', () => {
    const path = join(folder, 'replaced')
    const fd = open(path, 'w')
    rmSync(path)
    writeFileSync(path, 'another one')
    expect(why(fd)).toMatch(/no name leads to it/)
    rmSync(path)
  })

  test('a Unix socket whose file is gone, or is that of another socket, or has a relative path', () => {
    const path = join(folder, 'lost')
    const make = (name: string) => {
      const fd = own(openSocket(AF.unix, SOCK.stream))
      bindSocket(fd, Buffer.from(`\x01\0${name}\0`), 'it')
      listenSocket(fd, 1, 'it')
      return fd
    }
    const first = make(path)
    rmSync(path)
    expect(why(first)).toMatch(/does not lead to it/)
    make(path)
    expect(why(first)).toMatch(/does not lead to it/)
    rmSync(path)
    const name = `luo-relative-${process.pid}`
    try {
      expect(why(make(name))).toMatch(/not absolute/)
    } finally {
      rmSync(name)
    }
  })

  test('a socket with a filter', () => {
    const SO_ATTACH_FILTER = 26
    const fd = bound('datagram')
    expect(why(fd)).toBe(undefined)
    // One instruction that takes every packet, as struct sock_filter, which struct sock_fprog points to.
    const BPF_RET = 6
    const { address, buffer } = scratch(8)
    const view = new DataView(buffer)
    view.setUint16(0, BPF_RET, true)
    view.setUint32(4, 0xffff, true)
    const program = new DataView(new ArrayBuffer(16))
    program.setUint16(0, 1, true)
    program.setBigUint64(8, BigInt(address), true)
    setSocketOption(fd, 1, SO_ATTACH_FILTER, new Uint8Array(program.buffer), 'a filter')
    expect(why(fd)).toMatch(/a filter/)
  })

  test('what the kernel takes over is not asked about', () => {
    const fd = own(createMemfd('memory'))
    expect(why(fd)).toBe(undefined)
    expect(codeOf(() => describeFile(held(fd)))).toBe('ENOENT')
  })
})

test('more groups than this machine takes for one socket is no want of memory, which might pass', () => {
  const most = Number(readFileSync('/proc/sys/net/ipv4/igmp_max_memberships'))
  const memberships = Array.from({ length: most + 1 }, (_, index) => {
    return { family: 'ipv4', group: `239.77.${index >> 8}.${index & 255}`, interface: 'lo' }
  })
  const address = { family: 'ipv4', address: '127.0.0.1', port: 47_311 }
  const socket = { address, nonblock: false, options: [], buffers: [], memberships }
  const code = codeOf(() => recreate({ version: DESCRIPTION_VERSION, kind: 'udp', ...socket }))
  expect(code).toBe('LUO_UNSUPPORTED')
})

test('a Unix socket is made as the user that its file was of: not where that user may not', () => {
  const directory = join(folder, 'of-another')
  mkdirSync(directory)
  const path = join(directory, 'socket')
  const fd = own(openSocket(AF.unix, SOCK.stream))
  bindSocket(fd, Buffer.from(`\x01\0${path}\0`), 'it')
  listenSocket(fd, 1, 'it')
  chownSync(path, 65534, 65534)
  const description = describeFile(held(fd))
  fd.close()
  chownSync(directory, 65533, 65533)
  expect(codeOf(() => recreate(description))).toBe('EACCES')
  expect(lstatSync(path).isSocket()).toBe(true)
  chownSync(directory, 65534, 65534)
  own(recreate(description))
  expect(process.umask()).not.toBe(0)
  rmSync(directory, { recursive: true })
})

describe('after a reboot', () => {
  const OTHER_BOOT = '00000000-0000-4000-8000-000000000000'
  const file = (): Json => descriptions().file as Json
  const identity = (description: Json, fields: Json) => ({
    ...description,
    identity: { ...(description.identity as Json), ...fields },
  })

  test('another device number is the same file system when its identifier or the file handle says so', () => {
    const elsewhere = identity(file(), { dev: '12345' })
    expect(codeOf(() => recreate(elsewhere))).toBe('LUO_CHANGED')
    own(recreate({ ...elsewhere, boot: OTHER_BOOT }))
    own(recreate({ ...identity(elsewhere, { fsId: '0x1' }), boot: OTHER_BOOT }))
    expect(codeOf(() => recreate({ ...identity(elsewhere, { fsType: '0x1' }), boot: OTHER_BOOT }))).toBe('LUO_CHANGED')
  })

  test('each part of the identity counts', () => {
    for (const [field, value] of Object.entries({ ino: '1', born: '1', handle: '1:00' })) {
      const error = thrownBy(() => recreate(identity({ ...file(), boot: OTHER_BOOT }, { [field]: value })))
      expect(error.code, field).toBe('LUO_CHANGED')
      expect(error.params.path).toBe(join(folder, 'file'))
    }
    const hashed = { ...file(), hash: '0'.repeat(64) }
    expect(thrownBy(() => recreate(hashed)).params.differs).toEqual(['contents'])
  })

  function thrownBy(run: () => unknown): LuoError {
    try {
      run()
    } catch (error) {
      if (error instanceof LuoError) return error
    }
    throw new Error('nothing was thrown')
  }
})
