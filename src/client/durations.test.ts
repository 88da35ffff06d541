import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { withDurations } from './durations.js'
import { adoptSession, join, openSession } from './index.js'

const MOST_MS = 2 ** 31 - 1

test('a duration is what it is, and at most what a timer takes', () => {
  expect(withDurations({ reconnectMs: 0, kexecWaitMs: Number.POSITIVE_INFINITY, drainMs: MOST_MS + 1 })).toEqual({
    reconnectMs: 0,
    kexecWaitMs: MOST_MS,
    drainMs: MOST_MS,
  })
  const options = { accepts: ['store/1'], settleMs: 1.5 }
  expect(withDurations(options)).toEqual(options)
})

test.each([Number.NaN, -1, Number.NEGATIVE_INFINITY, '10', null])('%s is none', async (wrong) => {
  const ms = wrong as number
  for (const name of ['reconnectMs', 'kexecWaitMs', 'drainMs', 'settleMs']) {
    expect(codeOf(() => withDurations({ [name]: ms }))).toBe('EINVAL')
  }
  const socket = '/nonexistent/luod.sock'
  await expect(join({ kexecWaitMs: ms })).rejects.toMatchObject({ code: 'EINVAL' })
  await expect(openSession('web', { socket, reconnectMs: ms })).rejects.toMatchObject({ code: 'EINVAL' })
  await expect(adoptSession({ name: 'web' }, { socket, reconnectMs: ms })).rejects.toMatchObject({ code: 'EINVAL' })
})
