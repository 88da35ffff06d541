import { openSync, readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds, Fd } from './fd.js'
import { MAX_BUFFER_BYTES, Mapping, type MappingMode, PAGE_BYTES, scratch } from './mapping.js'
import { addSeals, createMemfd, fileSize, readAt, writeAt } from './memfd.js'
import { socketPair } from './unix.js'

const GIB = 2 ** 30

let openAtStart: number
let fd: Fd
const mappings: Mapping[] = []

function map(length: number, mode: MappingMode, reserve?: number): Mapping {
  const mapping = Mapping.map(fd, { length, mode, reserve })
  mappings.push(mapping)
  return mapping
}

function file(size: number): Fd {
  fd = createMemfd('luo-mapping', { size })
  return fd
}

function byteAt(offset: number): number | undefined {
  const byte = new Uint8Array(1)
  return readAt(fd, byte, offset) === 1 ? byte[0] : undefined
}

/** How many areas of this process are mapped from our file, as the kernel says. */
const areas = (): number => readFileSync('/proc/self/maps', 'utf8').split('/memfd:luo-mapping').length - 1
const addressSpace = (): number =>
  Number(/^VmSize:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024

beforeAll(() => {
  openAtStart = countOpenFds()
})

beforeEach(() => {
  vi.useFakeTimers()
})

afterEach(() => {
  for (const mapping of mappings.splice(0)) mapping.unmap()
  fd.close()
  // What was moved aside is given back later.
  vi.runAllTimers()
  vi.useRealTimers()
  expect(areas()).toBe(0)
})

// The first one: the engine keeps the code of what was called often.
test('its buffer ends also when the engine has forgotten the code of what was not called for long', () => {
  file(PAGE_BYTES)
  const later = map(PAGE_BYTES, 'shared')
  const bytes = new Uint8Array(later.buffer)
  const first = map(PAGE_BYTES, 'shared')
  expect(first.buffer.byteLength).toBe(PAGE_BYTES)
  first.unmap()
  setFlagsFromString('--expose-gc')
  setFlagsFromString('--stress-flush-code')
  const collect = runInNewContext('gc') as () => void
  collect()
  setFlagsFromString('--no-stress-flush-code')
  later.unmap()
  expect(bytes.length).toBe(0)
})

describe('a mapping', () => {
  test('that is shared writes to the file, and sees what others write', () => {
    file(PAGE_BYTES)
    const here = new Uint8Array(map(PAGE_BYTES, 'shared').buffer)
    const there = new Uint8Array(map(PAGE_BYTES, 'shared').buffer)
    here[5] = 1
    writeAt(fd, Uint8Array.of(2), 6)
    expect([there[5], byteAt(5), here[6]]).toEqual([1, 1, 2])
  })

  test('that is private keeps its writes to itself', () => {
    file(PAGE_BYTES)
    const mine = new Uint8Array(map(PAGE_BYTES, 'private').buffer)
    const shared = new Uint8Array(map(PAGE_BYTES, 'shared').buffer)
    mine[5] = 1
    expect([mine[5], shared[5], byteAt(5)]).toEqual([1, 0, 0])
  })

  test('that is for reading works on a descriptor that is only for reading', () => {
    const writer = file(PAGE_BYTES)
    writeAt(writer, Uint8Array.of(9), 0)
    fd = Fd.adopt(openSync(`/proc/self/fd/${writer.number}`, 'r'))
    writer.close()
    expect(new Uint8Array(map(PAGE_BYTES, 'read').buffer)[0]).toBe(9)
    expect(codeOf(() => map(PAGE_BYTES, 'shared'))).toBe('EACCES')
  })

  test('answers the same ArrayBuffer each time, and one for each window', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared')
    expect(mapping.buffer).toBe(mapping.buffer)
    expect(mapping.window(8, 8)).toBe(mapping.window(8, 8))
    expect(mapping.window(8, 8)).not.toBe(mapping.window(8, 9))
    new Uint8Array(mapping.window(8, 8))[0] = 3
    expect(new Uint8Array(mapping.buffer)[8]).toBe(3)
  })

  test('goes on without its descriptor', () => {
    file(PAGE_BYTES)
    using copy = fd.dup()
    const bytes = new Uint8Array(map(PAGE_BYTES, 'shared').buffer)
    fd.close()
    bytes[0] = 4
    const byte = new Uint8Array(1)
    readAt(copy, byte, 0)
    expect(byte[0]).toBe(4)
  })

  test('is where it was after the garbage collector', () => {
    file(64 * PAGE_BYTES)
    const mapping = map(64 * PAGE_BYTES, 'shared')
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    for (let page = 0; page < 64; page += 8) {
      new Uint8Array(mapping.window(page * PAGE_BYTES, 1))[0] = page
      collect()
    }
    const bytes = new Uint8Array(mapping.buffer)
    expect([8, 16, 56].map((page) => bytes[page * PAGE_BYTES])).toEqual([8, 16, 56])
  })

  test.each([0, -1, 1.5, Number.NaN, 2 ** 45 + 1])('of %s bytes is refused', (length) => {
    file(PAGE_BYTES)
    expect(codeOf(() => map(length, 'shared'))).toBe('EINVAL')
    expect(codeOf(() => map(1, 'shared', length))).toBe('EINVAL')
  })

  test('with a reserve below its length is refused', () => {
    file(PAGE_BYTES)
    expect(codeOf(() => map(100, 'shared', 99))).toBe('EINVAL')
  })

  test('that fails leaves no address reserved', () => {
    file(PAGE_BYTES)
    const [a, b] = socketPair()
    const before = addressSpace()
    expect(codeOf(() => Mapping.map(a, { length: 1, mode: 'shared', reserve: 2 ** 40 }))).toBe('ENODEV')
    a.close()
    expect(codeOf(() => Mapping.map(a, { length: 1, mode: 'shared', reserve: 2 ** 40 }))).toBe('EBADF')
    b.close()
    expect(addressSpace() - before).toBeLessThan(2 ** 39)
  })

  test('reserves addresses, and no memory', () => {
    file(1)
    const rss = process.memoryUsage.rss()
    expect(map(1, 'shared', 2 ** 40).reserve).toBe(2 ** 40)
    expect(process.memoryUsage.rss() - rss).toBeLessThan(2 ** 26)
  })
})

