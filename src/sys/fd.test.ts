import { spawnSync } from 'node:child_process'
import { closeSync, fstatSync, mkdtempSync, openSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, Fd, inheritedFd } from './fd.js'
import { errno, integer, libc } from './ffi.js'
import { nofileLimit, raiseNofile } from './limits.js'
import { lockFile } from './lock.js'
import { createMemfd } from './memfd.js'

let before: number
beforeEach(() => {
  createMemfd('warm').close()
  before = countOpenFds()
})
afterEach(() => expect(countOpenFds()).toBe(before))

test('a file is closed once, and using it afterwards is an error', () => {
  const fd = createMemfd('once')
  const { number } = fd
  fd.close()
  // Somebody else gets the number now; closing again must not take it from them.
  const other = openSync('/dev/null', 'r')
  expect(other).toBe(number)
  fd.close()
  expect(() => fstatSync(other)).not.toThrow()
  closeSync(other)
  expect(fd.closed).toBe(true)
  expect(codeOf(() => fd.number)).toBe('EBADF')
  expect(codeOf(() => fd.dup())).toBe('EBADF')
})

test('a block with `using` closes its file, also when it throws', () => {
  let fd: Fd | undefined
  expect(() => {
    using inner = createMemfd('using')
    fd = inner
    throw new Error('on purpose')
  }).toThrow('on purpose')
  expect(fd?.closed).toBe(true)
})

test('a duplicate is the same file, lives on its own, and is not inherited', () => {
  const fd = createMemfd('dup')
  const copy = fd.dup()
  const link = readlinkSync(`/proc/self/fd/${fd.number}`)
  fd.close()
  expect(readlinkSync(`/proc/self/fd/${copy.number}`)).toBe(link)
  const { stdout } = spawnSync('sh', ['-c', `ls -l /proc/self/fd | grep -c memfd:dup`], { encoding: 'utf8' })
  expect(stdout.trim()).toBe('0')
  copy.close()
})

test('a released number is the new owner’s', () => {
  const fd = createMemfd('given')
  const number = fd.release()
  expect(fd.closed).toBe(true)
  fd.close()
  closeSync(number)
})

test.each([-1, 1.5, Number.NaN, 2 ** 31, 1e10])('%s is no descriptor', (number) => {
  expect(codeOf(() => Fd.adopt(number))).toBe('EINVAL')
})

test('a descriptor that was not inherited is EBADF, and stdio is never taken', () => {
  expect(codeOf(() => inheritedFd(19_999))).toBe('EBADF')
  expect(codeOf(() => inheritedFd(1))).toBe('EINVAL')
})

test('numbers that the FFI would bend into ints are refused', () => {
  for (const value of [Number.NaN, 1.5, 1e10, Number.POSITIVE_INFINITY]) {
    expect(codeOf(() => integer(value, 0, 100, 'a number'))).toBe('EINVAL')
  }
})

test('errno is that of the last call', () => {
  expect(libc('close', 19_998)).toBe(-1)
  expect(errno()).toBe('EBADF')
})

test('without a free descriptor it is EMFILE, and nothing is lost', () => {
  const { soft } = nofileLimit()
  const held: Fd[] = []
  raiseNofile(countOpenFds() + 20)
  try {
    const error = codeOf(() => {
      for (;;) held.push(createMemfd('many'))
    })
    expect(error).toBe('EMFILE')
  } finally {
    closeAll(held)
    raiseNofile(soft)
  }
  expect(nofileLimit().soft).toBe(soft)
})

test('a lock is held by one, and ends with it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-lock-'))
  const path = join(folder, 'lock')
  const first = lockFile(path)
  expect(codeOf(() => lockFile(path))).toBe('EBUSY')
  first.close()
  lockFile(path).close()
  rmSync(folder, { recursive: true })
})
