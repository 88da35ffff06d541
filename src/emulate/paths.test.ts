import { chmodSync, mkdtempSync, openSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { Fd } from '../sys/fd.js'
import { leadsToDevice } from './paths.js'

const AT_FDCWD = -100
const folder = mkdtempSync(join(tmpdir(), 'luo-paths-'))
chmodSync(folder, 0o700)
symlinkSync('/dev/liveupdate', join(folder, 'direct'))
symlinkSync('direct', join(folder, 'twice'))
symlinkSync('/dev', join(folder, 'folder'))
symlinkSync('/dev/liveupdate', join(folder, 'é'))
symlinkSync('loop', join(folder, 'loop'))
symlinkSync('/proc/self/root/dev/liveupdate', join(folder, 'root'))
afterAll(() => rmSync(folder, { recursive: true }))

const leads = (path: string, at = AT_FDCWD) => leadsToDevice(process.pid, at, path)

test.each([
  '/dev/liveupdate',
  '//dev/./liveupdate',
  '/dev/../dev/liveupdate',
  '/../dev/liveupdate',
  '/proc/self/root/dev/liveupdate',
  join(folder, 'direct'),
  join(folder, 'twice'),
  join(folder, 'folder/liveupdate'),
  join(folder, 'root'),
  Buffer.from(join(folder, 'é')).toString('latin1'),
])('%s is the device', (path) => {
  expect(leads(path)).toBe(true)
})

test.each([
  '',
  '/',
  '/dev',
  '/dev/null',
  '/dev/liveupdate2',
  'liveupdate',
  join(folder, 'loop'),
  join(folder, 'none'),
  '/dev/null/x',
])('"%s" is not', (path) => {
  expect(leads(path)).toBe(false)
})

test.each(['/dev/liveupdate/', '/dev/liveupdate/x', '/dev/liveupdate/../null'])('%s is ENOTDIR', (path) => {
  expect(codeOf(() => leads(path))).toBe('ENOTDIR')
})

test('without following, the last name may be no link', () => {
  const direct = (path: string) => leadsToDevice(process.pid, AT_FDCWD, path, { follow: false })
  expect(direct(join(folder, 'direct'))).toBe(false)
  expect(direct(join(folder, 'folder/liveupdate'))).toBe(true)
  expect(direct('/dev/liveupdate')).toBe(true)
})

test('a relative path starts at its directory', () => {
  using directory = Fd.adopt(openSync('/dev', 'r'))
  expect(leads('liveupdate', directory.number)).toBe(true)
  expect(leads('../dev/liveupdate', directory.number)).toBe(true)
  expect(leads('liveupdate', 999_999)).toBe(false)
})
