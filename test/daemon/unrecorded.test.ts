/**
 * What cannot be written down: an update does not begin, a commit does not either, and whoever asked is told; what was over
 * by then is over, and is written down as soon as there is space, whoever asks for something or not.
 */
import { expect, test } from 'vitest'
import { decodeRecords } from '../../src/abi/records.js'
import { closeAll } from '../../src/sys/fd.js'
import { interfere } from '../../src/sys/ffi.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { luodOfOurOwn } from './in-process.js'
import { Replaceable } from './replaced.js'
import { eventually, failure, type Puppet } from './stage.js'

/** While it runs nothing can be recorded. */
async function withoutSpace(run: () => Promise<void>): Promise<void> {
  interfere((call) => (call === 'pwrite' ? 'ENOSPC' : undefined))
  try {
    await run()
  } finally {
    interfere(undefined)
  }
}

const METHODS = [
  ['Update', { id: 'one', workload: 'web' }],
  ['UpdateGroup', { id: 'two', workloads: ['web'] }],
] as const

test.each(METHODS)(
  '%s fails with ENOSPC, the version that runs goes on, and is updated when there is space',
  async (method, input) => {
    await using stage = (await luodOfOurOwn()).stage
    const puppet = await stage.supervised('web')
    const { member } = await puppet.join('web')
    await puppet.call('Commit', { id: 'c', member })
    const stateOf = async () => (await stage.call('List', {})).workloads[0]?.state
    await eventually(stateOf, (state) => state === 'running', 'it does not run')
    const client = await stage.client()
    await withoutSpace(async () => expect(await failure(client.call(method, input as never))).toBe('ENOSPC'))
    await eventually(stateOf, (state) => state === 'running', 'the update goes on')
    const again = await client.call(method, { ...input, deadline_ms: 1 } as never)
    expect(JSON.stringify(again.parameters)).toContain('rolledBack')
    await eventually(stateOf, (state) => state === 'running', 'it is not as before')
  },
)

test.each(METHODS)(
  '%s tells the supervisor when it is recorded that it was asked, and not before',
  async (method, input) => {
    await using stage = (await luodOfOurOwn()).stage
    const member = await stage.client()
    const { parameters } = await member.call('Join', { id: 'j', workload: 'web', accepts: ['*'] })
    await member.call('Commit', { id: 'c', member: parameters.member })
    const told = member.stream('Subscribe', { member: parameters.member })
    await told.next()
    const [supervisor, client] = [await stage.client(), await stage.client()]
    const heard: string[] = []
    const listening = (async () => {
      for await (const { parameters: said, fds } of supervisor.stream('Supervise', { id: 's', workload: 'web' })) {
        heard.push(said.event)
        closeAll(fds)
      }
    })().catch(() => {})
    const asked = async (event: string) => eventually(async () => heard.includes(event), Boolean, `no ${event}`)
    await asked('supervising')
    await withoutSpace(async () => expect(await failure(client.call(method, input as never))).toBe('ENOSPC'))
    await client.call('Status', {})
    expect(heard).not.toContain('start')
    const again = client.call(method, { ...input, deadline_ms: 1_000 } as never).catch(() => {})
    await asked('start')
    supervisor.close()
    await Promise.all([again, listening])
  },
)

/** A version, and the one that is about to commit in its place. */
async function aboutToCommit(luod: Replaceable) {
  const { stage } = luod
  const old = await stage.supervised('web')
  const { member, session } = await old.join('web')
  await old.do('memfd', { name: 'store', size: 4096 })
  const files = [{ token: '1', fd: 0 }]
  await old.call('Preserve', { id: 'keep', session, files, fds: 1 }, { send: ['store'] })
  await old.call('Commit', { id: 'first', member })
  const updated = stage.call('Update', { id: 'update', workload: 'web', deadline_ms: 60_000 })
  updated.catch(() => {})
  const successor = await stage.nextPuppet()
  const { member: next } = await successor.join('web')
  const claimed = successor.call('Claim', { id: 'claim', member: next }, { keep: ['store'] })
  const { update = '' } = await old.event('prepare')
  await old.call('Ready', { id: 'ready', member, update })
  await claimed
  const commit = () => successor.call('Commit', { id: 'commit', member: next })
  const release = () => old.call('Released', { id: 'released', member, update })
  return { old, member, successor, updated, commit, release }
}

const runs = async ({ stage }: Replaceable, { pid }: Puppet) =>
  eventually(
    () => stage.call('Show', { workload: 'web' }),
    ({ workload }) => workload.state === 'running' && workload.pid === pid && workload.files === 1,
    'it does not run',
  )

