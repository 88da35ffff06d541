import { expect, test } from 'vitest'
import { rejectionOf } from '../../test/code-of.js'
import { isLuoError } from '../errors.js'
import { fakeLive } from './fake-live.js'

const bytes = (memory: { buffer: ArrayBuffer }) => new Uint8Array(memory.buffer)

test('the successor finds the state, and its ready is the commit', async () => {
  const old = fakeLive({ workload: 'web' })
  const store = await old.memory('store', { size: 8, format: 'store/1' })
  bytes(store)[0] = 7
  await old.ready()
  const heard: string[] = []
  old.on('released', () => heard.push('released'))
  await old.prepare()
  const next = old.next({ accepts: ['store/1'] })
  expect(next.successor).toBe(true)
  expect(bytes(await next.memory('store', { size: 8 }))[0]).toBe(7)
  await next.ready()
  expect(heard).toEqual(['released'])
})

test('what is written before the commit vanishes, on both sides', async () => {
  const old = fakeLive()
  const store = await old.memory('store', { size: 4 })
  bytes(store)[0] = 1
  await old.ready()
  await old.prepare()
  bytes(store)[0] = 99
  const next = old.next()
  bytes(await next.memory('store', { size: 4 }))[0] = 88
  await old.rollback()
  expect(bytes(store)[0]).toBe(1)
  const late = await next.ready().catch((error: unknown) => error)
  expect(isLuoError(late, 'LUO_ABORTED')).toBe(true)
})

test('after a kexec the next start finds the state as after a crash, but for what was for updates only', async () => {
  const old = fakeLive()
  new Uint8Array((await old.memory('store', { size: 4 })).buffer)[0] = 5
  await old.file('log', 'a file')
  await old.file('pipe', 'another', { until: 'update' })
  const session = await old.session('cache')
  await session.preserve(1, 'kept', 'cache/1')
  await session.preserve(2, 'left behind', undefined, { until: 'update' })
  const heard: unknown[] = []
  old
    .on('freeze', (info) => heard.push((info as { purpose: string }).purpose))
    .on('released', () => heard.push('released'))
  await old.ready()
  await old.prepare({ purpose: 'kexec' })
  const next = old.next()
  expect(next.origin).toBe('crash')
  expect(bytes(await next.memory('store', { size: 4 }))[0]).toBe(5)
  expect([await next.file('log'), await next.file('pipe')]).toEqual(['a file', undefined])
  expect(await (await next.session('cache')).tokens()).toEqual([1n])
  await next.ready()
  expect(heard).toEqual(['kexec'])
})

test('a refusal resumes the old version and tells why', async () => {
  const live = fakeLive()
  await live.ready()
  const heard: string[] = []
  live.on('prepare', () => new Error('busy')).on('resume', () => heard.push('resume'))
  const refused = await live.prepare().catch((error: unknown) => error)
  expect(isLuoError(refused, 'LUO_REFUSED') && refused.message).toContain('busy')
  expect(heard).toEqual(['resume'])
})

test('a version that does not accept the format is refused before anything', async () => {
  const live = fakeLive()
  await live.memory('store', { size: 4, format: 'store/2' })
  await live.ready()
  await live.prepare()
  expect(() => live.next({ accepts: ['store/1'] })).toThrow(/store\/2; accepted: store\/1/)
})

test('memory grows up to its limit and keeps its content', async () => {
  const live = fakeLive()
  const memory = await live.memory('store', { size: 4, max: 16 })
  bytes(memory)[3] = 5
  expect(bytes({ buffer: memory.grow(16) })[3]).toBe(5)
  expect(() => memory.grow(17)).toThrow(/limit is 16/)
})

test('a session is handed over with its files, which both sides can read and only one can change', async () => {
  const old = fakeLive()
  const cache = await old.session('cache')
  await cache.preserve(1n, 'file', 'cache/1')
  await old.ready()
  await old.prepare()
  expect(() => old.next({ accepts: ['cache/2'] })).toThrow(/cache is cache\/1; accepted: cache\/2/)
  const next = old.next()
  const handed = await next.session('cache')
  expect(await handed.tokens()).toEqual([1n])
  expect(await handed.retrieve('1')).toBe('file')
  const codes = await Promise.all([rejectionOf(handed.preserve(2, 'more')), rejectionOf(cache.unpreserve(1))])
  expect(codes).toEqual(['EBUSY', 'EBUSY'])
  await next.ready()
  await handed.preserve(2, 'more')
  expect(await rejectionOf(handed.preserve(2n, 'again'))).toBe('EEXIST')
  expect(await rejectionOf(handed.retrieve(3))).toBe('ENOENT')
  handed.close()
  expect(await rejectionOf(handed.tokens())).toBe('EBADF')
})

test('a closed session is empty when it is opened again, unless it was to be kept', async () => {
  const live = fakeLive()
  for (const keepMs of [0, 1_000]) {
    const session = await live.session(`${keepMs}`, { keepMs })
    await session.preserve(1, 'file')
    session.close()
    expect(await (await live.session(`${keepMs}`)).tokens()).toEqual(keepMs === 0 ? [] : [1n])
  }
})
