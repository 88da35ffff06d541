import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import type { Change } from '../abi/records.js'
import { isLuoError, LuoError } from '../errors.js'
import { Answers } from './answers.js'
import { LIMITS } from './limits.js'

test('the same request again gets the same answer, and is done once', async () => {
  const answers = new Answers()
  let count = 0
  const ask = () => answers.once(1, 'Do', { id: 'a' }, () => ++count)
  expect(await Promise.all([ask(), ask()])).toEqual([1, 1])
  expect(await ask()).toBe(1)
})

test('users do not share ids, and methods do', async () => {
  const answers = new Answers()
  expect(await answers.once(1, 'Do', { id: 'a' }, () => 'one')).toBe('one')
  expect(await answers.once(2, 'Do', { id: 'a' }, () => 'two')).toBe('two')
  expect(() => answers.once(1, 'Undo', { id: 'a' }, () => 'three')).toThrow(/used for another request/)
})

test('the same id with another content is refused', async () => {
  const answers = new Answers()
  await answers.once(1, 'Do', { id: 'a', value: 1 } as { id: string }, () => 1)
  const again = () => answers.once(1, 'Do', { id: 'a', value: 2 } as { id: string }, () => 2)
  expect(again).toThrow(LuoError)
})

test('a request that failed can be tried again', async () => {
  const answers = new Answers()
  const failed = answers.once(1, 'Do', { id: 'a' }, () => {
    throw new LuoError('EBUSY', 'not now')
  })
  expect(isLuoError(await failed.catch((error: unknown) => error), 'EBUSY')).toBe(true)
  expect(await answers.once(1, 'Do', { id: 'a' }, () => 'now')).toBe('now')
})

test('the oldest answers are forgotten first', async () => {
  const answers = new Answers()
  let count = 0
  const ask = (id: string) => answers.once(1, 'Do', { id }, () => ++count)
  await ask('first')
  for (let n = 1; n < LIMITS.answers; n++) await ask(`n${n}`)
  expect(await ask('first')).toBe(1)
  await ask('one too many')
  expect(await ask('first')).toBe(LIMITS.answers + 2)
})

test('the oldest are forgotten when all together take too much, and the last one never is', async () => {
  const answers = new Answers()
  let count = 0
  const ask = (id: string, bytes: number) => answers.once(1, 'Do', { id }, () => ({ n: ++count, x: 'x'.repeat(bytes) }))
  const quarter = LIMITS.answers_bytes / 4
  for (const id of ['a', 'b', 'c']) await ask(id, quarter)
  expect((await ask('a', 0)).n).toBe(1)
  await ask('d', quarter)
  expect((await ask('b', 0)).n).toBe(2)
  expect((await ask('a', 0)).n).toBe(5)
  await ask('huge', 2 * LIMITS.answers_bytes)
  expect((await ask('huge', 0)).n).toBe(6)
  expect((await ask('d', 0)).n).toBe(7)
})

test('what one user asks for makes nobody else forget', async () => {
  const answers = new Answers()
  await answers.once(1, 'Do', { id: 'mine' }, () => 'mine')
  for (let n = 0; n < 10; n++) {
    await answers.once(2, 'Do', { id: `large ${n}` }, () => 'x'.repeat(LIMITS.answers_bytes / 8))
  }
  for (let n = 0; n <= LIMITS.answers; n++) await answers.once(2, 'Do', { id: `${n}` }, () => n)
  expect(await answers.once(1, 'Do', { id: 'mine' }, () => 'again')).toBe('mine')
})

test('what is under way is not forgotten; when too much is, the next one is refused, of this user only', async () => {
  const answers = new Answers()
  const ends: ((value: string) => void)[] = []
  const pending = (id: string) => answers.once(1, 'Wait', { id }, () => new Promise<string>((end) => ends.push(end)))
  const all = Array.from({ length: LIMITS.answers }, (_, n) => pending(`n${n}`))
  expect(codeOf(() => pending('one too many'))).toBe('LUO_LIMIT')
  const first = pending('n0')
  expect(ends).toHaveLength(LIMITS.answers)
  expect(await answers.once(2, 'Do', { id: 'n0' }, () => 'other')).toBe('other')
  for (const end of ends) end('done')
  expect(await Promise.all([...all, first])).toEqual(Array(LIMITS.answers + 1).fill('done'))
  expect(await answers.once(1, 'Do', { id: 'next' }, () => 'next')).toBe('next')
})

