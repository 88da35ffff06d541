import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { isLuoError, type LuoError } from '../errors.js'
import { prepareSocketDirectory, socketPath } from './socket-path.js'

const UID = process.getuid?.() ?? 0
const STRANGER = 54321

function errorOf(run: () => unknown): LuoError {
  try {
    run()
  } catch (error) {
    if (isLuoError(error)) return error
    throw error
  }
  throw new Error('it did not fail')
}

describe('the path of the socket', () => {
  test.each<[string, string | undefined, NodeJS.ProcessEnv, number, string]>([
    ['what the option says', '/a/b.sock', { LUO_SOCKET: '/c', XDG_RUNTIME_DIR: '/d' }, 0, '/a/b.sock'],
    ['what the environment says, without an option', undefined, { LUO_SOCKET: '/c/d.sock' }, 1000, '/c/d.sock'],
    ['the place of the system, for root', undefined, { XDG_RUNTIME_DIR: '/d' }, 0, '/run/luod/liveupdate.sock'],
    ['in the runtime directory of a user', undefined, { XDG_RUNTIME_DIR: '/d' }, 1000, '/d/luod/liveupdate.sock'],
    ['in /tmp for a user without one', undefined, {}, 1000, '/tmp/luod-1000/liveupdate.sock'],
    ['the default when the variable is empty', undefined, { LUO_SOCKET: '' }, 1000, '/tmp/luod-1000/liveupdate.sock'],
    ['without detours', '/a/../b//./c', {}, 0, '/b/c'],
  ])('is %s', (_what, option, env, uid, expected) => {
    expect(socketPath(option, env, uid)).toBe(expected)
  })

  test('is absolute, whatever was given', () => {
    expect(socketPath('run/luod.sock', {}, 0)).toBe(resolve('run/luod.sock'))
    expect(socketPath(undefined, { LUO_SOCKET: 'luod.sock' }, 0)).toBe(resolve('luod.sock'))
  })

  test('has 107 bytes at most: ENAMETOOLONG says which path, and how long it is', () => {
    const longest = `/${'x'.repeat(106)}`
    expect(socketPath(longest, {}, 0)).toBe(longest)
    expect(errorOf(() => socketPath(`${longest}x`, {}, 0))).toMatchObject({
      code: 'ENAMETOOLONG',
      message: expect.stringContaining(`${longest}x has 108 bytes`),
    })
    expect(errorOf(() => socketPath(undefined, { LUO_SOCKET: `/${'é'.repeat(54)}` }, 0)).code).toBe('ENAMETOOLONG')
    expect(errorOf(() => socketPath(undefined, { XDG_RUNTIME_DIR: longest }, 1000)).code).toBe('ENAMETOOLONG')
  })
})

describe('the directory of the socket', () => {
  let parent: string
  let directory: string
  let socket: string
  let umask: number
  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), 'socket-path-'))
    directory = join(parent, 'luod')
    socket = join(directory, 'liveupdate.sock')
    umask = process.umask()
  })
  afterEach(() => {
    process.umask(umask)
    rmSync(parent, { recursive: true })
  })
  const mode = (path = directory) => lstatSync(path).mode & 0o7777
  const make = (bits: number) => {
    mkdirSync(directory)
    // mkdir's mode goes through the umask.
    chmodSync(directory, bits)
  }

  test.each([
    [0, 0o000, 0o755],
    [0, 0o077, 0o755],
    [1000, 0o000, 0o700],
    [1000, 0o022, 0o700],
    [1000, 0o777, 0o700],
  ])('is made for uid %i with umask %o as mode %o', (uid, mask, expected) => {
    process.umask(mask)
    prepareSocketDirectory(socket, uid)
    process.umask(umask)
    expect(mode()).toBe(expected)
    expect(existsSync(socket)).toBe(false)
  })

  test('is this user, when nobody else is named', () => {
    prepareSocketDirectory(socket)
    expect(mode()).toBe(UID === 0 ? 0o755 : 0o700)
    expect(lstatSync(directory).uid).toBe(UID)
  })

  test.each([0o700, 0o755, 0o750, 0o500, 0o1777, 0o1775])('may be there already with mode %o, and keeps it', (bits) => {
    make(bits)
    prepareSocketDirectory(socket)
    prepareSocketDirectory(socket)
    expect(mode()).toBe(bits)
  })

  test('may belong to root, for any user', () => {
    // Who is not root has none of root's directories but those of the system: one closed to others, one sticky.
    if (UID === 0) make(0o755)
    for (const path of UID === 0 ? [socket] : ['/liveupdate.sock', '/tmp/liveupdate.sock']) {
      prepareSocketDirectory(path, STRANGER)
    }
  })

  test.each([0o777, 0o775, 0o757, 0o702, 0o720])(
    'is refused when others can write to it and it is not sticky: mode %o',
    (bits) => {
      make(bits)
      const error = errorOf(() => prepareSocketDirectory(socket))
      expect(error.code).toBe('EPERM')
      expect(error.message).toContain(directory)
      expect(error.message).toContain('can be written by other users: chmod go-w')
      expect(mode()).toBe(bits)
    },
  )

  test('is refused when it belongs to somebody else, also when it is sticky', () => {
    make(0o700)
    // Whoever may give directories away does; for others their own directory is a stranger's.
    if (UID === 0) chownSync(directory, STRANGER, STRANGER)
    const owner = UID === 0 ? STRANGER : UID
    const user = UID === 0 ? 0 : STRANGER
    const refused = () => errorOf(() => prepareSocketDirectory(socket, user))
    expect(refused()).toMatchObject({
      code: 'EPERM',
      message: expect.stringContaining(`belongs to uid ${owner}, and this is uid ${user}`),
    })
    chmodSync(directory, 0o1777)
    expect(refused().code).toBe('EPERM')
    // Root's own word is no exception to that, and the owner is welcome.
    prepareSocketDirectory(socket, owner)
  })

  test.each([['a directory'], ['nothing']])('is refused when it is a link to %s', (what) => {
    const target = join(parent, 'target')
    if (what === 'a directory') mkdirSync(target, { mode: 0o700 })
    symlinkSync(target, directory)
    const error = errorOf(() => prepareSocketDirectory(socket))
    expect(error.code).toBe('EPERM')
    expect(error.message).toContain('is a link')
    expect(readlinkSync(directory)).toBe(target)
    expect(readdirSync(parent)).toHaveLength(what === 'nothing' ? 1 : 2)
  })

  test('is refused when it is no directory', () => {
    writeFileSync(directory, 'a file')
    const error = errorOf(() => prepareSocketDirectory(socket))
    expect(error.code).toBe('EPERM')
    expect(error.message).toContain('is no directory')
  })

  test('is ENOENT when there is no place for it: parents are not made', () => {
    expect(errorOf(() => prepareSocketDirectory(join(parent, 'a/b/luod.sock'))).code).toBe('ENOENT')
    expect(readdirSync(parent)).toEqual([])
  })

  test('is ENOTDIR when its parent is a file', () => {
    writeFileSync(join(parent, 'a'), '')
    expect(errorOf(() => prepareSocketDirectory(join(parent, 'a/luod/luod.sock'))).code).toBe('ENOTDIR')
  })
})
