/** Sessions beside those of workloads: who holds them, what ends them, and what an update does with them. */
import { describe, expect, test } from 'vitest'
import { add, adopt, all, becomes, id, leavesNothing, type MakeOptions, make, named, pass } from './session-steps.js'
import { eventually, failure, NOBODY, Stage } from './stage.js'

const isRoot = process.getuid?.() === 0

describe('the life of a session', () => {
  test('is that of its descriptor, and a closed one is gone for the next request', () =>
    leavesNothing(async (stage) => {
      const puppet = await stage.puppet()
      const session = await make(puppet, 'cache', { files: 2 })
      expect(await all(stage)).toMatchObject([
        { session, name: 'cache', custody: 'held', files: 2, bytes: '8192', keep_ms: 0, pid: puppet.pid },
      ])
      expect(await failure(make(puppet, 'cache'))).toBe('EEXIST')
      for (let round = 0; round < 20; round++) {
        await puppet.do('close', { name: 'cache' })
        await make(puppet, 'cache')
      }
    }))

  test('goes on in a process that was passed its descriptor, when the first one is killed', () =>
    leavesNothing(async (stage) => {
      const [first, second] = [await stage.puppet(), await stage.puppet()]
      const session = await make(first, 'cache')
      await pass(first, 'cache', second, 'passed')
      const { session: adopted, fds } = await second.call('AdoptSession', { id: id(), fds: 1 }, { send: ['passed'] })
      expect(adopted).toMatchObject({ session, name: 'cache', custody: 'held', pid: second.pid })
      expect(fds).toBeUndefined()
      first.kill()
      await eventually(
        () => first.alive,
        (alive) => !alive,
        'it lives',
      )
      await add(second, session, '7')
      expect(await named(stage, 'cache')).toMatchObject({ custody: 'held', files: 2 })
      await second.do('close', { name: 'passed' })
      expect(await named(stage, 'cache')).toBeUndefined()
    }))

  test('goes on while a copy is under way to nobody yet', () =>
    leavesNothing(async (stage) => {
      const puppet = await stage.puppet()
      await make(puppet, 'cache')
      await puppet.do('enqueue', { name: 'cache', into: 'queue' })
      await puppet.do('close', { name: 'cache' })
      expect(await named(stage, 'cache')).toMatchObject({ custody: 'held' })
      await puppet.do('dequeue', { from: 'queue', name: 'back' })
      expect(await named(stage, 'cache')).toMatchObject({ custody: 'held' })
      await puppet.do('close', { name: 'back' })
      expect(await named(stage, 'cache')).toBeUndefined()
    }))

  test('to be kept, waits for another process, which takes it over with its files', () =>
    leavesNothing(async (stage) => {
      const [first, second] = [await stage.puppet(), await stage.puppet()]
      const session = await make(first, 'cache', { files: 3, keep_ms: 60_000 })
      expect(await failure(adopt(second, 'cache'))).toBe('EBUSY')
      first.kill()
      await becomes(stage, 'cache', 'orphaned')
      const expires = (await named(stage, 'cache'))?.expires_ms ?? 0
      expect(expires).toBeGreaterThan(50_000)
      expect(expires).toBeLessThanOrEqual(60_000)
      expect(await failure(add(second, session, '9'))).toBe('EBUSY')
      expect((await adopt(second, 'cache')).session).toMatchObject({ session, custody: 'held', files: 3 })
      expect(await named(stage, 'cache')).toMatchObject({ pid: second.pid, custody: 'held' })
      expect((await named(stage, 'cache'))?.expires_ms).toBeUndefined()
      const { files } = await second.call('Retrieve', { session, offset: 0 }, { keep: ['a', 'b', 'c'] })
      expect(files.map(({ token, kind }) => `${token} ${kind}`)).toEqual(['0 memfd', '1 memfd', '2 memfd'])
      await second.do('close', { name: 'cache' })
      await becomes(stage, 'cache', 'orphaned')
      expect(await stage.call('ReleaseSession', { id: id(), session })).toEqual({ files: 3 })
    }))

  test('to be kept, ends when its time is over, and at once without a file', () =>
    leavesNothing(async (stage) => {
      const puppet = await stage.puppet()
      await make(puppet, 'full', { keep_ms: 300 })
      await make(puppet, 'empty', { keep_ms: 60_000, files: 0 })
      await puppet.do('close', { name: 'full' })
      await puppet.do('close', { name: 'empty' })
      expect(await all(stage)).toMatchObject([{ name: 'full', custody: 'orphaned' }])
      await becomes(stage, 'full', 'gone')
    }))

  test('ends by hand: what waits at once, what is held if it is forced', () =>
    leavesNothing(async (stage) => {
      const puppet = await stage.puppet()
      const session = await make(puppet, 'cache', { files: 2 })
      const release = (more: object) => puppet.call('ReleaseSession', { id: id(), ...more })
      expect(await failure(release({ session }))).toBe('EBUSY')
      expect(await failure(release({ session, name: 'cache' }))).toBe('LUO_INVALID_PARAMETER')
      expect(await failure(release({}))).toBe('LUO_INVALID_PARAMETER')
      expect(await failure(release({ name: 'other' }))).toBe('LUO_NOT_FOUND')
      expect(await release({ name: 'cache', force: true })).toEqual({ files: 2 })
      expect(await failure(puppet.call('Files', { session }))).toBe('LUO_NOT_FOUND')
      const stale = puppet.call('AdoptSession', { id: id(), fds: 1 }, { send: ['cache'] })
      expect(await failure(stale)).toBe('LUO_NOT_FOUND')
    }))
})

