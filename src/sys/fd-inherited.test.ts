import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readlinkSync } from 'node:fs'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, Fd, inheritedFd } from './fd.js'
import { checked } from './ffi.js'
import { sameOpenFile } from './file-info.js'
import { createMemfd } from './memfd.js'
import { inheritStdio } from './node.js'

const F_DUPFD = 0
const O_CLOEXEC = 0o2000000

let openAtStart: number

/** A number as a parent would leave it to this process: open, and kept over an exec. */
function leftByParent(file: Fd): number {
  return checked('leave a file', 'fcntl', file.number, F_DUPFD, 100)
}

const closeOnExec = (number: number): boolean => {
  const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${number}`, 'utf8'))?.[1] ?? '0'
  return (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0
}
const childSees = (number: number): boolean => spawnSync('readlink', [`/proc/self/fd/${number}`]).status === 0

beforeAll(async () => {
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  openAtStart = countOpenFds()
})

describe('a descriptor that this process was started with', () => {
  test('is kept from the children of this process', () => {
    using file = createMemfd('ticket')
    const number = leftByParent(file)
    expect([closeOnExec(number), childSees(number)]).toEqual([false, true])
    using inherited = inheritedFd(number)
    expect(inherited.number).toBe(number)
    expect([closeOnExec(number), childSees(number)]).toEqual([true, false])
    expect(sameOpenFile(inherited, file)).toBe(true)
  })

  test('is owned from then on', () => {
    using file = createMemfd('ticket')
    const number = leftByParent(file)
    inheritedFd(number).close()
    expect(codeOf(() => inheritedFd(number))).toBe('EBADF')
  })

  test.each([0, 1, 2, -1, 3.5, Number.NaN, 2 ** 31])('is not %s', (number) => {
    expect(codeOf(() => inheritedFd(number))).toBe('EINVAL')
  })
})

describe('a descriptor that a child is to have', () => {
  test('reaches it under the number that its place in stdio says, and no other does', () => {
    using file = createMemfd('given')
    using other = createMemfd('not given')
    const script = 'for n in /proc/self/fd/*; do readlink $n; done; readlink /proc/self/fd/3'
    const { stdout } = spawnSync('sh', ['-c', script], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore', inheritStdio(file)],
    })
    expect(stdout.trim().split('\n').at(-1)).toBe('/memfd:given (deleted)')
    expect(stdout).not.toContain('not given')
    // Its own number goes on to be closed at an exec.
    expect([closeOnExec(file.number), closeOnExec(other.number)]).toEqual([true, true])
  })
})

describe('counting', () => {
  test('sees every descriptor, and not its own', () => {
    const before = countOpenFds()
    expect(countOpenFds()).toBe(before)
    const files = Array.from({ length: 5 }, (_, index) => createMemfd(`counted ${index}`))
    expect(countOpenFds()).toBe(before + 5)
    closeAll(files)
    closeAll(files)
    expect(countOpenFds()).toBe(before)
  })
})

describe('ownership', () => {
  test('ends at the end of each block, in the opposite order', () => {
    const links: string[] = []
    const numbers: number[] = []
    {
      using first = createMemfd('first')
      using second = first.dup()
      numbers.push(first.number, second.number)
      links.push(...numbers.map((number) => readlinkSync(`/proc/self/fd/${number}`)))
    }
    expect(links).toEqual(['/memfd:first (deleted)', '/memfd:first (deleted)'])
    expect(countOpenFds()).toBe(openAtStart)
  })

  test('given away at the middle of a block stays given away at its end', () => {
    let number: number
    {
      using fd = createMemfd('given')
      number = fd.release()
      expect(codeOf(() => fd.release())).toBe('EBADF')
    }
    using again = Fd.adopt(number)
    expect(readlinkSync(`/proc/self/fd/${again.number}`)).toBe('/memfd:given (deleted)')
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
