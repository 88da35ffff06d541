import { createRequire } from 'node:module'
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { LuoError } from '../errors.js'
import { countOpenFds } from './fd.js'
import { checked, errno, failure, integer, libc } from './ffi.js'
import './file-info.js'
import './limits.js'
import './lock.js'
import './mapping.js'
import './memfd.js'
import './node.js'
import './notify.js'
import './pidfd.js'
import './poller.js'
import './process.js'
import './unix.js'
import { codeOf } from '../../test/code-of.js'

const { cache } = createRequire(import.meta.url)
const koffiIsLoaded = (): boolean => Object.keys(cache).some((path) => path.includes('/koffi/'))

let loadedBefore: boolean
let openAtStart: number

beforeAll(() => {
  loadedBefore = koffiIsLoaded()
  openAtStart = countOpenFds()
})

describe('the native part', () => {
  afterEach(() => {
    vi.unstubAllGlobals()
    vi.resetModules()
  })

  test('is loaded on the first call, and not by an import', () => {
    expect(loadedBefore).toBe(false)
    expect(libc('close', -1)).toBe(-1)
    expect(koffiIsLoaded()).toBe(true)
  })

  test('is refused with a reason on other systems', async () => {
    vi.resetModules()
    const fresh = await import('./ffi.js')
    vi.stubGlobal('process', Object.create(process, { platform: { value: 'darwin' } }))
    expect(() => fresh.libc('close', -1)).toThrow('live updates need Linux, and this is darwin')
  })

  test('that is not installed is named, with what installs it', async () => {
    vi.resetModules()
    const fresh = await import('./ffi.js')
    const loader = createRequire(import.meta.url)('node:module') as { _load: () => unknown }
    const load = vi.spyOn(loader, '_load').mockImplementation(() => {
      throw new Error("Cannot find module 'koffi'\nRequire stack:\n- ffi.js")
    })
    const says = "koffi: Cannot find module 'koffi'; npm install --include=optional installs it"
    expect(() => fresh.libc('close', -1)).toThrow(says)
    load.mockRestore()
  })

  test('has no function that is not declared', () => {
    expect(codeOf(() => libc('system' as 'close', 0))).toBe('LUO_UNSUPPORTED')
  })
})

describe('errno', () => {
  test('is the name of the last failure', () => {
    expect(libc('close', -1)).toBe(-1)
    expect(errno()).toBe('EBADF')
  })

  test('has the usual name where one number has two', () => {
    const type = 2 | 0o2000000
    const datagrams = checked('open a datagram socket', 'socket', 1, type, 0)
    try {
      expect(codeOf(() => checked('listen for datagrams', 'listen', datagrams, 1))).toBe('EOPNOTSUPP')
    } finally {
      libc('close', datagrams)
    }
  })

  test('becomes an error that names the action and carries the code', () => {
    const error = failure('open the box', 'ENOENT')
    expect(error).toBeInstanceOf(LuoError)
    expect(error.message).toBe('open the box: ENOENT')
    expect(error.code).toBe('ENOENT')
  })

  test('makes a checked call throw', () => {
    expect(() => checked('close what is not open', 'close', -1)).toThrow('close what is not open: EBADF')
  })

  test('is that of the last call, whatever is allocated around the calls', () => {
    const seen = new Map<string, number>()
    for (let round = 0; round < 5_000; round++) {
      libc('close', -1)
      const first = errno()
      Buffer.alloc(4096)
      libc('munmap', 1, 4096)
      const key = `${first}, ${errno()}`
      seen.set(key, (seen.get(key) ?? 0) + 1)
    }
    expect([...seen]).toEqual([['EBADF, EINVAL', 5_000]])
  })
})

describe('numbers', () => {
  test.each([Number.NaN, 1.5, -1, 11, 1e10, 2 ** 53, Number.POSITIVE_INFINITY])('%s is not from 0 to 10', (value) => {
    expect(codeOf(() => integer(value, 0, 10, 'a number'))).toBe('EINVAL')
  })

  test('from the lowest to the highest go through', () => {
    expect([0, 5, 10].map((value) => integer(value, 0, 10, 'a number'))).toEqual([0, 5, 10])
  })

  test('that do not fit are named with what they are and what is needed', () => {
    expect(() => integer(1.5, 0, 10, 'the size of a box')).toThrow(
      'the size of a box is 1.5, and an integer from 0 to 10 is needed',
    )
  })
})

test('no descriptor is left open', () => {
  expect(countOpenFds()).toBe(openAtStart)
})
