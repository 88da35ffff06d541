/** Proofs of files and directories that cross a kexec by value. */
import {
  appendFileSync,
  chmodSync,
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { expect } from 'vitest'
import type { Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { AF, bindSocket, openSocket, SOCK, statusFlags } from '../../src/sys/socket.js'
import { type ByValueProof, failsWith, type Kit, position, read } from './kit.js'
import { directory, someNames } from './proofs-files.js'

const O_ACCMODE = 3

function file(kit: Kit, flags: number = constants.O_RDWR): Fd {
  writeFileSync(kit.path('file'), 'a file with some text')
  return kit.adopt(openSync(kit.path('file'), flags))
}

/** `run` fails with LUO_CHANGED, and names the path and what differs. */
function refuses(kit: Kit, run: () => unknown, path: string, differs: RegExp): void {
  let error: unknown
  try {
    run()
  } catch (thrown) {
    error = thrown
  }
  expect(error).toMatchObject({ code: 'LUO_CHANGED', params: { path: kit.path(path) } })
  expect(String((error as { params: { differs: unknown } }).params.differs)).toMatch(differs)
  expect((error as Error).message).toContain(kit.path(path))
}

const lockedAgain =
  (open: (kit: Kit) => Fd): ByValueProof =>
  (kit, again) => {
    const other = open(kit)
    for (const [mode, refused] of [
      [1, 2],
      [2, 1],
    ] as const) {
      const fd = open(kit)
      checked('lock', 'flock', fd.number, mode)
      const back = again(fd, () => checked('lock', 'flock', other.number, 8))
      expect(failsWith(() => checked('lock', 'flock', other.number, refused | 4))).toBe('EAGAIN')
      back.close()
    }
    const fd = open(kit)
    checked('lock', 'flock', fd.number, 2)
    expect(failsWith(() => again(fd, () => checked('lock', 'flock', other.number, 2)))).toBe('EAGAIN')
  }

export const FILE = {
  position: ((kit, again) => {
    const fd = file(kit)
    read(fd, 7)
    const back = again(fd)
    expect(position(back)).toBe(7)
    expect(read(back)).toBe('with some text')
  }) satisfies ByValueProof,
  access: ((kit, again) => {
    for (const access of [constants.O_RDONLY, constants.O_WRONLY, constants.O_RDWR]) {
      const back = again(file(kit, access))
      expect(statusFlags(back) & O_ACCMODE).toBe(access)
      expect(failsWith(() => writeSync(back.number, 'x'))).toBe(access === constants.O_RDONLY ? 'EBADF' : undefined)
    }
  }) satisfies ByValueProof,
  flags: ((kit, again) => {
    const { O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_SYNC, O_DSYNC, O_RDWR } = constants
    const all = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_SYNC
    for (const flags of [0, O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_DSYNC, O_SYNC, O_APPEND | O_DSYNC]) {
      expect(statusFlags(again(file(kit, O_RDWR | flags))) & all, `flags ${flags}`).toBe(flags)
    }
    // Neither made nor cut, whatever it was opened with before.
    const fd = file(kit, O_RDWR | constants.O_CREAT | constants.O_TRUNC)
    writeSync(fd.number, 'written later')
    again(fd)
    expect(readFileSync(kit.path('file'), 'utf8')).toBe('written later')
  }) satisfies ByValueProof,
  flock: lockedAgain(file),
  'the same': ((kit, again) => {
    again(file(kit))
    const path = kit.path('file')
    const [other, third] = [kit.path('other'), kit.path('third')]
    const changes: [RegExp, () => void][] = [
      [/^missing$/, () => rmSync(path)],
      [/size.*mtime.*ctime/, () => appendFileSync(path, 'more')],
      [/^ctime$/, () => chmodSync(path, 0o600)],
      [
        /mtime/,
        () => {
          writeFileSync(path, 'a FILE with some text')
          utimesSync(path, 1, 1)
        },
      ],
      [
        /inode/,
        () => {
          writeFileSync(other, 'a file with some text')
          renameSync(other, path)
        },
      ],
      [
        /a link on the way/,
        () => {
          renameSync(path, third)
          symlinkSync(third, path)
        },
      ],
      [
        /^kind$/,
        () => {
          rmSync(path)
          mkdirSync(path)
        },
      ],
      [
        /^kind$/,
        () => {
          using socket = openSocket(AF.unix, SOCK.stream)
          rmSync(path)
          bindSocket(socket, Buffer.from(`\x01\0${path}\0`), path)
        },
      ],
    ]
    for (const [differs, change] of changes) {
      refuses(kit, () => again(file(kit), change), 'file', differs)
      rmSync(path, { recursive: true, force: true })
    }
  }) satisfies ByValueProof,
}

export const DIRECTORY = {
  position: ((kit, again) => {
    const names = Array.from({ length: 20 }, (_, index) => `entry-${index}`)
    for (const name of names) writeFileSync(kit.path(name), '')
    const fd = directory(kit)
    const found = someNames(fd)
    const back = again(fd)
    for (let more = someNames(back); more.length > 0; more = someNames(back)) found.push(...more)
    expect(found.toSorted()).toEqual(['.', '..', ...names].toSorted())
    const half = directory(kit)
    someNames(half)
    refuses(kit, () => again(half, () => writeFileSync(kit.path('new'), '')), '', /entries/)
  }) satisfies ByValueProof,
  flock: lockedAgain(directory),
  'the same': ((kit, again) => {
    const make = () => {
      mkdirSync(kit.path('inside'))
      return kit.adopt(openSync(kit.path('inside'), 'r'))
    }
    const back = again(make())
    writeFileSync(`/proc/self/fd/${back.number}/new`, '')
    rmSync(kit.path('inside'), { recursive: true })
    refuses(kit, () => again(make(), () => rmSync(kit.path('inside'), { recursive: true })), 'inside', /missing/)
    const replace = () => {
      mkdirSync(kit.path('other'))
      renameSync(kit.path('other'), kit.path('inside'))
    }
    refuses(kit, () => again(make(), replace), 'inside', /inode/)
  }) satisfies ByValueProof,
}
