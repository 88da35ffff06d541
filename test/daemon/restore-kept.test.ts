/**
 * What a luod after this one has of what takes its time or is shared: sessions that wait, an update with a deadline,
 * groups, and huge pages. After an upgrade as after a crash, what is left of a time is left, and nothing begins anew.
 */
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Records } from '../../src/abi/records.js'
import { recordsStorage } from '../../src/daemon/records-file.js'
import { closeAll, Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { createMemfd, truncate } from '../../src/sys/memfd.js'
import { HUGE_PAGE_BYTES, poolCount, withHugePages, withPage } from '../kinds/hugepages.js'
import { Kit } from '../kinds/kit.js'
import { Replaceable } from './replaced.js'
import { eventually, type Puppet } from './stage.js'

/** Several processes each, one after the other. */
vi.setConfig({ testTimeout: 60_000 })

/** By how much the clocks have gone on, or were set. */
const clocks = vi.hoisted(() => ({ monotonicMs: 0, wallMs: 0 }))

vi.mock('../../src/daemon/clock.js', async (original) => {
  const real = await original<typeof import('../../src/daemon/clock.js')>()
  return { ...real, monotonicMs: () => real.monotonicMs() + clocks.monotonicMs }
})

const MODES = [
  ['an upgrade', 'strict'],
  ['a crash', 'recover'],
] as const
type Mode = (typeof MODES)[number][1]
const S = 1_000
const DAY = 24 * 3_600 * S
const HUGETLB = 1 | 2 | 4

afterEach(() => {
  vi.restoreAllMocks()
  Object.assign(clocks, { monotonicMs: 0, wallMs: 0 })
})

/** Everything that was there is there. */
async function replace(luod: Replaceable, mode: Mode): Promise<void> {
  expect(await luod.replace({ mode })).toEqual([])
}

/** As an older build records it: by the wall clock only. */
function withoutMonotonic(fds: Map<string, Fd>): void {
  const records = Records.open(recordsStorage(fds.get('records') as Fd))
  for (const type of ['session', 'lifetime'] as const) {
    const entries = [...records.entries(type)]
    records.transaction(entries.map(([key, { expires_at_ms: _, given_at_ms: __, ...value }]) => ({ type, key, value })))
  }
}

interface Version {
  puppet: Puppet
  member: string
}

/** Its connections are lost, and it comes back. */
async function again({ puppet, member }: Version): Promise<void> {
  await puppet.do('disconnect', { on: 'control' })
  await puppet.do('disconnect', { on: 'events' })
  puppet.events.length = 0
  await puppet.do('stream', { on: 'events', method: 'Subscribe', input: { member } })
}

async function running(luod: Replaceable, name: string, ...args: string[]): Promise<Version> {
  const puppet = await luod.stage.supervised(name, args)
  const { member, session } = await puppet.join(name)
  await puppet.do('memfd', { name: 'store', size: 4096 })
  const files = [{ token: '1', fd: 0, format: `${name}/1` }]
  await puppet.call('Preserve', { id: `keep-${puppet.pid}`, session, files, fds: 1 }, { send: ['store'] })
  await puppet.call('Commit', { id: `first-${puppet.pid}`, member })
  return { puppet, member }
}

/** Until its supervisor is there, and its version listens. */
async function whole({ stage }: Replaceable, name: string, version: Version): Promise<void> {
  await eventually(
    () => stage.call('Show', { workload: name }),
    ({ workload }) => workload.supervised && workload.state === 'running' && workload.pid === version.puppet.pid,
    `${name} is not whole`,
  )
}

async function keep(luod: Replaceable, name: string, keepMs: number, files: readonly Fd[]): Promise<string> {
  const client = await luod.stage.client()
  const { parameters, fds } = await client.call('CreateSession', { id: name, name, keep_ms: keepMs })
  const { session } = parameters.session
  const described = files.map((_, fd) => ({ token: String(fd + 1), fd }))
  await client.call('Preserve', { id: `${name} files`, session, files: described, fds: files.length }, files)
  closeAll(fds)
  return session
}

/** Of sessions that wait, how long they do. */
async function waiting({ stage }: Replaceable): Promise<Record<string, number>> {
  const { sessions } = await stage.call('Sessions', {})
  return Object.fromEntries(sessions.flatMap(({ name, expires_ms: ms }) => (ms === undefined ? [] : [[name, ms]])))
}

const names = (luod: Replaceable, wanted: string[]) =>
  eventually(
    () => waiting(luod),
    (left) => Object.keys(left).sort().join() === wanted.sort().join(),
    `it is not ${wanted} that wait`,
  )

test('what waits has the time that is left, however the clock is set', async () => {
  await using luod = await Replaceable.start()
  const now = Date.now.bind(Date)
  vi.spyOn(Date, 'now').mockImplementation(() => now() + clocks.wallMs)
  using file = createMemfd('kept')
  await keep(luod, 'cache', 600 * S, [file])
  using other = createMemfd('kept')
  await keep(luod, 'short', 300 * S, [other])
  const web = await luod.stage.puppet()
  const { session, member } = await web.join('web', ['*'], { keep_ms: 600 * S })
  await web.do('memfd', { name: 'store', size: 1 })
  await web.call('Preserve', { id: 'web', session, files: [{ token: '1', fd: 0 }], fds: 1 }, { send: ['store'] })
  await web.call('Commit', { id: 'first', member })
  web.kill()
  const api = await running(luod, 'api')
  const request = { id: 'update', workload: 'api', deadline_ms: 600 * S }
  luod.stage.call('Update', request).catch(() => {})
  await (await luod.stage.nextPuppet()).join('api')
  await names(luod, ['cache', 'short', 'web'])

  clocks.monotonicMs = 400 * S
  const set: [Mode, number, typeof withoutMonotonic?][] = [
    ['strict', 400 * S, withoutMonotonic],
    ...MODES.flatMap(([, mode]): [Mode, number][] => [
      [mode, DAY],
      [mode, -60 * DAY],
    ]),
  ]
  for (const [mode, wallMs, change] of set) {
    clocks.wallMs = wallMs
    expect(await luod.replace({ mode, ...(change ? { change } : {}) })).toEqual([])
    const left = await names(luod, ['cache', 'web'])
    for (const ms of Object.values(left)) expect(ms).toBeLessThanOrEqual(200 * S)
    for (const ms of Object.values(left)) expect(ms).toBeGreaterThan(100 * S)
  }
  expect((await luod.stage.call('Show', { workload: 'api' })).workload.state).toBe('updating')

  // The one has expired in an upgrade, the others do in a crash.
  clocks.monotonicMs = 601 * S
  await replace(luod, 'recover')
  await again(api)
  await names(luod, [])
  const { events } = await luod.stage.call('History', {})
  const ends = events.filter(({ event }) => /expired/i.test(event))
  expect(ends.map(({ event, session, workload }) => [event, session ?? workload]).sort()).toEqual([
    ['expired', 'web'],
    ['sessionExpired', 'cache'],
    ['sessionExpired', 'short'],
  ])
  // The time of the update is over too: it has a moment for those who come back, and not a whole deadline.
  const { outcome, timeline = [] } = await luod.stage.call('Update', request)
  expect([outcome, timeline.find(({ phase }) => phase === 'aborting')?.code]).toEqual(['rolledBack', 'LUO_DEADLINE'])
  await whole(luod, 'api', api)
  expect(luod.log).toEqual([])
})

test.each([
  ['just before a crash', { wallMs: DAY }, true],
  ['just before a crash', { wallMs: -DAY }, true],
  ['long before a crash', { monotonicMs: 31 * S, wallMs: -DAY }, false],
  ['before the machine was started anew', { monotonicMs: -S }, false],
  ['just before a crash by an older build', { wallMs: 29 * S, change: withoutMonotonic }, true],
  ['long before a crash by an older build', { wallMs: 31 * S, change: withoutMonotonic }, false],
])(
  'whether a descriptor that was given out %s may be lost goes by the clock that nobody sets: %o, %s',
  async (_, how, lost) => {
    const { change, ...shown } = { monotonicMs: 0, wallMs: 0, change: undefined, ...how }
    await using luod = await Replaceable.start()
    const now = Date.now.bind(Date)
    vi.spyOn(Date, 'now').mockImplementation(() => now() + clocks.wallMs)
    const request = { id: 'make', name: 'cache' }
    const { fds } = await (await luod.stage.client()).call('CreateSession', request)
    luod.daemon.pause()
    closeAll(fds)
    Object.assign(clocks, shown)
    expect(await luod.replace({ mode: 'recover', ...(change ? { change } : {}) })).toEqual([])
    const client = await luod.stage.client()
    const { sessions } = (await client.call('Sessions', {})).parameters
    expect(sessions.map(({ name }) => name)).toEqual(lost ? ['cache'] : [])
    if (!lost) return
    const again = await client.call('CreateSession', request)
    expect(again.fds).toHaveLength(1)
    closeAll(again.fds)
  },
)

describe('a group', () => {
  /** An update of both up to a point; answers what is there by then. */
  async function update(luod: Replaceable, id: string, { web, db }: Record<'web' | 'db', Version>) {
    const { stage } = luod
    const request = { id, workloads: ['web', 'db'], deadline_ms: 60 * S }
    stage.call('UpdateGroup', request).catch(() => {})
    const next: Record<string, Version> = {}
    for (let count = 0; count < 2; count++) {
      const puppet = await stage.nextPuppet()
      const name = puppet.workload ?? ''
      next[name] = { puppet, member: (await puppet.join(name)).member }
    }
    const { web: newWeb, db: newDb } = next as { web: Version; db: Version }
    const claim = ({ puppet, member }: Version) => {
      const claimed = puppet.call('Claim', { id: `claim-${puppet.pid}`, member })
      claimed.catch(() => {})
      return claimed
    }
    const commit = ({ puppet, member }: Version) => {
      const committed = puppet.call('Commit', { id: `commit-${puppet.pid}`, member })
      committed.catch(() => {})
      return committed
    }
    const letGo = async ({ puppet, member }: Version) => {
      const { update: of = '' } = await puppet.event('prepare')
      await puppet.call('Ready', { id: `ready-${of}`, member, update: of })
      return of
    }
    const release = async ({ puppet, member }: Version) => {
      const { update: of = '' } = await puppet.event('release')
      await puppet.call('Released', { id: `released-${of}`, member, update: of })
    }
    const claims = { web: claim(newWeb), db: claim(newDb) }
    await letGo(web)
    await letGo(db)
    expect((await claims.db).files).toHaveLength(1)
    return { request, newWeb, newDb, claims, commit, release }
  }

  const outcomesOf = async (luod: Replaceable, request: { id: string; workloads: string[]; deadline_ms: number }) => {
    const { outcomes = [] } = await luod.stage.call('UpdateGroup', request)
    return Object.fromEntries(outcomes.map(({ workload, outcome }) => [workload, outcome]))
  }

  test('goes back if none has begun to commit; else whoever has commits, and the others go back', async () => {
    await using luod = await Replaceable.start()
    let db = await running(luod, 'db')
    const web = await running(luod, 'web', '--after', 'db')
    for (const [, mode] of MODES) {
      const before = await luod.view()
      expect(before.workloads.map(({ name, files, after }) => [name, files, after])).toEqual([
        ['db', 1, undefined],
        ['web', 1, ['db']],
      ])
      await replace(luod, mode)
      for (const version of [web, db]) await again(version)
      await whole(luod, 'web', web)
      await whole(luod, 'db', db)
      expect(await luod.view()).toEqual(before)

      const first = await update(luod, `first ${mode}`, { web, db })
      await replace(luod, mode)
      for (const version of [web, db]) await again(version)
      await whole(luod, 'web', web)
      await whole(luod, 'db', db)
      expect(await outcomesOf(luod, first.request)).toEqual({ web: 'rolledBack', db: 'rolledBack' })
      for (const { puppet } of [first.newWeb, first.newDb]) {
        await eventually(
          () => puppet.alive,
          (alive) => !alive,
          'a new version that went back lives',
        )
      }

      const second = await update(luod, `second ${mode}`, { web, db })
      second.commit(second.newDb)
      expect((await second.claims.web).files).toHaveLength(1)
      second.commit(second.newWeb)
      await db.puppet.event('release')
      await replace(luod, mode)
      for (const version of [web, db, second.newDb]) await again(version)
      // What was asked for is asked again, and heard of again.
      const committed = second.commit(second.newDb)
      await second.release(db)
      expect(await committed).toEqual({ released: 'word' })
      await whole(luod, 'web', web)
      await whole(luod, 'db', second.newDb)
      expect(await outcomesOf(luod, second.request)).toEqual({ web: 'rolledBack', db: 'committed' })

      db = second.newDb
    }
    expect(luod.log).toEqual([])
  })
})

test.each(MODES)('after %s huge pages are the same, and those that were added are given back', async (_, mode) => {
  using kit = new Kit()
  await using luod = await Replaceable.start()
  withHugePages(kit, 1)
  const huge = (pages: number) => {
    const fd = kit.own(Fd.adopt(checked('make huge memory', 'memfd_create', 'huge', HUGETLB)))
    truncate(fd, pages * HUGE_PAGE_BYTES)
    return fd
  }
  const full = huge(1)
  withPage(full, 0, (bytes) => bytes.fill(7))
  const session = await keep(luod, 'huge', 60 * S, [full])
  const before = poolCount('nr')
  const sparse = huge(poolCount('free') - poolCount('resv') + 2)
  await keep(luod, 'sparse', 60 * S, [sparse])
  const added = poolCount('nr') - before
  expect(added).toBeGreaterThan(0)

  for (let count = 0; count < 2; count++) await replace(luod, mode)
  expect(poolCount('nr') - before).toBe(added)
  const client = await luod.stage.client()
  const { fds } = await client.call('Retrieve', { session, offset: 0 })
  for (const fd of fds) {
    expect(withPage(fd, 0, (bytes) => new Set(bytes))).toEqual(new Set([7]))
    fd.close()
  }
  expect(fds).toHaveLength(1)
  await client.call('ReleaseSession', { id: 'end', name: 'sparse', force: true })
  sparse.close()
  // Also if it is another luod that lets go of the last.
  await replace(luod, mode)
  await (await luod.stage.client()).call('ReleaseSession', { id: 'end all', name: 'huge', force: true })
  expect(poolCount('nr')).toBe(before)
  expect(luod.log).toEqual([])
})
