import { expect, test } from 'vitest'
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
