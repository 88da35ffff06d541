import { chmodSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { countOpenFds } from './fd.js'
import { hasNoLink, readLink, realPath } from './links.js'

test('a link is seen wherever it is on the way, and nothing stays open', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-links-'))
  try {
    chmodSync(folder, 0o700)
    writeFileSync(join(folder, 'file'), '')
    symlinkSync('file', join(folder, 'link'))
    symlinkSync('nowhere', join(folder, 'broken'))
    symlinkSync('.', join(folder, 'folder'))
    hasNoLink(folder)
    const before = countOpenFds()
    for (const path of ['file', '.', 'none', 'none/file', 'file/file', '../../dev']) {
      expect([path, hasNoLink(`${folder}/${path}`)]).toEqual([path, true])
    }
    for (const path of ['link', 'broken', 'folder', 'folder/file', 'folder/none', 'x'.repeat(300), 'x/'.repeat(5000)]) {
      expect([path, hasNoLink(`${folder}/${path}`)]).toEqual([path, false])
    }
    expect(hasNoLink('/proc/self/cwd')).toBe(false)
    expect(countOpenFds()).toBe(before)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('the real path of what is there; of what depends on who asks, none', () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'luo-links-')))
  try {
    writeFileSync(join(folder, 'file'), '')
    symlinkSync('file', join(folder, 'link'))
    symlinkSync('nowhere', join(folder, 'broken'))
    symlinkSync('loop', join(folder, 'loop'))
    symlinkSync('.', join(folder, 'folder'))
    const before = countOpenFds()
    for (const path of ['file', 'link', 'folder/folder/link']) {
      expect([path, realPath(`${folder}/${path}`)]).toEqual([path, `${folder}/file`])
    }
    expect(realPath(`${folder}/folder`)).toBe(folder)
    for (const path of ['none', 'broken', 'loop', 'file/file', 'x'.repeat(300), 'x/'.repeat(5000)]) {
      expect([path, realPath(`${folder}/${path}`)]).toEqual([path, undefined])
    }
    expect(realPath('/proc/self/root/dev')).toBeUndefined()
    expect(realPath('/proc/self/cwd')).toBeUndefined()
    expect(readLink(`${folder}/broken`)).toBe('nowhere')
    expect(readLink(`${folder}/file`)).toBeUndefined()
    expect(countOpenFds()).toBe(before)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
