import { expect, test } from 'vitest'
import { MAX_NAME_BYTES as LONGEST } from '../core/names.js'
import { MAX_NAME_BYTES, nameOf, splitArguments } from './arguments.js'

test('what follows the first -- is never read as our options', () => {
  expect(splitArguments(['run', 'web', '--', 'node', '--check', '--', 'x'])).toEqual({
    own: ['run', 'web'],
    command: ['node', '--check', '--', 'x'],
  })
})

test('--check does not swallow the name of the workload', () => {
  expect(splitArguments(['update', '--check', 'web']).own).toEqual(['update', '--check=successor', 'web'])
  expect(splitArguments(['update', 'web', '--check']).own).toEqual(['update', 'web', '--check=successor'])
  expect(splitArguments(['update', '--check', 'prepare', 'web']).own).toEqual(['update', '--check=prepare', 'web'])
})

test('an empty command is told from none', () => {
  expect(splitArguments(['update', 'web', '--']).command).toEqual([])
  expect(splitArguments(['update', 'web']).command).toBeUndefined()
})

test('a name is as luod takes it', () => {
  expect(MAX_NAME_BYTES).toBe(LONGEST)
  expect(nameOf('workload')('é'.repeat(31))).toHaveLength(31)
  expect(() => nameOf('workload')('é'.repeat(32))).toThrow(/^the name of a workload has 1 to 63 bytes, and this one 64/)
})
