import { expect, test } from 'vitest'
import type { ReceivedFiles } from './fd-store.js'
import { goesOnWithRecords } from './session-store.js'

const VERSION = { name: 'luod-internal' }
const OTHERS = [{ name: 'luod-internal-1.3' }, { name: 'luod-session-1' }]

test.each([
  ['nothing', [], [], false],
  ['records alone', ['records'], [], true],
  ['a kexec alone', [], [VERSION, ...OTHERS], false],
  ['a kexec, and records of the kernel before', ['records'], [...OTHERS, VERSION], false],
  ['records, and what is left of a kexec that is in them', ['records'], OTHERS, true],
])('a luod that finds %s', (_, keys, sessions, expected) => {
  const entries = new Map(keys.map((key) => [key, {}])) as unknown as ReceivedFiles['entries']
  expect(goesOnWithRecords({ entries }, sessions)).toBe(expected)
})
