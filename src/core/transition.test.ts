import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import type { LuoState } from '../abi/luo.js'
import { Machine } from './testing/world.js'
import { readState } from './transition.js'

const machine = new Machine()
const { registry, a, b } = machine.boot()
const read = (sessions: LuoState['sessions']) => {
  let id = 0
  return readState({ liveupdateNumber: 1n, sessions, flbs: [] }, '7', registry, () => String(++id))
}
const file = (token: string, compatible = 'a-v1', data = 1n) => ({ compatible, data, token })

describe('what was handed over', () => {
  test('becomes sessions that nobody has retrieved, in order, with the handlers of this generation', () => {
    const [web, other] = read([
      { name: 'web', files: [file('9', 'b-v1', 5n), file('1')] },
      { name: 'other', files: [] },
    ])
    expect(web).toMatchObject({ id: '1', name: 'web', scope: '7', direction: 'incoming' })
    expect(web).toMatchObject({ retrieved: false, finished: false })
    expect([...(web?.files ?? [])]).toEqual([
      ['9', { token: '9', handler: b, data: 5n }],
      ['1', { token: '1', handler: a, data: 1n }],
    ])
    expect(other).toMatchObject({ id: '2', name: 'other' })
  })

  test.each<[string, string, LuoState['sessions']]>([
    ['ENOENT', 'a file without a handler', [{ name: 'web', files: [file('1'), file('2', 'c-v1')] }]],
    ['ENOENT', 'another version of a handler', [{ name: 'web', files: [file('1', 'a-v2')] }]],
    [
      'EEXIST',
      'a name twice',
      [
        { name: 'web', files: [] },
        { name: 'web', files: [] },
      ],
    ],
    ['EEXIST', 'a token twice', [{ name: 'web', files: [file('1'), file('1', 'b-v1')] }]],
    ['EINVAL', 'an empty name', [{ name: '', files: [] }]],
    ['EINVAL', 'a long name', [{ name: 'x'.repeat(64), files: [] }]],
    ['EINVAL', 'a token that is none', [{ name: 'web', files: [file('01')] }]],
  ])('is %s when it has %s', (code, _what, sessions) => {
    expect(codeOf(() => read(sessions))).toBe(code)
  })

  test('may have a token again in another session', () => {
    expect(
      read([
        { name: 'web', files: [file('1')] },
        { name: 'other', files: [file('1')] },
      ]),
    ).toHaveLength(2)
  })
})