describe('a switch', () => {
  test('from private to shared keeps the ArrayBuffer and every view; what was written before is gone', () => {
    file(3 * PAGE_BYTES)
    writeAt(fd, Uint8Array.of(7), 2 * PAGE_BYTES)
    const mapping = map(3 * PAGE_BYTES, 'private')
    const { buffer } = mapping
    const bytes = new Uint8Array(buffer)
    const window = new Uint8Array(mapping.window(PAGE_BYTES, 10))
    bytes.fill(1)
    mapping.makeShared()
    expect(mapping.mode).toBe('shared')
    expect(mapping.buffer).toBe(buffer)
    expect([bytes.length, bytes[0], window[0], bytes[2 * PAGE_BYTES]]).toEqual([3 * PAGE_BYTES, 0, 0, 7])
    window[0] = 5
    expect([bytes[PAGE_BYTES], byteAt(PAGE_BYTES)]).toEqual([5, 5])
  })

  test('from shared to private keeps what the file has, and later writes stay out of it', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared')
    const { buffer } = mapping
    const bytes = new Uint8Array(buffer)
    bytes[0] = 1
    mapping.makePrivate()
    expect(mapping.mode).toBe('private')
    expect(mapping.buffer).toBe(buffer)
    expect(bytes[0]).toBe(1)
    bytes[0] = 2
    expect(byteAt(0)).toBe(1)
    mapping.makeShared()
    expect(bytes[0]).toBe(1)
  })

  test('to what it is already keeps private writes', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'private')
    const bytes = new Uint8Array(mapping.buffer)
    bytes[0] = 1
    mapping.makePrivate()
    expect(bytes[0]).toBe(1)
  })

  test('can be made a hundred times, of a file that ends inside a page', () => {
    file(2 * PAGE_BYTES + 5)
    const mapping = map(2 * PAGE_BYTES + 5, 'shared')
    const bytes = new Uint8Array(mapping.buffer)
    for (let round = 0; round < 50; round++) {
      bytes.fill(round)
      mapping.makePrivate()
      bytes.fill(200)
      mapping.makeShared()
      expect(bytes.every((byte) => byte === round)).toBe(true)
    }
    expect(byteAt(2 * PAGE_BYTES + 4)).toBe(49)
  })

  test('sees what was written to the file meanwhile', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'private')
    const bytes = new Uint8Array(mapping.buffer)
    bytes[0] = 1
    writeAt(fd, Uint8Array.of(8), 0)
    expect(bytes[0]).toBe(1)
    mapping.makeShared()
    expect(bytes[0]).toBe(8)
  })

  test('leaves the reserve where it is, and growing goes on', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'private', 10 * PAGE_BYTES)
    mapping.makeShared()
    mapping.grow(9 * PAGE_BYTES)
    new Uint8Array(mapping.buffer)[8 * PAGE_BYTES] = 6
    expect(byteAt(8 * PAGE_BYTES)).toBe(6)
  })

  test('gives the pages that it moved aside back after a second', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared')
    const before = areas()
    mapping.makePrivate()
    mapping.makeShared()
    vi.advanceTimersByTime(1_001)
    expect(areas()).toBe(before)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('that the kernel refuses changes nothing: private writes are still there', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'private')
    const bytes = new Uint8Array(mapping.buffer)
    bytes[0] = 1
    addSeals(fd, ['write'])
    const before = areas()
    expect(codeOf(() => mapping.makeShared())).toBe('EPERM')
    expect([mapping.mode, bytes[0], areas()]).toEqual(['private', 1, before])
  })

  test('after the descriptor was closed is EBADF, and changes nothing', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'private')
    const bytes = new Uint8Array(mapping.buffer)
    bytes[0] = 1
    fd.close()
    expect(codeOf(() => mapping.makeShared())).toBe('EBADF')
    expect([mapping.mode, bytes[0]]).toEqual(['private', 1])
  })
})

