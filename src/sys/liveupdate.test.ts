import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds } from './fd.js'
import { openLiveupdate } from './liveupdate.js'

test('a plain file in the place of the device is no device, as if there were none', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-device-'))
  const path = join(folder, 'liveupdate')
  try {
    expect(codeOf(() => openLiveupdate(path))).toBe('ENOENT')
    writeFileSync(path, '')
    const before = countOpenFds()
    expect(codeOf(() => openLiveupdate(path))).toBe('ENODEV')
    expect(countOpenFds()).toBe(before)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
