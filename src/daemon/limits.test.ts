import { expect, test } from 'vitest'
import { fenceLeftMs, RECONNECT_MS, RESTORE_WAIT_MS } from './limits.js'

test.each([
  ['just begun', 0, RESTORE_WAIT_MS],
  ['begun a while ago, in a luod before', 1_500, RESTORE_WAIT_MS - 1_500],
  ['begun long ago: whoever was connected may still come back', 60_000, RECONNECT_MS],
] as const)('an old version that owes its word, in an update committing %s, has what is left', (_, since, left) => {
  expect(fenceLeftMs(since)).toBe(left)
})
