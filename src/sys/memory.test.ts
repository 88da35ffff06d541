import { afterEach, beforeEach, expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { countOpenFds } from './fd.js'
import { MAX_BUFFER_BYTES, Mapping } from './mapping.js'
import { addSeals, createMemfd, fileSize, getSeals, readAt, truncate, writeAt } from './memfd.js'

let before: number
beforeEach(() => {
  createMemfd('warm').close()
  before = countOpenFds()
})
afterEach(() => expect(countOpenFds()).toBe(before))

const code = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    return isLuoError(error) ? error.code : String(error)
  }
  return 'nothing'
}
const GIB = 2 ** 30

test('memory files have a size, hold what is written, and take seals', () => {
  using fd = createMemfd('file', { size: 100 })
  writeAt(fd, Buffer.from('hello'), 10)
  const bytes = new Uint8Array(100)
  expect(readAt(fd, bytes, 0)).toBe(100)
  expect(Buffer.from(bytes.subarray(10, 15)).toString()).toBe('hello')
  expect(readAt(fd, bytes, 95)).toBe(5)
  addSeals(fd, ['shrink', 'grow'])
  expect(getSeals(fd)).toContain('shrink')
  expect(code(() => truncate(fd, 50))).toBe('EPERM')
  expect(code(() => truncate(fd, 200))).toBe('EPERM')
  expect(fileSize(fd)).toBe(100)
})

test('files above 4 GiB are written and read at their offsets', () => {
  using fd = createMemfd('large', { size: 6 * GIB })
  writeAt(fd, Buffer.from('beyond'), 5 * GIB)
  const bytes = new Uint8Array(6)
  readAt(fd, bytes, 5 * GIB)
  expect(Buffer.from(bytes).toString()).toBe('beyond')
})

test.each([
  ['a\0b', 0],
  ['x'.repeat(250), 0],
  ['ok', -1],
  ['ok', 1.5],
])('the name %j with size %d is refused', (name, size) => {
  expect(code(() => createMemfd(name, { size }))).toBe('EINVAL')
})

test('shared mappings of one file see each other', () => {
  using fd = createMemfd('shared', { size: 4096 })
  using a = Mapping.map(fd, { length: 4096, mode: 'shared' })
  using b = Mapping.map(fd, { length: 4096, mode: 'shared' })
  new Uint8Array(a.buffer)[7] = 9
  expect(new Uint8Array(b.buffer)[7]).toBe(9)
})

test('a switch to private and back keeps the same buffer, and what was written meanwhile vanishes', () => {
  using fd = createMemfd('switch', { size: 3 * 4096 + 5 })
  using mapping = Mapping.map(fd, { length: 3 * 4096 + 5, mode: 'shared' })
  const { buffer } = mapping
  const bytes = new Uint8Array(buffer)
  bytes.fill(1)
  for (let round = 0; round < 3; round++) {
    mapping.makePrivate()
    bytes.fill(2)
    expect(bytes.every((byte) => byte === 2)).toBe(true)
    const file = new Uint8Array(bytes.length)
    readAt(fd, file, 0)
    expect(file.every((byte) => byte === 1)).toBe(true)
    mapping.makeShared()
    expect(mapping.buffer).toBe(buffer)
    expect(bytes.every((byte) => byte === 1)).toBe(true)
  }
  bytes[0] = 3
  const first = new Uint8Array(1)
  readAt(fd, first, 0)
  expect(first[0]).toBe(3)
})

test('a private mapping sees what others write to pages that it has not touched', () => {
  using fd = createMemfd('private', { size: 8192 })
  using mapping = Mapping.map(fd, { length: 8192, mode: 'private' })
  const bytes = new Uint8Array(mapping.buffer)
  bytes[0] = 5
  writeAt(fd, Uint8Array.of(8), 4096)
  expect(bytes[4096]).toBe(8)
  mapping.makeShared()
  expect(bytes[0]).toBe(0)
})

test('after unmap every view of it has no length, and the mapping is an error', () => {
  using fd = createMemfd('unmap', { size: 8192 })
  const mapping = Mapping.map(fd, { length: 8192, mode: 'shared' })
  const views = [new Uint8Array(mapping.buffer), new Uint8Array(mapping.window(4096, 100))]
  mapping.unmap()
  mapping.unmap()
  for (const view of views) {
    expect(view.length).toBe(0)
    expect(view.buffer.byteLength).toBe(0)
    view[0] = 1
  }
  expect(code(() => mapping.buffer)).toBe('EFAULT')
  expect(code(() => mapping.window(0, 1))).toBe('EFAULT')
  expect(code(() => mapping.makePrivate())).toBe('EFAULT')
  expect(code(() => mapping.grow(9000))).toBe('EFAULT')
})

test('memory grows in place up to its reserve; views from before have no length', () => {
  using fd = createMemfd('grow', { size: 5000 })
  using mapping = Mapping.map(fd, { length: 5000, mode: 'shared', reserve: 20_000 })
  const old = new Uint8Array(mapping.buffer)
  old[4999] = 7
  mapping.grow(12_000)
  expect(old.length).toBe(0)
  const bytes = new Uint8Array(mapping.buffer)
  expect([bytes.length, bytes[4999], fileSize(fd)]).toEqual([12_000, 7, 12_000])
  bytes[11_999] = 1
  expect(code(() => mapping.grow(11_000))).toBe('EINVAL')
  expect(code(() => mapping.grow(40_000))).toBe('EINVAL')
})

test('above 4 GiB there are windows, and no single buffer that would abort the process', () => {
  using fd = createMemfd('huge', { size: 5 * GIB })
  using mapping = Mapping.map(fd, { length: 5 * GIB, mode: 'shared' })
  expect(code(() => mapping.buffer)).toBe('LUO_UNSUPPORTED')
  expect(code(() => mapping.window(0, MAX_BUFFER_BYTES + 1))).toBe('EINVAL')
  const window = mapping.window(4 * GIB + 8, 16)
  new Uint8Array(window)[0] = 42
  expect(mapping.window(4 * GIB + 8, 16)).toBe(window)
  const byte = new Uint8Array(1)
  readAt(fd, byte, 4 * GIB + 8)
  expect(byte[0]).toBe(42)
})

test.each([0, -1, 1.5, Number.NaN, 2 ** 46])('a mapping of %d bytes is refused', (length) => {
  using fd = createMemfd('bad', { size: 4096 })
  expect(code(() => Mapping.map(fd, { length, mode: 'shared' }))).toBe('EINVAL')
})

test('a sealed file that cannot be mapped for writing is EPERM, and nothing is left behind', () => {
  using fd = createMemfd('sealed', { size: 4096 })
  addSeals(fd, ['write'])
  expect(code(() => Mapping.map(fd, { length: 4096, mode: 'shared' }))).toBe('EPERM')
  using readable = Mapping.map(fd, { length: 4096, mode: 'read' })
  expect(new Uint8Array(readable.buffer)[0]).toBe(0)
})