test('each record of an answer is taken away when it is forgotten, restored ones too', async () => {
  const records = new Set<string>()
  const take = (changes: readonly Change[]) => {
    for (const { key, value } of changes) {
      if (value) records.add(key)
      else records.delete(key)
    }
  }
  const answers = new Answers({ touch: ({ changes }) => take(changes()), commit: (changes = []) => take(changes) })
  const forgotten: string[] = []
  const record = { uid: 1, id: 'old', digest: 'd', method: 'Update', updates: ['1'] }
  records.add('7')
  answers.restore('7', record, {}, { onForgotten: () => forgotten.push('old') })
  for (let n = 0; n < 2 * LIMITS.answers; n++) await answers.once(1, 'Do', { id: `${n}` }, () => n)
  expect(forgotten).toEqual(['old'])
  expect(records.size).toBe(LIMITS.answers)
  expect(records.has('7')).toBe(false)
})

test('what is under way is not forgotten, however much comes after it, and it is when it is over', async () => {
  const answers = new Answers()
  let count = 0
  let over = false
  const begin = () => answers.once(1, 'Do', { id: 'long' }, () => ++count, { underWay: () => !over })
  const ask = async (times: number) => {
    for (let n = 0; n < times; n++) await answers.once(1, 'Do', { id: `n${++count}` }, () => count)
  }
  expect(await begin()).toBe(1)
  await ask(2 * LIMITS.answers)
  expect(await begin()).toBe(1)
  over = true
  await ask(2 * LIMITS.answers)
  expect(await begin()).toBe(count)
})

test.each(['', 'x'.repeat(LIMITS.id_bytes + 1), 'a\0b'])(
  'an id that is empty, too long or has a NUL is refused',
  (id) => {
    expect(() => new Answers().once(1, 'Do', { id }, () => 1)).toThrow(/id has/)
  },
)

test('answers that cannot be recorded take no memory, however many they are, and leave nothing in the records', async () => {
  const touched = new Set<{ changes(): readonly Change[] }>()
  const records = new Map<string, unknown>()
  let full = true
  const commit = (changes: readonly Change[] = []) => {
    for (const { key, value } of [...[...touched].flatMap((one) => one.changes()), ...changes]) {
      if (value === undefined) records.delete(key)
      else records.set(key, value)
    }
    if (full) throw new LuoError('ENOSPC', 'no space')
    touched.clear()
  }
  const answers = new Answers({ touch: (recorded) => void touched.add(recorded), commit })
  const ask = (id: string) => answers.once(1, 'Do', { id }, () => id)
  for (let count = 0; count < 100; count++) await expect(ask(`a${count}`)).rejects.toMatchObject({ code: 'ENOSPC' })
  expect(touched.size).toBe(1)
  full = false
  commit()
  expect([...records]).toEqual([])
  expect(await ask('b')).toBe('b')
  expect(records.size).toBe(1)
})

test('what was begun and cannot be recorded is undone, and the request can be tried again', async () => {
  let full = true
  const commit = () => {
    if (full) throw new LuoError('ENOSPC', 'no space')
  }
  const answers = new Answers({ touch: () => {}, commit })
  const undone: string[] = []
  const ask = (begun: string) => answers.once(1, 'Do', { id: 'a' }, () => begun, { undo: (of) => undone.push(of) })
  expect(isLuoError(await ask('first').catch((error: unknown) => error), 'ENOSPC')).toBe(true)
  full = false
  expect(await ask('second')).toBe('second')
  expect(undone).toEqual(['first'])
})
