import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds } from './fd.js'
import { openLiveupdate } from './liveupdate.js'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-device-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

test('a file that somebody wrote where the device would be is no device, and luod begins without', () => {
  const path = join(folder, 'liveupdate')
  writeFileSync(path, '')
  const before = countOpenFds()
  expect(codeOf(() => openLiveupdate(path))).toBe('ENODEV')
  expect(() => openLiveupdate(path)).toThrow('it is a regular file and no device; remove it')
  expect(countOpenFds()).toBe(before)
  expect(codeOf(() => openLiveupdate(join(folder, 'none')))).toBe('ENOENT')
})
