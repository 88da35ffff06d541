import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { countOpenFds } from '../sys/fd.js'
import { Poller } from '../sys/poller.js'
import { rehearse } from './rehearsal.js'

let directory: string
let path: string
let before: number

beforeEach(() => {
  Poller.shared()
  directory = mkdtempSync(join(tmpdir(), 'luo-rehearsal-'))
  path = join(directory, 'rehearsal')
  before = countOpenFds()
})

afterEach(() => {
  expect(countOpenFds()).toBe(before)
  rmSync(directory, { recursive: true })
})

test('it ends by itself, and leaves nothing', async () => {
  let rounds = 0
  await rehearse(path, () => {
    rounds += 1
    return false
  })
  expect(rounds).toBeGreaterThan(1)
  expect(readdirSync(directory)).toEqual([])
})

test('it ends when this process has something to do', async () => {
  let rounds = 0
  await rehearse(path, () => ++rounds === 3)
  expect(rounds).toBe(3)
  expect(readdirSync(directory)).toEqual([])
})

test('nothing of what is there is touched, and that it cannot be done is no failure', async () => {
  writeFileSync(path, 'a file')
  await rehearse(path, () => false)
  expect(readdirSync(directory)).toEqual(['rehearsal'])
})