describe('above 4 GiB', () => {
  test('there is no ArrayBuffer of the whole, and windows reach every byte', () => {
    file(6 * GIB)
    const mapping = map(6 * GIB, 'shared')
    expect(codeOf(() => mapping.buffer)).toBe('LUO_UNSUPPORTED')
    new Uint8Array(mapping.window(5 * GIB, 2))[1] = 42
    new Uint8Array(mapping.window(6 * GIB - 1, 1))[0] = 43
    expect([byteAt(5 * GIB + 1), byteAt(GIB + 1), byteAt(6 * GIB - 1)]).toEqual([42, 0, 43])
  })

  test('the longest window and the longest buffer do not end the process', () => {
    file(6 * GIB)
    const window = map(6 * GIB, 'shared').window(GIB, MAX_BUFFER_BYTES)
    expect(window.byteLength).toBe(MAX_BUFFER_BYTES)
    new Uint8Array(window)[MAX_BUFFER_BYTES - 1] = 1
    expect(byteAt(GIB + MAX_BUFFER_BYTES - 1)).toBe(1)
    expect(map(MAX_BUFFER_BYTES, 'shared').buffer.byteLength).toBe(MAX_BUFFER_BYTES)
  })

  test('one byte more than that is refused', () => {
    file(6 * GIB)
    expect(codeOf(() => map(6 * GIB, 'shared').window(0, MAX_BUFFER_BYTES + 1))).toBe('EINVAL')
    expect(codeOf(() => map(MAX_BUFFER_BYTES + 1, 'shared').buffer)).toBe('LUO_UNSUPPORTED')
  })

  test('a switch keeps windows, and takes private writes away', () => {
    file(5 * GIB)
    const mapping = map(5 * GIB, 'private')
    const window = mapping.window(4 * GIB, PAGE_BYTES)
    const bytes = new Uint8Array(window)
    bytes[0] = 1
    mapping.makeShared()
    expect(mapping.window(4 * GIB, PAGE_BYTES)).toBe(window)
    expect(bytes[0]).toBe(0)
    bytes[0] = 2
    expect(byteAt(4 * GIB)).toBe(2)
  })

  test('a mapping can grow to there, and has windows from then on', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared', 5 * GIB)
    const small = mapping.buffer
    mapping.grow(5 * GIB)
    expect(small.byteLength).toBe(0)
    expect(codeOf(() => mapping.buffer)).toBe('LUO_UNSUPPORTED')
    new Uint8Array(mapping.window(5 * GIB - 1, 1))[0] = 9
    expect(byteAt(5 * GIB - 1)).toBe(9)
  })
})

describe('a window', () => {
  test.each([
    [-1, 1],
    [PAGE_BYTES, 1],
    [0, 0],
    [0, PAGE_BYTES + 1],
    [PAGE_BYTES - 1, 2],
    [0.5, 1],
    [0, Number.NaN],
  ])('at %s of %s bytes is refused, in a mapping of a page', (offset, length) => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared', 10 * PAGE_BYTES)
    expect(codeOf(() => mapping.window(offset, length))).toBe('EINVAL')
  })
})

