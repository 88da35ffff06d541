import { openSync, readFileSync, statSync } from 'node:fs'
import { beforeAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds, Fd } from './fd.js'
import { Mapping } from './mapping.js'
import { addSeals, createMemfd, fileSize, getSeals, readAt, truncate, writeAt } from './memfd.js'

const GIB = 2 ** 30
const NO_SIZES = [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]

let openAtStart: number

function textAt(fd: Fd, offset: number, length: number): string {
  const bytes = new Uint8Array(length)
  return Buffer.from(bytes.subarray(0, readAt(fd, bytes, offset))).toString()
}

/** How many bytes of memory the file costs. */
const costOf = (fd: Fd): number => statSync(`/proc/self/fd/${fd.number}`).blocks * 512

beforeAll(() => {
  openAtStart = countOpenFds()
})

describe('a new memory file', () => {
  test('is empty, or as long as was asked for and all zero', () => {
    using empty = createMemfd('empty')
    using zeros = createMemfd('zeros', { size: 3 })
    expect(fileSize(empty)).toBe(0)
    expect(textAt(zeros, 0, 10)).toBe('\0\0\0')
  })

  test('is not inherited by children', () => {
    using fd = createMemfd('private')
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'utf8'))?.[1]
    expect(Number.parseInt(flags ?? '0', 8) & 0o2000000).toBe(0o2000000)
  })

  test('has no seal that keeps its bytes or its size as they are', () => {
    using fd = createMemfd('open')
    const seals = getSeals(fd)
    // From Linux 6.3 on it can never become executable.
    seals.delete('exec')
    expect([...seals]).toEqual([])
  })

  test('that is to cross a kexec has no seal at all: a kernel would give it back as read-only', () => {
    using fd = createMemfd('kexec', { size: 10, overKexec: true })
    expect([...getSeals(fd)]).toEqual([])
    expect(fileSize(fd)).toBe(10)
  })

  test('may have a name of 249 bytes', () => {
    using fd = createMemfd('ü'.repeat(124))
    expect(fileSize(fd)).toBe(0)
    createMemfd('n'.repeat(249)).close()
  })

  test.each([
    ['of 250 bytes', 'n'.repeat(250)],
    ['of 125 characters of two bytes', 'ü'.repeat(125)],
    ['with a NUL', 'a\0b'],
  ])('is refused with a name %s', (_, name) => {
    expect(codeOf(() => createMemfd(name))).toBe('EINVAL')
  })

  test.each(NO_SIZES)('is refused with a size of %s', (size) => {
    expect(codeOf(() => createMemfd('refused', { size }))).toBe('EINVAL')
  })
})

describe('a file of more than 4 GiB', () => {
  test('costs what is touched, and an offset is not cut to 32 bits', () => {
    using fd = createMemfd('sparse', { size: 6 * GIB })
    expect(fileSize(fd)).toBe(6 * GIB)
    expect(costOf(fd)).toBe(0)
    writeAt(fd, Buffer.from('beyond'), 5 * GIB)
    expect(textAt(fd, 5 * GIB, 6)).toBe('beyond')
    expect(textAt(fd, 5 * GIB - 4 * GIB, 6)).toBe('\0'.repeat(6))
    expect(costOf(fd)).toBeLessThan(4 * 1024 * 1024)
  })

  test('ends where it ends', () => {
    using fd = createMemfd('end', { size: 5 * GIB + 3 })
    expect(readAt(fd, new Uint8Array(100), 5 * GIB)).toBe(3)
    expect(readAt(fd, new Uint8Array(100), 5 * GIB + 3)).toBe(0)
  })

  test('can be made longer and shorter by whole GiB', () => {
    using fd = createMemfd('resized')
    truncate(fd, 9 * GIB)
    expect(fileSize(fd)).toBe(9 * GIB)
    truncate(fd, 4 * GIB + 1)
    expect(fileSize(fd)).toBe(4 * GIB + 1)
  })
})

