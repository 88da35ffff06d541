/**
 * What the kernel may answer to a luod that changes hands: each call of libc of whoever takes over fails once. In an
 * upgrade it refuses, and the one before goes on with everything; after a crash it has everything, or ends and has
 * changed nothing for the next one. Never does it go on with less than there is.
 */
import { expect, test } from 'vitest'
import { isLuoError } from '../../src/errors.js'
import { countOpenFds } from '../../src/sys/fd.js'
import { Replaceable } from '../daemon/replaced.js'
import { eventually } from '../daemon/stage.js'
import { FAILURES, failEach } from './interference.js'

const WAYS = [
  ['an upgrade, built ahead', 'strict', true],
  ['a crash, built ahead', 'recover', true],
  ['a crash, out of the store', 'recover', false],
] as const

async function filled(): Promise<Replaceable> {
  const luod = await Replaceable.start()
  const { stage } = luod
  const old = await stage.supervised('web', ['--keep', '60s'])
  const { member, session } = await old.join('web')
  await old.do('memfd', { name: 'store', size: 4096 })
  await old.do('memfd', { name: 'more', size: 4096 })
  const files = [
    { token: '1', fd: 0, format: 'store/1' },
    { token: '2', fd: 1 },
  ]
  await old.call('Preserve', { id: 'p', session, files, fds: 2 }, { send: ['store', 'more'] })
  await old.call('Commit', { id: 'c', member })
  await old.call('CreateSession', { id: 's', name: 'other', keep_ms: 60_000 }, { keep: ['other'] })
  return luod
}

test('whoever takes over has everything, or changes nothing', async () => {
  await using luod = await filled()
  const before = await luod.view()
  for (const [way, mode, ahead] of WAYS) {
    for (const [failure, calls, instead] of FAILURES) {
      const fds = countOpenFds()
      let build: Awaited<ReturnType<typeof luod.beside>> | undefined
      let counts: unknown
      let wanted: unknown
      let code: string | undefined
      await failEach({
        ...{ calls, instead },
        before: async () => {
          build = await luod.beside(mode, ahead)
        },
        work: () => {
          try {
            counts = build?.()
            code = undefined
          } catch (error) {
            if (!isLuoError(error)) throw error
            code = error.code
          }
        },
        after: async ({ call, where }) => {
          const what = `${way}: ${failure}, ${where}`
          if (call === undefined) {
            expect(code, what).toBeUndefined()
            wanted = counts
          } else if (code === undefined) expect(counts, what).toEqual(wanted)
          await eventually(countOpenFds, (count) => count <= fds, `${what}: descriptors are left`)
        },
      })
    }
  }
  expect(await luod.view()).toEqual(before)
  expect(luod.log).toEqual([])
})
