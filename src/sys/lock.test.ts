import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds } from './fd.js'
import { lockFile } from './lock.js'
import { inheritStdio } from './node.js'

let folder: string
let openAtStart: number

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'luo-lock-'))
  // The first child makes the descriptors that the runtime keeps for all of them.
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  openAtStart = countOpenFds()
})

afterAll(() => rmSync(folder, { recursive: true }))

describe('a lock', () => {
  test('makes the file for its owner only, and leaves it there', () => {
    const path = join(folder, 'made')
    lockFile(path).close()
    expect(existsSync(path)).toBe(true)
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })

  test('follows no link, waits for no FIFO, and takes nothing that another user has put there', () => {
    const [link, fifo, foreign] = ['link', 'fifo', 'foreign'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ]
    symlinkSync(join(folder, 'elsewhere'), link)
    spawnSync('mkfifo', [fifo])
    writeFileSync(foreign, '')
    expect(codeOf(() => lockFile(link))).toBe('ELOOP')
    expect(existsSync(join(folder, 'elsewhere'))).toBe(false)
    expect(codeOf(() => lockFile(fifo))).toBe('EPERM')
    const { uid } = statSync(foreign)
    // Root's is as good as one's own.
    if (uid !== 0) expect(codeOf(() => lockFile(foreign, uid + 1))).toBe('EPERM')
    else {
      chownSync(foreign, 65_534, 65_534)
      expect(codeOf(() => lockFile(foreign))).toBe('EPERM')
    }
  })

  test('leaves what the file holds', () => {
    const path = join(folder, 'content')
    writeFileSync(path, 'kept')
    lockFile(path).close()
    expect(readFileSync(path, 'utf8')).toBe('kept')
  })

  test('is EBUSY for everybody else, and says which file', () => {
    const path = join(folder, 'busy')
    using lock = lockFile(path)
    expect(lock.closed).toBe(false)
    const before = countOpenFds()
    expect(codeOf(() => lockFile(path))).toBe('EBUSY')
    expect(() => lockFile(path)).toThrow(`lock ${path}: another process has it`)
    expect(countOpenFds()).toBe(before)
  })

  test('can be taken again after it was let go', () => {
    const path = join(folder, 'again')
    lockFile(path).close()
    lockFile(path).close()
  })

  test('is not inherited by a child', () => {
    const path = join(folder, 'exec')
    const lock = lockFile(path)
    expect(spawnSync('readlink', [`/proc/self/fd/${lock.number}`]).status).not.toBe(0)
    lock.close()
  })

  test('ends with its holder, however it ends', async () => {
    const path = join(folder, 'killed')
    const lock = lockFile(path)
    const holder: ChildProcess = spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore', inheritStdio(lock)] })
    lock.close()
    expect(codeOf(() => lockFile(path))).toBe('EBUSY')
    holder.kill('SIGKILL')
    await once(holder, 'exit')
    lockFile(path).close()
  })

  test('in a folder that is not there is ENOENT', () => {
    expect(() => lockFile(join(folder, 'none', 'lock'))).toThrow('ENOENT')
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