describe('an update', () => {
  async function running(stage: Stage, more: MakeOptions = {}) {
    const old = await stage.supervised('web')
    const { member } = await old.join('web')
    const session = await make(old, 'cache', { member, ...more })
    await old.call('Commit', { id: id(), member })
    return { old, member, session }
  }

  /** Up to the successor, which has joined. */
  async function updating(stage: Stage, more: MakeOptions = {}) {
    const first = await running(stage, more)
    const result = stage.call('Update', { id: id(), workload: 'web' })
    result.catch(() => {})
    const successor = await stage.nextPuppet()
    const joined = await successor.join('web')
    return { ...first, successor, next: joined.member, result }
  }

  /** Up to the restoring successor. */
  async function frozen(stage: Stage, more: MakeOptions = {}) {
    const update = await updating(stage, more)
    const claim = update.successor.call('Claim', { id: id(), member: update.next })
    const { update: which = '' } = await update.old.event('prepare')
    await update.old.call('Ready', { id: id(), member: update.member, update: which })
    return { ...update, which, claimed: await claim }
  }

  /** The rest of it. */
  async function commit({ old, member, successor, next, which, result }: Awaited<ReturnType<typeof frozen>>) {
    const committed = successor.call('Commit', { id: id(), member: next })
    await old.event('release')
    await old.call('Released', { id: id(), member, update: which })
    await committed
    expect((await result).outcome).toBe('committed')
  }

  test('hands every session over; the new version adopts before or after its commit, or never', () =>
    leavesNothing(async (stage) => {
      const update = await updating(stage)
      const { old, member, successor, next } = update
      for (const name of ['early', 'late', 'never']) await make(old, name, { member })
      const claim = successor.call('Claim', { id: id(), member: next })
      const { update: which = '' } = await old.event('prepare')
      await old.call('Ready', { id: id(), member, update: which })
      const claimed = await claim
      expect(claimed.sessions.map(({ name }) => name)).toEqual(['web', 'cache', 'early', 'late', 'never'])
      expect(claimed.sessions.map(({ custody }) => custody)).toEqual(Array(5).fill('frozen'))
      expect(claimed.total).toBe(0)
      await adopt(successor, 'early', { member: next })
      expect(await failure(adopt(successor, 'early', { member: next }))).toBe('LUO_UPDATING')
      expect(await failure(adopt(old, 'late', { member }))).toBe('LUO_UPDATING')
      expect(await failure(adopt(old, 'late'))).toBe('LUO_UPDATING')
      await commit({ ...update, which, claimed })
      old.kill()
      expect((await all(stage)).map(({ custody }) => custody)).toEqual(Array(5).fill('held'))
      await adopt(successor, 'late', { member: next })
      expect(await failure(adopt(successor, 'late', { member: next }))).toBe('EBUSY')
      for (const name of ['early', 'late']) await successor.do('close', { name })
      expect((await all(stage)).map(({ name }) => name)).toEqual(['web', 'cache', 'never'])
      // What was never adopted can be used, and ends with the workload.
      const { files } = await successor.call('Retrieve', { session: claimed.sessions[4]?.session ?? '', offset: 0 })
      expect(files).toHaveLength(1)
    }))

  test.each(['before it', 'while it is frozen', 'while it is given over'])(
    'that commits has its say about a descriptor closed by the old version %s',
    (when) =>
      leavesNothing(async (stage) => {
        const update = await updating(stage)
        const { old, member, successor, next } = update
        if (when === 'before it') await old.do('close', { name: 'cache' })
        const claim = successor.call('Claim', { id: id(), member: next })
        const { update: which = '' } = await old.event('prepare')
        await old.call('Ready', { id: id(), member, update: which })
        const claimed = await claim
        if (when === 'while it is frozen') await old.do('close', { name: 'cache' })
        const committed = successor.call('Commit', { id: id(), member: next })
        await old.event('release')
        if (when === 'while it is given over') await old.do('close', { name: 'cache' })
        await old.call('Released', { id: id(), member, update: which })
        await committed
        expect((await named(stage, 'cache'))?.custody).toBe(when === 'before it' ? undefined : 'held')
        expect(claimed.sessions).toHaveLength(when === 'before it' ? 1 : 2)
      }),
  )

  test.each([
    ['held by the old version', {}, 'held'],
    ['closed meanwhile', {}, 'gone'],
    ['closed meanwhile, to be kept', { keep_ms: 60_000 }, 'orphaned'],
  ] as const)('that is rolled back leaves a session %s as if there had been none', (what, options, custody) =>
    leavesNothing(async (stage) => {
      const { old, member, session, successor, next, result } = await frozen(stage, options)
      await adopt(successor, 'cache', { member: next })
      await make(successor, 'made by the new version', { member: next })
      if (what !== 'held by the old version') await old.do('close', { name: 'cache' })
      expect((await named(stage, 'cache'))?.custody).toBe('frozen')
      expect(await failure(stage.call('ReleaseSession', { id: id(), session, force: true }))).toBe('LUO_UPDATING')
      expect(await failure(make(old, 'too late', { member }))).toBe('LUO_UPDATING')
      successor.kill()
      expect((await result).outcome).toBe('rolledBack')
      await becomes(stage, 'cache', custody)
      expect(await named(stage, 'made by the new version')).toBeUndefined()
      if (custody === 'held') await add(old, session, '9')
      if (custody === 'orphaned') await adopt(old, 'cache', { member })
    }),
  )

  test('keeps what the new version made and what it adopted, and drops what it closed again', () =>
    leavesNothing(async (stage) => {
      const update = await frozen(stage)
      const { successor, next } = update
      await make(successor, 'made', { member: next })
      await adopt(successor, 'cache', { member: next })
      await successor.do('close', { name: 'cache' })
      expect((await named(stage, 'cache'))?.custody).toBe('frozen')
      await commit(update)
      expect((await all(stage)).map(({ name }) => name)).toEqual(['web', 'made'])
    }))

  test('that ends with nobody left lets all sessions wait together, for a restart that gets them all', () =>
    leavesNothing(async (stage) => {
      const { old, successor, result } = await frozen(stage)
      old.kill()
      // Else luod may hear of the successor first, and give the state back to one that is about to end.
      await eventually(
        () => old.alive,
        (alive) => !alive,
        'it lives',
      )
      successor.kill()
      expect((await result).outcome).toBe('orphaned')
      await becomes(stage, 'cache', 'orphaned')
      expect(await failure(adopt(await stage.puppet(), 'cache'))).toBe('LUO_WRONG_STATE')
      const heir = await stage.puppet()
      const { member, origin } = await heir.join('web')
      expect(origin).toBe('crash')
      const { sessions } = await heir.call('Claim', { id: id(), member })
      expect(sessions).toMatchObject([{ name: 'web' }, { name: 'cache', files: 1, custody: 'frozen' }])
      await heir.call('Commit', { id: id(), member })
      await adopt(heir, 'cache', { member })
      expect(await named(stage, 'cache')).toMatchObject({ custody: 'held', pid: heir.pid })
    }))

  test('checks the formats of every session before the old version is asked', () =>
    leavesNothing(async (stage) => {
      const { old, session } = await running(stage)
      await old.do('memfd', { name: 'new format', size: 1 })
      const files = [{ token: '5', fd: 0, format: 'cache/9' }]
      await old.call('Preserve', { id: id(), session, files, fds: 1 }, { send: ['new format'] })
      const result = stage.call('Update', { id: id(), workload: 'web' })
      void (await stage.nextPuppet()).join('web', ['cache/8'])
      const { timeline } = await result
      expect(timeline?.find(({ code }) => code)?.code).toBe('LUO_STATE_VERSION')
      expect(old.events).toEqual([])
    }))
})

