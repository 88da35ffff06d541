/**
 * Connections to luod that are cut, at each request of both versions, of the supervisor and of whoever asked for the
 * update, before the request arrives and after it, when the answer is lost with the descriptors in it. Nobody notices:
 * updates commit, what is preserved is there once, and no descriptor is left.
 */
import { execFile } from 'node:child_process'
import { renameSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { eventually, failure, PROJECT, type Puppet, Stage } from './stage.js'

const CUT = `--import=${pathToFileURL(join(PROJECT, 'test/daemon/cut.mjs'))}`
const WHEN = ['before', 'after'] as const

const stageForLive = () => Stage.start({ puppet: 'live-puppet.mjs' })

function startUpdate(stage: Stage, more: object = {}) {
  const result = stage.call('Update', { id: `${Math.random()}`, workload: 'web', deadline_ms: 10_000, ...more })
  result.catch(() => {})
  return result
}

async function first(stage: Stage, options: object = {}, env: NodeJS.ProcessEnv = {}): Promise<Puppet> {
  const old = await stage.supervised('web', [], env)
  await old.do('join', options)
  await old.do('memory', { name: 'a', size: 100 })
  await old.do('write', { name: 'a', value: 0 })
  await old.do('ready')
  return old
}

/** What is in the memory is counted up by each version. */
async function takeOver(next: Puppet, value: number): Promise<void> {
  expect(await next.do('memory', { name: 'a', size: 100 })).toMatchObject({ first: value })
  await next.do('ready')
  await next.do('write', { name: 'a', value: value + 1 })
}

async function gone(puppet: Puppet): Promise<void> {
  await eventually(
    () => puppet.alive,
    (alive) => !alive,
    'the old version does not end',
  )
}

test('whatever request of either version is cut, the update commits, once, and nothing is left', async () => {
  await using stage = await stageForLive()
  const calls = [
    ...['Ready', 'Released'].flatMap((call) => WHEN.map((when) => ({ side: 'old', call, when, all: false }))),
    ...['Join', 'Subscribe', 'Claim', 'Commit'].flatMap((call) =>
      WHEN.map((when) => ({ side: 'new', call, when, all: false })),
    ),
    { side: 'old', call: 'Ready', when: 'after', all: true },
    { side: 'new', call: 'Commit', when: 'after', all: true },
  ]
  let old = await first(stage)
  const before = await stage.atRest()
  for (const [value, { side, ...cut }] of calls.entries()) {
    if (side === 'old') await old.do('cut', cut)
    const result = startUpdate(stage)
    const next = await stage.nextPuppet()
    if (side === 'new') await next.do('cut', cut)
    await next.do('join')
    await takeOver(next, value)
    expect(await result, JSON.stringify(cut)).toMatchObject({ outcome: 'committed' })
    await gone(old)
    expect(await next.do('state')).toMatchObject({ active: true })
    old = next
  }
  const { workload, sessions } = await stage.call('Show', { workload: 'web' })
  expect(workload.generation).toBe(calls.length + 1)
  // The manifest and the memory.
  expect(sessions.map(({ files }) => files)).toEqual([2])
  await eventually(
    async () => (await stage.atRest()).open_fds,
    (count) => count === before.open_fds,
    `luod had ${before.open_fds} descriptors open`,
  )
}, 120_000)

test('sessions and files are there once when the answer is lost', async () => {
  await using stage = await stageForLive()
  const puppet = await stage.puppet()
  const keeper = await stage.puppet()
  await keeper.do('openSession', { name: 'other' })
  const before = await stage.atRest()
  const path = join(stage.directory, 'file')
  for (const when of WHEN) {
    await puppet.do('openSession', { name: when })
    for (const call of ['Preserve', 'Retrieve', 'Unpreserve', 'Files']) await puppet.do('cut', { call, when })
    await puppet.do('preserve', { name: when, token: '1', path })
    await puppet.do('retrieve', { name: when, token: '1' })
    expect(await puppet.do('tokens', { name: when })).toEqual(['1'])
    await puppet.do('unpreserve', { name: when, tokens: ['1'] })
    expect(await puppet.do('tokens', { name: when })).toEqual([])
    await puppet.do('closeSession', { name: when })
    // Each session has a connection of its own: the first request on it is the one that makes it.
    await puppet.do('cut', { call: 'CreateSession', when })
    await puppet.do('openSession', { name: `${when} made`, keepMs: 60_000 })
    await puppet.do('preserve', { name: `${when} made`, token: '1', path })
    await puppet.do('closeSession', { name: `${when} made` })
    await puppet.do('cut', { call: 'AdoptSession', when })
    await puppet.do('adoptSession', { as: when, name: `${when} made` })
    expect(await puppet.do('tokens', { name: when })).toEqual(['1'])
    await puppet.do('unpreserve', { name: when, tokens: ['1'] })
    await puppet.do('closeSession', { name: when })
  }
  await eventually(
    async () => (await stage.atRest()).open_fds,
    (count) => count === before.open_fds,
    `luod had ${before.open_fds} descriptors open`,
  )
})

test.each(['Spawned before', 'Spawned after', 'Supervise before'])('the supervisor is cut: %s', async (where) => {
  await using stage = await stageForLive()
  const old = await first(stage, {}, { NODE_OPTIONS: CUT, LUO_TEST_CUT: where })
  const result = startUpdate(stage)
  const next = await stage.nextPuppet()
  await next.do('join')
  await takeOver(next, 0)
  expect((await result).outcome).toBe('committed')
  await gone(old)
  expect((await stage.call('Show', { workload: 'web' })).workload).toMatchObject({ supervised: true, pid: next.pid })
})

test('luod cannot be reached for a moment in any phase, by any side, and the update commits', async () => {
  await using stage = await stageForLive()
  const away = `${stage.socket}.away`
  const old = await first(stage)
  const luoctl = [join(PROJECT, 'dist/cli/main.js'), '--socket', stage.socket]
  const update = promisify(execFile)(process.execPath, [...luoctl, 'update', 'web'], {
    env: { ...process.env, NODE_OPTIONS: CUT, LUO_TEST_CUT: 'Update after' },
  })
  update.catch(() => {})
  const next = await stage.nextPuppet()
  const unreachable = async (puppets: Puppet[], work: () => Promise<unknown>) => {
    renameSync(stage.socket, away)
    for (const puppet of puppets) await puppet.do('cutNow')
    const done = work()
    await new Promise((resolve) => setTimeout(resolve, 200))
    renameSync(away, stage.socket)
    await done
  }
  await next.do('join')
  await unreachable([next, old], () => takeOver(next, 0))
  const { stdout } = await update
  expect(stdout).toContain('web: updated in')
  // Each phase is told once.
  expect(stdout.match(/^.*joined.*pid/gm)).toHaveLength(2)
  await gone(old)
  await unreachable([next], async () => expect(await next.do('state')).toMatchObject({ active: true }))
  // It may take a moment until the version is back.
  const again = eventually(() => startUpdate(stage), Boolean, 'it cannot be updated again')
  const third = await stage.nextPuppet()
  await third.do('join')
  await takeOver(third, 1)
  expect((await again).outcome).toBe('committed')
})

test('a version that held still goes on when luod is away for too long, and luod rolls back when it hears of that', async () => {
  await using stage = await stageForLive()
  const away = `${stage.socket}.away`
  const old = await first(stage, { reconnectMs: 1_000 })
  const result = startUpdate(stage)
  const next = await stage.nextPuppet()
  await next.do('join')
  await next.do('memory', { name: 'a', size: 100 })
  renameSync(stage.socket, away)
  await old.do('cutNow')
  expect((await old.event('resume')).reason).toContain('luod was away for 0.5 s')
  await old.do('write', { name: 'a', value: 7 })
  renameSync(away, stage.socket)
  expect((await result).outcome).toBe('rolledBack')
  await gone(next)
  const again = startUpdate(stage)
  const third = await stage.nextPuppet()
  await third.do('join')
  await takeOver(third, 7)
  expect((await again).outcome).toBe('committed')
})

test('after its time without luod a version is alone, and says so', async () => {
  await using stage = await stageForLive()
  const puppet = await first(stage, { reconnectMs: 100 })
  renameSync(stage.socket, `${stage.socket}.away`)
  await puppet.do('cutNow')
  await eventually(
    () => puppet.do('state'),
    (state) => !(state as { active: boolean }).active,
    'it does not give up',
  )
  expect(await failure(puppet.do('memory', { name: 'b', size: 1 }))).toBe('LUO_GONE')
  await puppet.do('write', { name: 'a', value: 1 })
  renameSync(`${stage.socket}.away`, stage.socket)
})
