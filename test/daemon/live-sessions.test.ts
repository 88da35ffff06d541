/** Sessions of the client library, in workloads and in programs that are none. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { eventually, failure, Stage } from './stage.js'

const stageForLive = () => Stage.start({ puppet: 'live-puppet.mjs' })

function file(stage: Stage, content: string): string {
  const path = join(stage.directory, `file ${content}`)
  writeFileSync(path, content)
  return path
}

async function sessionNames(stage: Stage): Promise<string[]> {
  return (await stage.call('Sessions', {})).sessions.map(({ name }) => name)
}

test('a workload finds its sessions again after an update, by the same call', async () => {
  await using stage = await stageForLive()
  const old = await stage.supervised('web')
  await old.do('join')
  expect(await old.do('session', { name: 'cache' })).toBe(true)
  await old.do('preserve', { name: 'cache', token: '18446744073709551615', path: file(stage, 'first'), format: 'c/1' })
  await old.do('preserve', { name: 'cache', token: 5, path: file(stage, 'second') })
  expect(await failure(old.do('preserve', { name: 'cache', token: 5, path: file(stage, 'third') }))).toBe('EEXIST')
  await old.do('ready')
  const result = stage.call('Update', { id: '1', workload: 'web' })
  const next = await stage.nextPuppet()
  await next.do('join')
  await next.do('session', { name: 'cache' })
  expect(await next.do('tokens', { name: 'cache' })).toEqual(['18446744073709551615', '5'])
  expect(await next.do('retrieve', { name: 'cache', token: '18446744073709551615' })).toBe('first')
  expect(await failure(next.do('unpreserve', { name: 'cache', tokens: [5] }))).toBe('EBUSY')
  // Made before the commit, it is there after it.
  await next.do('session', { name: 'new' })
  await next.do('ready')
  expect((await result).outcome).toBe('committed')
  await eventually(
    () => old.alive,
    (alive) => !alive,
    'the old version does not end',
  )
  await next.do('unpreserve', { name: 'cache', tokens: [5] })
  expect(await next.do('tokens', { name: 'cache' })).toEqual(['18446744073709551615'])
  expect(await sessionNames(stage)).toEqual(['web', 'cache', 'new'])
  await next.do('closeSession', { name: 'cache' })
  expect(await failure(next.do('tokens', { name: 'cache' }))).toBe('EBADF')
  expect(await sessionNames(stage)).toEqual(['web', 'new'])
  // The name is free again.
  await next.do('session', { name: 'cache' })
  expect(await next.do('tokens', { name: 'cache' })).toEqual([])
})

test('after a rollback the old version goes on with its session', async () => {
  await using stage = await stageForLive()
  const old = await stage.supervised('web')
  await old.do('join')
  await old.do('session', { name: 'cache' })
  await old.do('ready')
  const result = stage.call('Update', { id: '1', workload: 'web' })
  const next = await stage.nextPuppet()
  await next.do('join')
  await next.do('session', { name: 'cache' })
  expect(await failure(old.do('session', { name: 'other' }))).toBe('EBUSY')
  next.kill()
  expect((await result).outcome).toBe('rolledBack')
  await old.event('resume')
  await old.do('preserve', { name: 'cache', token: 1, path: file(stage, 'first') })
  expect(await sessionNames(stage)).toEqual(['web', 'cache'])
})

test('a workload that leaves keeps nothing, also of sessions that would wait', async () => {
  await using stage = await stageForLive()
  const puppet = await stage.puppet()
  await puppet.do('join', { workload: 'web', keepMs: 60_000 })
  await puppet.do('session', { name: 'cache', keepMs: 60_000 })
  await puppet.do('preserve', { name: 'cache', token: 1, path: file(stage, 'first') })
  await puppet.do('ready')
  await puppet.do('leave')
  expect(await sessionNames(stage)).toEqual([])
})

test('a program keeps a file over its own end, in a session that another one opens', async () => {
  await using stage = await stageForLive()
  const [first, second] = [await stage.puppet(), await stage.puppet()]
  await first.do('openSession', { name: 'cache', keepMs: 60_000 })
  await first.do('preserve', { name: 'cache', token: 1, path: file(stage, 'first') })
  expect(await failure(second.do('openSession', { name: 'cache' }))).toBe('EBUSY')
  first.kill()
  await eventually(
    async () => (await stage.call('Sessions', {})).sessions[0]?.custody,
    (custody) => custody === 'orphaned',
    'it does not wait',
  )
  await second.do('openSession', { name: 'cache' })
  expect(await second.do('retrieve', { name: 'cache', token: '1' })).toBe('first')
  await second.do('closeSession', { name: 'cache' })
  expect(await second.do('adoptSession', { name: 'cache', as: 'again' })).toBe('cache')
  expect(await failure(second.do('adoptSession', { name: 'none', as: 'x' }))).toBe('LUO_NOT_FOUND')
})

test('a child that inherits the descriptor adopts the session, and holds it when its parent is killed', async () => {
  await using stage = await stageForLive()
  const parent = await stage.puppet()
  await parent.do('openSession', { name: 'cache' })
  await parent.do('preserve', { name: 'cache', token: 1, path: file(stage, 'first') })
  await parent.do('spawn', { name: 'cache', args: stage.puppetCommand })
  const child = await stage.nextPuppet()
  expect(await child.do('adoptSession', { fd: 3, as: 'mine' })).toBe('cache')
  parent.kill()
  await eventually(
    () => parent.alive,
    (alive) => !alive,
    'it lives',
  )
  expect(await child.do('retrieve', { name: 'mine', token: 1 })).toBe('first')
  await child.do('closeSession', { name: 'mine' })
  expect(await sessionNames(stage)).toEqual([])
  expect(await failure(child.do('adoptSession', { fd: 0, as: 'x' }))).toBe('EINVAL')
})