test('a kept workload that is killed while its successor starts waits with all its sessions', () =>
  leavesNothing(async (stage) => {
    const names = ['web', 'one', 'two', 'three']
    const old = await stage.supervised('web', ['--keep', '60s'])
    const { member, session } = await old.join('web')
    await add(old, session, '1')
    for (const name of names.slice(1)) await make(old, name, { member })
    await old.call('Commit', { id: id(), member })
    const result = stage.call('Update', { id: id(), workload: 'web' })
    await (await stage.nextPuppet()).join('web')
    // Its descriptors are closed one after the other, and luod waits for the end of the update.
    old.kill()
    expect((await result).outcome).toBe('orphaned')
    expect((await all(stage)).map(({ name, custody }) => `${name} ${custody}`)).toEqual(
      names.map((name) => `${name} orphaned`),
    )
    await stage.call('ReleaseSession', { id: id(), name: 'web' })
  }))

test("a workload's session ends with the workload, whoever has its descriptor", () =>
  leavesNothing(async (stage) => {
    const [member, other] = [await stage.puppet(), await stage.puppet()]
    const joined = await member.join('web')
    await make(member, 'cache', { member: joined.member, keep_ms: 60_000 })
    await pass(member, 'cache', other, 'passed')
    await member.do('close', { name: 'cache' })
    expect((await named(stage, 'cache'))?.custody).toBe('held')
    await member.do('close', { name: 'session' })
    expect(await all(stage)).toEqual([])
  }))

