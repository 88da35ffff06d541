/** Many sessions and files: they come in pages, and have limits. */
import { expect, test } from 'vitest'
import { add, id, leavesNothing, make } from './session-steps.js'
import { failure } from './stage.js'

const MANY = 3_000

test(`${MANY} files come in pages, in order, by offset and by token`, () =>
  leavesNothing(async (stage) => {
    const puppet = await stage.puppet()
    const session = await make(puppet, 'large', { files: 0 })
    await puppet.do('preserveMany', { session, count: MANY })
    const page = (offset?: number, limit?: number) => stage.call('Files', { session, offset, limit })
    expect((await page()).files).toHaveLength(1_000)
    const tokens: string[] = []
    while (tokens.length < MANY) tokens.push(...(await page(tokens.length, 999)).files.map(({ token }) => token))
    expect(tokens).toEqual(Array.from({ length: MANY }, (_, index) => String(index)))
    expect(await page(MANY)).toEqual({ files: [], total: MANY })
    expect(await page(Number.MAX_SAFE_INTEGER)).toEqual({ files: [], total: MANY })
    for (const [offset, limit] of [[-1], [0, 0], [0, 1_001], [0, -5]]) {
      expect(await failure(page(offset, limit))).toBe('LUO_INVALID_PARAMETER')
    }
    const retrieved = await puppet.call('Retrieve', { session, offset: MANY - 10 })
    expect(retrieved.files.map(({ token }) => Number(token))).toEqual(
      Array.from({ length: 10 }, (_, index) => MANY - 10 + index),
    )
    expect(retrieved).toMatchObject({ total: MANY, fds: 10 })
    expect((await puppet.call('Retrieve', { session, offset: 0 })).fds).toBe(253)
    expect((await puppet.call('Retrieve', { session, offset: MANY })).fds).toBe(0)
    expect((await puppet.call('Retrieve', { session, tokens: ['9', '2000'] })).files).toHaveLength(2)
    const wrong = (more: object) => failure(puppet.call('Retrieve', { session, ...more }))
    expect(await wrong({})).toBe('LUO_INVALID_PARAMETER')
    expect(await wrong({ tokens: ['1'], offset: 0 })).toBe('LUO_INVALID_PARAMETER')
    expect(await wrong({ tokens: Array(254).fill('1') })).toBe('LUO_INVALID_PARAMETER')
    expect(await wrong({ offset: -1 })).toBe('LUO_INVALID_PARAMETER')
    // A page follows what has changed.
    await puppet.call('Unpreserve', { id: id(), session, tokens: ['0'] })
    expect((await page(0, 1)).files[0]?.token).toBe('1')
    await add(puppet, session, '0')
    expect((await page(MANY - 1)).files).toMatchObject([{ token: '0' }])
  }))

test('sessions come in pages, up to the limit and not over it, and a closed one makes room at once', () =>
  leavesNothing(
    async (stage) => {
      const puppet = await stage.puppet()
      for (let count = 0; count < 300; count++) await make(puppet, `s${count}`, { files: 0 })
      expect(await failure(make(puppet, 'more', { files: 0 }))).toBe('LUO_LIMIT')
      await puppet.do('close', { name: 's7' })
      await make(puppet, 's300', { files: 0 })
      const first = await stage.call('Sessions', {})
      expect([first.sessions.length, first.total]).toEqual([256, 300])
      const rest = await stage.call('Sessions', { offset: 256 })
      const names = [...first.sessions, ...rest.sessions].map(({ name }) => name)
      expect(names).toEqual(Array.from({ length: 301 }, (_, index) => `s${index}`).filter((name) => name !== 's7'))
      expect(await failure(stage.call('Sessions', { limit: 257 }))).toBe('LUO_INVALID_PARAMETER')
      expect(await failure(stage.call('Sessions', { offset: -1 }))).toBe('LUO_INVALID_PARAMETER')
    },
    ['--limit', 'sessions=300'],
  ))

test('a workload has as many further sessions as an update can tell of', () =>
  leavesNothing(async (stage) => {
    const puppet = await stage.puppet()
    const { member } = await puppet.join('web')
    const { limits } = await stage.call('Status', {})
    for (let count = 0; count < (limits.workload_sessions ?? 0); count++) {
      await make(puppet, `s${count}`, { files: 0, member })
    }
    expect(await failure(make(puppet, 'more', { files: 0, member }))).toBe('LUO_LIMIT')
    await make(puppet, 'without a workload', { files: 0 })
    expect((await stage.call('Show', { workload: 'web' })).sessions).toHaveLength(256)
  }))