describe('growing', () => {
  test('makes file and mapping longer; what was there is there, and the rest is zero', () => {
    file(5_000)
    const mapping = map(5_000, 'shared', 20_000)
    const old = new Uint8Array(mapping.buffer)
    old[0] = 1
    old[4_999] = 2
    mapping.grow(12_000)
    const bytes = new Uint8Array(mapping.buffer)
    expect([mapping.length, bytes.length, fileSize(fd)]).toEqual([12_000, 12_000, 12_000])
    expect([bytes[0], bytes[4_999], bytes[5_000], bytes[11_999]]).toEqual([1, 2, 0, 0])
    bytes[11_999] = 3
    expect(byteAt(11_999)).toBe(3)
  })

  test('detaches the ArrayBuffers handed out before', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared', 2 * PAGE_BYTES)
    const whole = new Uint8Array(mapping.buffer)
    const part = new DataView(mapping.window(0, 8))
    mapping.grow(2 * PAGE_BYTES)
    expect(whole.length).toBe(0)
    expect(whole.buffer.byteLength).toBe(0)
    expect(() => part.getUint8(0)).toThrow(TypeError)
  })

  test('while it is private keeps what was written, in a page that was full and in one that was not', () => {
    file(5_000)
    const mapping = map(5_000, 'private', 20_000)
    const old = new Uint8Array(mapping.buffer)
    old[0] = 1
    old[4_999] = 2
    mapping.grow(12_000)
    const bytes = new Uint8Array(mapping.buffer)
    bytes[11_999] = 3
    expect([bytes[0], bytes[4_999], bytes[11_999]]).toEqual([1, 2, 3])
    expect([byteAt(0), byteAt(4_999), byteAt(11_999)]).toEqual([0, 0, 0])
    mapping.makeShared()
    expect([bytes[0], bytes[4_999], bytes[11_999]]).toEqual([0, 0, 0])
  })

  test('leaves a file alone that somebody else has made longer still', () => {
    file(100)
    const mapping = map(100, 'shared', 4 * PAGE_BYTES)
    const other = map(100, 'shared', 4 * PAGE_BYTES)
    other.grow(3 * PAGE_BYTES)
    const bytes = new Uint8Array(other.buffer)
    bytes[3 * PAGE_BYTES - 1] = 5
    mapping.grow(2 * PAGE_BYTES)
    expect([mapping.length, fileSize(fd)]).toEqual([2 * PAGE_BYTES, 3 * PAGE_BYTES])
    expect(byteAt(3 * PAGE_BYTES - 1)).toBe(5)
  })

  test('inside the last page, to the same length, and from page to page', () => {
    file(10)
    const mapping = map(10, 'shared', 3 * PAGE_BYTES)
    for (const length of [10, 11, PAGE_BYTES, PAGE_BYTES + 1, 2 * PAGE_BYTES, 3 * PAGE_BYTES]) {
      mapping.grow(length)
      new Uint8Array(mapping.buffer)[length - 1] = 1
      expect([fileSize(fd), byteAt(length - 1)]).toEqual([length, 1])
    }
  })

  test('beyond the reserve, and shrinking, are refused', () => {
    file(100)
    const mapping = map(100, 'shared', 200)
    const { buffer } = mapping
    // The reserve is whole pages.
    expect(mapping.reserve).toBe(PAGE_BYTES)
    for (const length of [PAGE_BYTES + 1, 99, Number.NaN, 150.5]) {
      expect(codeOf(() => mapping.grow(length))).toBe('EINVAL')
    }
    expect([mapping.length, fileSize(fd), buffer.byteLength]).toEqual([100, 100, 100])
  })

  test('a file that may not grow leaves everything as it was', () => {
    file(100)
    addSeals(fd, ['grow'])
    const mapping = map(100, 'shared', 2 * PAGE_BYTES)
    const { buffer } = mapping
    expect(codeOf(() => mapping.grow(2 * PAGE_BYTES))).toBe('EPERM')
    expect([mapping.length, mapping.buffer === buffer, buffer.byteLength]).toEqual([100, true, 100])
  })

  test('a mapping for reading is EACCES', () => {
    file(100)
    expect(codeOf(() => map(100, 'read', 200).grow(200))).toBe('EACCES')
  })
})