describe('reading and writing', () => {
  test('answers how many bytes there were', () => {
    using fd = createMemfd('short')
    writeAt(fd, Buffer.from('hello'), 0)
    expect(readAt(fd, new Uint8Array(3), 0)).toBe(3)
    expect(readAt(fd, new Uint8Array(10), 3)).toBe(2)
    expect(readAt(fd, new Uint8Array(10), 100)).toBe(0)
    expect(readAt(fd, new Uint8Array(0), 0)).toBe(0)
  })

  test('touches only the part of a buffer that the view covers', () => {
    using fd = createMemfd('part')
    writeAt(fd, Buffer.from('hello').subarray(1, 3), 0)
    expect(fileSize(fd)).toBe(2)
    const whole = new Uint8Array(4).fill(1)
    expect(readAt(fd, whole.subarray(1, 3), 0)).toBe(2)
    expect([...whole]).toEqual([1, 0x65, 0x6c, 1])
  })

  test('past the end makes the file longer, with zeros in between', () => {
    using fd = createMemfd('gap')
    writeAt(fd, Buffer.from('x'), 3)
    expect(textAt(fd, 0, 10)).toBe('\0\0\0x')
  })

  test('leaves the position of the file alone, so copies of it do not disturb each other', () => {
    using fd = createMemfd('position')
    using copy = fd.dup()
    writeAt(fd, Buffer.from('abc'), 0)
    writeAt(copy, Buffer.from('X'), 1)
    expect(textAt(fd, 0, 3)).toBe('aXc')
    expect(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'utf8')).toMatch(/^pos:\s+0$/m)
  })

  test.each(NO_SIZES)('is refused at the offset %s', (offset) => {
    using fd = createMemfd('offsets', { size: 10 })
    expect(codeOf(() => readAt(fd, new Uint8Array(1), offset))).toBe('EINVAL')
    expect(codeOf(() => writeAt(fd, new Uint8Array(1), offset))).toBe('EINVAL')
    expect(codeOf(() => truncate(fd, offset))).toBe('EINVAL')
    expect(fileSize(fd)).toBe(10)
  })

  test('says so when there is no room', () => {
    using full = Fd.adopt(openSync('/dev/full', 'r+'))
    expect(codeOf(() => writeAt(full, Buffer.from('x'), 0))).toBe('ENOSPC')
  })

  test('is EBADF through a descriptor that is only for reading, and after the close', () => {
    using fd = createMemfd('reading', { size: 1 })
    using reader = Fd.adopt(openSync(`/proc/self/fd/${fd.number}`, 'r'))
    expect(codeOf(() => writeAt(reader, Buffer.from('x'), 0))).toBe('EBADF')
    reader.close()
    expect(codeOf(() => readAt(reader, new Uint8Array(1), 0))).toBe('EBADF')
    expect(codeOf(() => truncate(reader, 0))).toBe('EBADF')
  })

  test('names the bytes and the offset in an error', () => {
    using fd = createMemfd('named', { size: 8 })
    addSeals(fd, ['write'])
    expect(() => writeAt(fd, new Uint8Array(4), 2)).toThrow('write 4 bytes at 2: EPERM')
  })
})

describe('a seal', () => {
  test('against shrinking leaves growing', () => {
    using fd = createMemfd('shrink', { size: 10 })
    addSeals(fd, ['shrink'])
    expect(codeOf(() => truncate(fd, 9))).toBe('EPERM')
    truncate(fd, 11)
    expect(fileSize(fd)).toBe(11)
  })

  test('against growing keeps writes inside', () => {
    using fd = createMemfd('grow', { size: 10 })
    addSeals(fd, ['grow'])
    expect(codeOf(() => truncate(fd, 11))).toBe('EPERM')
    expect(codeOf(() => writeAt(fd, Buffer.from('x'), 10))).toBe('EPERM')
    writeAt(fd, Buffer.from('x'), 9)
    expect(fileSize(fd)).toBe(10)
  })

  test('against growing makes a write that crosses the end an error, not a shorter write', () => {
    using fd = createMemfd('crossing', { size: 4096 })
    addSeals(fd, ['grow'])
    expect(codeOf(() => writeAt(fd, new Uint8Array(8192), 0))).toBe('EPERM')
  })

  test('against writing is EBUSY while the file is mapped for writing', () => {
    using fd = createMemfd('busy', { size: 4096 })
    const mapping = Mapping.map(fd, { length: 4096, mode: 'shared' })
    expect(codeOf(() => addSeals(fd, ['write']))).toBe('EBUSY')
    mapping.unmap()
    addSeals(fd, ['write'])
    expect(codeOf(() => writeAt(fd, Buffer.from('x'), 0))).toBe('EPERM')
  })

  test('against sealing is the last', () => {
    using fd = createMemfd('last')
    addSeals(fd, ['seal'])
    expect(codeOf(() => addSeals(fd, ['grow']))).toBe('EPERM')
    expect(getSeals(fd).has('grow')).toBe(false)
  })

  test('is seen through every copy, and together with others', () => {
    using fd = createMemfd('copies')
    using copy = fd.dup()
    addSeals(fd, ['shrink', 'grow', 'futureWrite'])
    expect(getSeals(copy)).toEqual(new Set([...getSeals(fd)]))
    for (const seal of ['shrink', 'grow', 'futureWrite'] as const) expect(getSeals(copy).has(seal)).toBe(true)
    expect(getSeals(copy).has('write')).toBe(false)
  })

  test('is EINVAL on a file that takes none', () => {
    using fd = Fd.adopt(openSync('/dev/null', 'r+'))
    expect(codeOf(() => getSeals(fd))).toBe('EINVAL')
    expect(codeOf(() => addSeals(fd, ['grow']))).toBe('EINVAL')
  })
})

test('no descriptor is left open', () => {
  expect(countOpenFds()).toBe(openAtStart)
})