const NO_SPACE = [expect.stringMatching(/^error: record what has changed.*ENOSPC/)]

test.each(['goes on', 'is killed'])('a commit that cannot be recorded is rolled back; luod %s', async (then) => {
  await using luod = await Replaceable.start()
  const { old, member, successor, updated, commit } = await aboutToCommit(luod)
  await withoutSpace(async () => {
    // It is killed before it hears of it.
    void commit()
    expect(await old.event('resume')).toMatchObject({ reason: expect.stringContaining('cannot be recorded') })
    if (then === 'is killed') {
      interfere(undefined)
      await luod.replace({ mode: 'recover' })
      for (const on of ['control', 'events']) await old.do('disconnect', { on })
      await old.do('stream', { on: 'events', method: 'Subscribe', input: { member } })
    }
  })
  if (then === 'goes on') {
    const { outcome, timeline = [] } = await updated
    expect([outcome, timeline.find(({ phase }) => phase === 'aborting')?.code]).toEqual(['rolledBack', 'ENOSPC'])
  }
  await eventually(
    () => successor.alive,
    (alive) => !alive,
    'the new version lives',
  )
  await runs(luod, old)
  expect(old.events.map(({ event }) => event)).not.toContain('release')
  expect(luod.log).toEqual(NO_SPACE)
})

test('a commit whose end cannot be recorded stands, also for a luod after this one', async () => {
  await using luod = await Replaceable.start()
  const { old, successor, commit, release } = await aboutToCommit(luod)
  const committed = commit()
  await old.event('release')
  await withoutSpace(async () => {
    expect(await release()).toEqual({})
    expect(await committed).toEqual({ released: 'word' })
    await runs(luod, successor)
  })
  await luod.replace({ mode: 'recover' })
  await runs(luod, successor)
  expect(successor.alive).toBe(true)
  expect(luod.log).toEqual(NO_SPACE)
})

test('what could not be recorded is as soon as there is space, without anything else to record', async () => {
  await using luod = await Replaceable.start()
  const { old, commit, release } = await aboutToCommit(luod)
  const committed = commit()
  await old.event('release')
  await withoutSpace(async () => void (await Promise.all([release(), committed])))
  const recorded = () => {
    const file = luod.copies.fds.get('records')
    const bytes = new Uint8Array(file ? fileSize(file) : 0)
    if (file) readAt(file, bytes, 0)
    const { entries } = decodeRecords(bytes)
    const answers = [...(entries.get('answer')?.values() ?? [])].map(({ method }) => method)
    return [...(entries.get('workload')?.values() ?? [])].map(({ generation }) => generation).concat(answers)
  }
  const all = [2, 'Released', 'Commit']
  await eventually(recorded, (seen) => all.every((one) => seen.includes(one)), 'it is not recorded')
})

test('a claim whose commit cannot be recorded has not happened, and the state waits for the next one', async () => {
  await using luod = await Replaceable.start()
  const { stage } = luod
  const first = await stage.puppet()
  const { session } = await first.join('web', ['*'], { keep_ms: 60_000 })
  await first.do('memfd', { name: 'store', size: 4096 })
  await first.call('Preserve', { id: 'keep', session, files: [{ token: '1', fd: 0 }], fds: 1 }, { send: ['store'] })
  first.kill()
  const orphaned = () =>
    eventually(
      () => stage.call('Show', { workload: 'web' }),
      ({ workload }) => workload.state === 'orphaned' && workload.files === 1,
      'it does not wait',
    )
  await orphaned()
  for (const space of [false, true]) {
    const next = await stage.puppet()
    const { member } = await next.join('web')
    await next.call('Claim', { id: `claim-${next.pid}`, member }, { keep: ['store'] })
    const commit = () => next.call('Commit', { id: `commit-${next.pid}`, member })
    if (space) {
      await commit()
      await runs(luod, next)
      continue
    }
    await withoutSpace(async () => {
      void commit()
      await orphaned()
    })
  }
})

test('a request that failed since it could not be recorded is none that a luod after this one knows', async () => {
  await using luod = await Replaceable.start()
  const client = await luod.stage.client()
  const request = { id: 'make', name: 'cache' }
  await withoutSpace(async () => expect(await failure(client.call('CreateSession', request))).toBe('ENOSPC'))
  // Recorded with all that is to be.
  await client.call('CreateSession', { id: 'more', name: 'more' }).then(({ fds }) => closeAll(fds))
  await luod.replace({ mode: 'recover' })
  const { fds } = await (await luod.stage.client()).call('CreateSession', request)
  expect(fds).toHaveLength(1)
  closeAll(fds)
})
