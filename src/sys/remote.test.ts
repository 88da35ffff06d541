/** This process stands for the other one: the kernel makes no difference. */
import { spawn } from 'node:child_process'
import { openSync } from 'node:fs'
import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds, Fd } from './fd.js'
import { fileInfo } from './file-info.js'
import { scratch } from './mapping.js'
import { createMemfd } from './memfd.js'
import { fdOfThread, isPathOnly, readRemote, readRemoteString, socketInode, writeRemote } from './remote.js'
import { socketPair } from './unix.js'

const PAGE = 4096
const area = scratch(PAGE)
const bytes = new Uint8Array(area.buffer)
const start = BigInt(area.address)

test('memory is read and written whole, or it is EFAULT', () => {
  writeRemote(process.pid, start + 8n, Uint8Array.of(1, 2, 3))
  expect([...bytes.subarray(7, 12)]).toEqual([0, 1, 2, 3, 0])
  expect([...readRemote(process.pid, start + 9n, 2)]).toEqual([2, 3])
  expect(readRemote(process.pid, start, 0)).toHaveLength(0)
  for (const address of [0n, 8n, -1n, 2n ** 47n, 2n ** 60n, 2n ** 64n - 1n]) {
    expect(codeOf(() => readRemote(process.pid, address, 4))).toBe('EFAULT')
    expect(codeOf(() => writeRemote(process.pid, address, bytes.subarray(0, 4)))).toBe('EFAULT')
  }
})

test('a string ends at its NUL, wherever the page ends', () => {
  bytes.fill(0)
  bytes.set(Buffer.from('name'), PAGE - 5)
  expect(readRemoteString(process.pid, start + BigInt(PAGE - 5), 4096).toString()).toBe('name')
  expect(readRemoteString(process.pid, start, 16).toString()).toBe('')
  bytes.fill(0x61)
  expect(codeOf(() => readRemoteString(process.pid, start, 100))).toBe('ENAMETOOLONG')
  expect(codeOf(() => readRemoteString(process.pid, 8n, 100))).toBe('EFAULT')
})

test('a descriptor is the same open file; one that is not there is EBADF, and nothing stays open', () => {
  using file = createMemfd('remote')
  const before = countOpenFds()
  {
    using copy = fdOfThread(process.pid, file.number)
    expect(fileInfo(copy).ino).toBe(fileInfo(file).ino)
  }
  for (const number of [-1, 900_000, 2 ** 31 - 1]) {
    expect(codeOf(() => fdOfThread(process.pid, number))).toBe('EBADF')
  }
  expect(countOpenFds()).toBe(before)
})

test('of a process that has ended it is ESRCH', async () => {
  const child = spawn('true')
  await new Promise((resolve) => child.once('exit', resolve))
  const pid = child.pid ?? 0
  expect(codeOf(() => readRemote(pid, start, 4))).toBe('ESRCH')
  expect(codeOf(() => fdOfThread(pid, 0))).toBe('ESRCH')
  expect(socketInode(pid, 0)).toBeUndefined()
})

test('a socket has an inode, other files have none here', () => {
  const [one, other] = socketPair()
  using file = createMemfd('remote')
  expect(socketInode(process.pid, one.number)).toBe(BigInt(fileInfo(one).ino))
  expect(socketInode(process.pid, file.number)).toBeUndefined()
  expect(socketInode(process.pid, 900_000)).toBeUndefined()
  one.close()
  other.close()
})

test('a place is told from a file', () => {
  const O_PATH = 0o10000000
  using place = Fd.adopt(openSync('/', O_PATH))
  using file = Fd.adopt(openSync('/', 'r'))
  expect([isPathOnly(place), isPathOnly(file)]).toEqual([true, false])
})
