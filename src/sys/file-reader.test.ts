import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds } from './fd.js'
import { FileReader } from './file-reader.js'

const folder = mkdtempSync(join(tmpdir(), 'luo-reader-'))
const path = join(folder, 'file')
writeFileSync(path, 'abcdef')
afterAll(() => rmSync(folder, { recursive: true }))

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString()

test('a file is read at any offset, up to its end', () => {
  using reader = FileReader.open(path)
  expect(reader.size).toBe(6)
  expect([reader.read(0, 6), reader.read(2, 2), reader.read(4, 9), reader.read(6, 1)].map(text)).toEqual([
    'abcdef',
    'cd',
    'ef',
    '',
  ])
})

test('a file that does not say its size is read to its end', () => {
  using reader = FileReader.open('/proc/self/status')
  expect(reader.size).toBe(0)
  const lines = text(reader.read(0, 1_000_000)).split('\n')
  expect([lines[0]?.startsWith('Name:'), lines.length > 10, lines.at(-1)]).toEqual([true, true, ''])
})

test('what cannot be opened, or is no regular file, is an error and leaves no descriptor', () => {
  const fifo = join(folder, 'fifo')
  execFileSync('mkfifo', [fifo])
  const before = countOpenFds()
  expect(codeOf(() => FileReader.open(join(folder, 'missing')))).toBe('ENOENT')
  for (const other of [folder, fifo, '/dev/zero'])
    expect(
      codeOf(() => FileReader.open(other)),
      other,
    ).toBe('EINVAL')
  expect(countOpenFds()).toBe(before)
})

test('a closed file is EBADF, whoever has its number now', () => {
  const before = countOpenFds()
  const reader = FileReader.open(path)
  reader.close()
  reader.close()
  expect(codeOf(() => reader.read(0, 1))).toBe('EBADF')
  expect(countOpenFds()).toBe(before)
})