test("names are in one space for each user, workloads' own sessions included", () =>
  leavesNothing(async (stage) => {
    const puppet = await stage.puppet()
    await make(puppet, 'web')
    expect(await failure(puppet.join('web'))).toBe('EEXIST')
    expect((await stage.call('List', {})).workloads).toEqual([])
    const { member, session } = await puppet.call(
      'Join',
      { id: id(), workload: 'api', accepts: [] },
      { keep: ['session'] },
    )
    expect(await failure(make(puppet, 'api'))).toBe('EEXIST')
    // The session of a workload that runs is ended with that, and by nothing else.
    expect(await failure(puppet.call('ReleaseSession', { id: id(), session, force: true }))).toBe('EBUSY')
    expect(await failure(adopt(puppet, 'api', { member }))).toBe('LUO_WRONG_STATE')
    const own = await puppet.call('AdoptSession', { id: id(), fds: 1 }, { send: ['session'] })
    expect(own.session).toMatchObject({ session, workload: 'api' })
    const name = (text: string) => failure(puppet.call('CreateSession', { id: id(), name: text }))
    expect(await Promise.all(['', 'x'.repeat(64), 'a\0b'].map(name))).toEqual(['EINVAL', 'EINVAL', 'EINVAL'])
    const keep = puppet.call('CreateSession', { id: id(), name: 'k', keep_ms: -1 })
    expect(await failure(keep)).toBe('LUO_INVALID_PARAMETER')
  }))

