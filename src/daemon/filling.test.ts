import { afterEach, beforeEach, expect, test } from 'vitest'
import { until } from '../../test/until.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { createMemfd } from '../sys/memfd.js'
import { Filling } from './filling.js'
import { Vault, type VaultEntry } from './vault.js'

let vault: Vault
let fds: Map<string, Fd>
let sent: string[]
let room: boolean
let full: number
let errors: unknown[]
let filling: Filling

const line = {
  put: (entries: readonly VaultEntry[]) => void sent.push(...entries.map(({ key }) => key)),
  tryPut: (entries: readonly VaultEntry[]) => {
    if (room) line.put(entries)
    return room
  },
  remove: (keys: readonly string[]) => void sent.push(...keys.map((key) => `-${key}`)),
}

beforeEach(() => {
  vault = new Vault()
  fds = new Map()
  sent = []
  room = true
  full = 0
  errors = []
})
afterEach(() => {
  filling.close()
  closeAll(fds.values())
  expect(errors).toEqual([])
})

function put(...keys: string[]): void {
  const entries = keys.map((key) => ({ key, fd: createMemfd('filling-test') }))
  for (const { key, fd } of entries) fds.set(key, fd)
  vault.put(entries)
}

function fill(): void {
  const onFull = () => {
    full += 1
  }
  filling = new Filling({ entries: vault.entries(), line, onFull, onError: (error) => errors.push(error) })
  vault.follow(filling)
}

const files = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => `file/${from + index}`)

test('everything is sent once, what nothing goes on without first, and then it is full', async () => {
  put(...files(1, 200), 'listener', 'records')
  fill()
  expect(sent).toEqual([])
  await until(() => full > 0, 'it is full')
  expect(sent).toEqual(['listener', 'records', ...files(1, 200)])
  expect(full).toBe(1)
})

test('what comes and goes meanwhile is sent at once, and what was not sent yet is not sent when it is gone', async () => {
  put(...files(1, 200))
  fill()
  room = false
  put('file/201')
  put('file/7')
  vault.remove(['file/8', 'file/7', 'file/201'])
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(sent).toEqual(['file/201', 'file/7', '-file/7', '-file/201'])
  expect(full).toBe(0)
  room = true
  await until(() => full > 0, 'it is full')
  expect(sent.slice(4)).toEqual(files(1, 200).filter((key) => key !== 'file/7' && key !== 'file/8'))
})

test('what was closed a moment ago is passed over, and what cannot be sent is told', async () => {
  put('file/1', 'file/2')
  fds.get('file/1')?.close()
  fill()
  await until(() => full > 0, 'it is full')
  expect(sent).toEqual(['file/2'])
  filling.close()
  const failed: unknown[] = []
  const broken = () => {
    throw new Error('broken')
  }
  filling = new Filling({
    entries: new Map(fds),
    line: { ...line, tryPut: broken },
    onFull: broken,
    onError: (error) => failed.push(error),
  })
  await until(() => failed.length > 0, 'it fails')
  expect(failed).toMatchObject([{ message: 'broken' }])
})