describe('after unmap', () => {
  test('the memory is gone, and every ArrayBuffer is detached', () => {
    file(2 * PAGE_BYTES)
    const mapping = map(2 * PAGE_BYTES, 'shared')
    const whole = new Uint8Array(mapping.buffer)
    const part = new DataView(mapping.window(PAGE_BYTES, 8))
    mapping.unmap()
    expect(mapping.unmapped).toBe(true)
    expect(areas()).toBe(0)
    expect([whole.length, whole[0], whole.buffer.byteLength, part.buffer.byteLength]).toEqual([0, undefined, 0, 0])
    expect(() => part.setUint8(0, 1)).toThrow(TypeError)
  })

  test('the mapping is EFAULT, whatever is asked of it', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'private')
    mapping.unmap()
    expect(codeOf(() => mapping.buffer)).toBe('EFAULT')
    expect(codeOf(() => mapping.window(0, 1))).toBe('EFAULT')
    expect(codeOf(() => mapping.makeShared())).toBe('EFAULT')
    expect(codeOf(() => mapping.makePrivate())).toBe('EFAULT')
    expect(codeOf(() => mapping.grow(PAGE_BYTES))).toBe('EFAULT')
  })

  test('doing it again does not take the addresses from a mapping made since', () => {
    file(PAGE_BYTES)
    const first = map(PAGE_BYTES, 'shared')
    first.unmap()
    const second = map(PAGE_BYTES, 'shared')
    first.unmap()
    new Uint8Array(second.buffer)[0] = 1
    expect(byteAt(0)).toBe(1)
  })

  test('at the end of a block it is done', () => {
    file(PAGE_BYTES)
    let bytes: Uint8Array
    {
      using mapping = Mapping.map(fd, { length: PAGE_BYTES, mode: 'shared' })
      bytes = new Uint8Array(mapping.buffer)
      expect(bytes.length).toBe(PAGE_BYTES)
    }
    expect(bytes.length).toBe(0)
  })

  test('code cannot call functions inside the engine that it could not call before', () => {
    file(PAGE_BYTES)
    const mapping = map(PAGE_BYTES, 'shared')
    expect(mapping.buffer.byteLength).toBe(PAGE_BYTES)
    mapping.unmap()
    expect(() => new Function('buffer', '%ArrayBufferDetach(buffer)')).toThrow(SyntaxError)
  })
})

test('addresses that were reserved keep their buffer when the file comes, and through every switch', () => {
  const fd = createMemfd('reserved', { size: 3 * PAGE_BYTES })
  writeAt(fd, Uint8Array.of(7), PAGE_BYTES)
  const mapping = Mapping.reserve({ length: 3 * PAGE_BYTES })
  const { buffer } = mapping
  const bytes = new Uint8Array(buffer)
  expect(bytes[PAGE_BYTES]).toBe(0)
  expect(codeOf(() => mapping.makeShared())).toBe('LUO_WRONG_STATE')
  mapping.attach(fd, 'private')
  expect(mapping.buffer).toBe(buffer)
  expect(bytes[PAGE_BYTES]).toBe(7)
  bytes[0] = 1
  mapping.makeShared()
  expect([bytes[0], bytes[PAGE_BYTES]]).toEqual([0, 7])
  mapping.unmap()
  expect(bytes.length).toBe(0)
  fd.close()
})

test('pages moved aside by a switch are given back, all of them, while the mapping goes on', async () => {
  const length = 40 * 2 ** 20 + PAGE_BYTES
  fd = createMemfd('aside', { size: length })
  const mapping = Mapping.map(fd, { length, mode: 'shared' })
  const bytes = new Uint8Array(mapping.buffer)
  for (let at = 0; at < length; at += PAGE_BYTES) bytes[at] = 1
  const mapped = () => readFileSync('/proc/self/maps', 'utf8').match(/memfd:aside/g)?.length
  mapping.makePrivate()
  mapping.makeShared()
  expect(mapped()).toBe(3)
  await vi.waitFor(() => expect(mapped()).toBe(1), { timeout: 10_000 })
  expect(bytes.every((byte, at) => byte === (at % PAGE_BYTES === 0 ? 1 : 0))).toBe(true)
  mapping.unmap()
  expect(mapped()).toBe(undefined)
  fd.close()
})

test('scratch memory is whole pages, all zero, and is refused in no size', () => {
  file(1)
  const { address, buffer } = scratch(5_000)
  expect([address % PAGE_BYTES, buffer.byteLength]).toEqual([0, 2 * PAGE_BYTES])
  expect(new Uint8Array(buffer).every((byte) => byte === 0)).toBe(true)
  for (const bytes of [0, -1, 1.5, Number.NaN]) expect(codeOf(() => scratch(bytes))).toBe('EINVAL')
})

test('no descriptor is left open', () => {
  expect(countOpenFds()).toBe(openAtStart)
})