test('the same request again gets another descriptor, in place of the one before', () =>
  leavesNothing(async (stage) => {
    const puppet = await stage.puppet()
    const request = { id: id(), name: 'cache' }
    const first = await puppet.call('CreateSession', request, { keep: ['lost'] })
    expect(await puppet.call('CreateSession', request, { keep: ['cache'] })).toEqual(first)
    expect(await all(stage)).toHaveLength(1)
    // What was replaced ends nothing, and is no descriptor of a session any more.
    expect(await failure(puppet.call('AdoptSession', { id: id(), fds: 1 }, { send: ['lost'] }))).toBe('LUO_NOT_FOUND')
    await puppet.do('close', { name: 'lost' })
    expect(await all(stage)).toHaveLength(1)
    const which = { id: id(), fds: 1 }
    await puppet.call('AdoptSession', which, { send: ['cache'] })
    expect((await puppet.call('AdoptSession', which, { send: ['cache'] })).session.name).toBe('cache')
  }))

test('a file that is no descriptor of a session, and one that came for another request, adopt nothing', () =>
  leavesNothing(async (stage) => {
    const puppet = await stage.puppet()
    await puppet.do('memfd', { name: 'memory', size: 1 })
    await puppet.do('pair', { name: 'socket' })
    await make(puppet, 'cache')
    const attempt = (send: string[], more: object = {}) =>
      failure(puppet.call('AdoptSession', { id: id(), fds: send.length, ...more }, { send }))
    expect(await attempt(['memory'])).toBe('LUO_NOT_FOUND')
    expect(await attempt(['socket'])).toBe('LUO_NOT_FOUND')
    expect(await attempt([])).toBe('LUO_INVALID_PARAMETER')
    expect(await attempt(['cache'], { name: 'cache' })).toBe('LUO_INVALID_PARAMETER')
    // Nor can a session hold itself.
    const { session = '' } = (await named(stage, 'cache')) ?? {}
    const files = [{ token: '1', fd: 0 }]
    const itself = puppet.call('Preserve', { id: id(), session, files, fds: 1 }, { send: ['cache'] })
    expect(await failure(itself)).toBe('ENOENT')
  }))

test('a private luod stays for a session that waits', async () => {
  const { stage, release } = await Stage.startPrivate()
  await using _ = stage
  const puppet = await stage.puppet()
  await make(puppet, 'cache', { keep_ms: 2_000 })
  puppet.kill()
  release()
  await becomes(stage, 'cache', 'orphaned')
  await eventually(
    () => stage.luod.exitCode,
    (code) => code === 0,
    'luod does not end',
  )
})

test.runIf(isRoot)('another user sees nothing of a session, and can do nothing to it', () =>
  leavesNothing(async (stage) => {
    const [owner, other] = [await stage.puppet(), await stage.puppet({ uid: NOBODY })]
    const { member } = await owner.join('web')
    const session = await make(owner, 'cache', { member, keep_ms: 60_000 })
    await pass(owner, 'cache', other, 'passed')
    expect(await other.call('Sessions', {})).toEqual({ sessions: [], total: 0 })
    const attempts: [string, () => Promise<unknown>][] = [
      ['Files', () => other.call('Files', { session })],
      ['Retrieve', () => other.call('Retrieve', { session, offset: 0 })],
      ['Preserve', () => other.call('Preserve', { id: id(), session, files: [], fds: 0 })],
      ['Unpreserve', () => other.call('Unpreserve', { id: id(), session, tokens: ['0'] })],
      ['Release by id', () => other.call('ReleaseSession', { id: id(), session, force: true })],
      ['Release by name', () => other.call('ReleaseSession', { id: id(), name: 'cache', force: true })],
      ['Adopt by id', () => other.call('AdoptSession', { id: id(), session })],
      ['Adopt by name', () => other.call('AdoptSession', { id: id(), name: 'cache' })],
      ['Adopt for a member', () => other.call('AdoptSession', { id: id(), name: 'cache', member })],
      ['Adopt by a descriptor', () => other.call('AdoptSession', { id: id(), fds: 1 }, { send: ['passed'] })],
      ['Create for a member', () => other.call('CreateSession', { id: id(), name: 'mine', member })],
    ]
    for (const [name, attempt] of attempts) expect([name, await failure(attempt())]).toEqual([name, 'LUO_NOT_FOUND'])
    // The same name is another session, and root sees both, with whose they are.
    await make(other, 'cache')
    const seen = (await all(stage)).filter(({ name }) => name === 'cache').map(({ uid }) => uid)
    expect(seen.sort()).toEqual([0, NOBODY])
  }),
)
