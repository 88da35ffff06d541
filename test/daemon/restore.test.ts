/** luod dies, another one is built from its records and descriptors, and nobody notices but by the lost connection. */
import { describe, expect, test } from 'vitest'
import { decodeRecords } from '../../src/abi/records.js'
import { checkRecords } from '../../src/abi/records-check.js'
import type { Fd } from '../../src/sys/fd.js'
import { createMemfd, fileSize, readAt, writeAt } from '../../src/sys/memfd.js'
import { Replaceable } from './replaced.js'
import { eventually, NOBODY, type Puppet } from './stage.js'

const TOKEN = { token: '1', fd: 0, format: 'store/1' }

/** Its connections are lost: it makes them again, and listens again. */
async function again(puppet: Puppet, member: string): Promise<unknown> {
  await puppet.do('disconnect', { on: 'control' })
  await puppet.do('disconnect', { on: 'events' })
  return puppet.do('stream', { on: 'events', method: 'Subscribe', input: { member } })
}

async function running(luod: Replaceable, name = 'web', args: string[] = []) {
  const old = await luod.stage.supervised(name, args)
  const { member, session } = await old.join(name)
  await old.do('memfd', { name: 'store', size: 4096 })
  await old.call('Preserve', { id: `keep-${old.pid}`, session, files: [TOKEN], fds: 1 }, { send: ['store'] })
  await old.call('Commit', { id: `first-${old.pid}`, member })
  return { old, member, session }
}

/** Until its supervisor is there again. */
function supervised(luod: Replaceable, name = 'web') {
  return eventually(
    () => luod.stage.call('Show', { workload: name }),
    ({ workload }) => workload.supervised && (luod.daemon.counts().connections ?? 0) > 0,
    'no supervisor',
  )
}

describe('at rest', () => {
  test('everything is there as before, of every user, and goes on', async () => {
    await using luod = await Replaceable.start()
    const { stage } = luod
    const { old, member, session } = await running(luod, 'web', ['--keep', '60s'])
    const nobody = await stage.puppet({ uid: NOBODY })
    await nobody.call('CreateSession', { id: 'c', name: 'mine', keep_ms: 60_000 }, { keep: ['mine'] })
    await nobody.call('CreateSession', { id: 'd', name: 'other' }, { keep: ['other'] })
    const { sessions } = await stage.call('Sessions', {})
    const mine = sessions.find(({ name }) => name === 'mine')?.session ?? ''
    await nobody.do('memfd', { name: 'a', size: 100 })
    await nobody.call('Preserve', { id: 'p', session: mine, files: [{ token: '7', fd: 0 }], fds: 1 }, { send: ['a'] })
    await nobody.do('close', { name: 'mine' })
    const before = await eventually(
      () => luod.view(),
      (view) => view.sessions.some(({ custody }) => custody === 'orphaned'),
      'no orphan',
    )
    expect(await luod.replace()).toEqual([])
    expect(await luod.view()).toEqual(before)
    // Who lives goes on with what it has; what was answered is answered the same.
    await old.do('disconnect', { on: 'control' })
    expect(await old.call('Commit', { id: `first-${old.pid}`, member })).toEqual({ released: 'none' })
    await old.do('memfd', { name: 'more', size: 10 })
    await old.call('Preserve', { id: 'more', session, files: [{ token: '2', fd: 0 }], fds: 1 }, { send: ['more'] })
    await nobody.do('disconnect', { on: 'control' })
    await nobody.call('AdoptSession', { id: 'adopt', name: 'mine' }, { keep: ['mine'] })
    // A new session has an id that nobody had.
    const { session: fresh } = await nobody.call('CreateSession', { id: 'e', name: 'e' }, { keep: ['e'] })
    expect(sessions.map(({ session: id }) => id)).not.toContain(fresh.session)
    // A session descriptor of the luod before is no file to keep.
    await expect(
      old.call('Preserve', { id: 'own', session, files: [{ token: '3', fd: 0 }], fds: 1 }, { send: ['session'] }),
    ).rejects.toThrow(/own sockets/)
    nobody.kill()
    await eventually(
      () => stage.call('Sessions', {}),
      ({ sessions: left }) =>
        left
          .map(({ name }) => name)
          .sort()
          .join() === 'mine,web',
      'what the dead held is there',
    )
    old.kill()
    await eventually(
      () => stage.call('List', {}),
      ({ workloads }) => workloads[0]?.state === 'orphaned',
      'no orphan',
    )
    expect(await luod.replace()).toEqual([])
    expect(luod.log).toEqual([])
  })

  test('who has ended while no luod looked has ended', async () => {
    await using luod = await Replaceable.start()
    const { old } = await running(luod, 'web', ['--keep', '60s'])
    luod.daemon.pause()
    old.kill()
    await eventually(
      () => old.alive,
      (alive) => !alive,
      'it lives',
    )
    await luod.replace()
    const { workloads } = await eventually(
      () => luod.stage.call('List', {}),
      ({ workloads: [web] }) => web?.state === 'orphaned',
      'its end was not seen',
    )
    expect(workloads[0]).toMatchObject({ files: 1 })
    // It comes back, and gets what was kept.
    const restarted = await luod.stage.puppet()
    const joined = await restarted.join('web')
    expect(joined.origin).toBe('crash')
    await luod.replace()
    await again(restarted, joined.member)
    const claimed = await restarted.call('Claim', { id: 'claim', member: joined.member }, { keep: ['store'] })
    expect(claimed.files).toHaveLength(1)
    await luod.replace()
    await again(restarted, joined.member)
    expect(await restarted.call('Commit', { id: 'done', member: joined.member })).toEqual({ released: 'none' })
    expect((await luod.stage.call('List', {})).workloads[0]).toMatchObject({ state: 'running', pid: restarted.pid })
  })

  test('what changes after it was built ahead is there too', async () => {
    await using luod = await Replaceable.start()
    const { stage } = luod
    const { old, session } = await running(luod, 'web', ['--keep', '60s'])
    await old.call('CreateSession', { id: 'c', name: 'c', keep_ms: 60_000 }, { keep: ['c'] })
    await old.do('memfd', { name: 'one', size: 10 })
    await old.do('memfd', { name: 'two', size: 20 })
    const keep = (id: string, token: string, name: string, of = session) =>
      old.call('Preserve', { id, session: of, files: [{ token, fd: 0 }], fds: 1 }, { send: [name] })
    await keep('p1', '11', 'one')
    luod.copies.look()
    luod.copies.stop()
    // A record of every kind is another one, is there no more, or is new.
    await old.call('Unpreserve', { id: 'u', session, tokens: ['1', '11'] })
    await keep('p2', '1', 'one')
    const { sessions } = await stage.call('Sessions', {})
    await keep('p3', '1', 'two', sessions.find(({ name }) => name === 'c')?.session ?? '')
    await old.call('CreateSession', { id: 'd', name: 'd' }, { keep: ['d'] })
    await old.do('close', { name: 'c' })
    const other = await running(luod, 'other')
    const asked = stage.call('Update', { id: 'update', workload: 'other' })
    const successor = await stage.nextPuppet()
    const { member } = await successor.join('other')
    const claim = successor.call('Claim', { id: 'claim', member })
    const { update = '' } = await other.old.event('prepare')
    await other.old.call('Ready', { id: 'ready', member: other.member, update })
    await claim
    const commit = successor.call('Commit', { id: 'commit', member })
    await other.old.event('release')
    await other.old.call('Released', { id: 'released', member: other.member, update })
    await commit
    await asked
    const before = await eventually(
      () => luod.view(),
      (view) => view.sessions.some(({ custody }) => custody === 'orphaned'),
      'no orphan',
    )
    expect(await luod.replace()).toEqual([])
    expect(await luod.view()).toEqual(before)
    await old.do('disconnect', { on: 'control' })
    expect(await keep('p2', '1', 'one')).toEqual({})
    await expect(keep('p4', '2', 'one')).rejects.toThrow(/is at token 1/)
    expect(luod.log).toEqual([])
  })

  test('paused it does nothing, and then all of it', async () => {
    await using luod = await Replaceable.start()
    const client = await luod.stage.client()
    const { fds } = await client.call('CreateSession', { id: 'a', name: 'a' })
    const before = await luod.view()
    luod.daemon.pause()
    for (const fd of fds) fd.close()
    const asked = client.call('Sessions', {})
    await new Promise((resolve) => setTimeout(resolve, 50))
    luod.daemon.resume()
    expect((await asked).parameters.sessions).toEqual([])
    expect(before.sessions).toHaveLength(1)
  })
})

describe('an update', () => {
  /** Replaces luod when the update has come to a point, and goes on from there. */
  const POINTS = ['starting', 'joined', 'preparing', 'restoring', 'commitAsked', 'committed'] as const

  test.each(POINTS)('goes on when luod is replaced at: %s', async (point) => {
    await using luod = await Replaceable.start()
    const { stage } = luod
    const { old, member } = await running(luod)
    const asked = await stage.client()
    const request = { id: 'update', workload: 'web', deadline_ms: 20_000 }
    asked.call('Update', request).catch(() => {})
    const successor = await stage.nextPuppet()
    let joined: Awaited<ReturnType<Puppet['join']>> | undefined
    const cut = async (here: (typeof POINTS)[number]) => {
      if (here !== point) return
      expect(await luod.replace()).toEqual([])
      if (here !== 'committed') await again(old, member)
      if (joined) await again(successor, joined.member)
      await supervised(luod)
    }
    await cut('starting')
    joined = await successor.join('web')
    const { member: id } = joined
    await cut('joined')
    const claim = { id: 'claim', member: id }
    let state = successor.call('Claim', claim, { keep: ['store'] })
    state.catch(() => {})
    const { update = '' } = await old.event('prepare')
    await cut('preparing')
    if (point === 'preparing') state = successor.call('Claim', claim, { keep: ['store'] })
    await old.call('Ready', { id: 'ready', member, update })
    expect((await state).files).toHaveLength(1)
    await cut('restoring')
    if (point === 'restoring') {
      expect(await old.call('Ready', { id: 'ready', member, update })).toEqual({})
      expect((await successor.call('Claim', claim, { keep: ['again'] })).files).toHaveLength(1)
    }
    const commit = { id: 'commit', member: id }
    let whole = successor.call('Commit', commit)
    whole.catch(() => {})
    await old.event('release')
    await cut('commitAsked')
    if (point === 'commitAsked') whole = successor.call('Commit', commit)
    await old.call('Released', { id: 'released', member, update })
    expect(await whole).toEqual({ released: 'word' })
    await cut('committed')
    expect(await successor.call('Commit', commit)).toEqual({ released: 'word' })
    // Whoever had asked for it asks again, and hears the same.
    const { outcome, timeline } = await stage.call('Update', request)
    expect(outcome).toBe('committed')
    expect(timeline?.map(({ phase }) => phase)).toEqual([
      ...['starting', 'joined', 'preparing', 'restoring', 'committing', 'committed'],
    ])
    expect((await stage.call('List', {})).workloads[0]).toMatchObject({ pid: successor.pid, generation: 2, files: 1 })
    expect(luod.log).toEqual([])
  })

  test('that is over is known to whoever asks again, and its end is in the history', async () => {
    await using luod = await Replaceable.start()
    const { old, member } = await running(luod)
    const request = { id: 'update', workload: 'web', deadline_ms: 20_000 }
    const first = luod.stage.call('Update', request)
    const successor = await luod.stage.nextPuppet()
    const joined = await successor.join('web')
    const claim = successor.call('Claim', { id: 'claim', member: joined.member })
    claim.catch(() => {})
    const { update = '' } = await old.event('prepare')
    await old.call('Refuse', { id: 'no', member, update, reason: 'not now' })
    const result = await first
    expect(result.outcome).toBe('rolledBack')
    const before = await luod.view()
    await luod.replace()
    expect(await luod.view()).toEqual(before)
    expect(await luod.stage.call('Update', request)).toEqual(result)
  })

  test('ends when its old version does not come back, and its successor is dead', async () => {
    await using luod = await Replaceable.start()
    await running(luod)
    luod.stage.call('Update', { id: 'update', workload: 'web', deadline_ms: 6_000 }).catch(() => {})
    const successor = await luod.stage.nextPuppet()
    const joined = await successor.join('web')
    successor.call('Claim', { id: 'claim', member: joined.member }).catch(() => {})
    await eventually(
      () => luod.stage.call('List', {}),
      ({ workloads: [web] }) => web?.state === 'updating',
      'no update',
    )
    await luod.replace()
    const { workloads } = await eventually(
      () => luod.stage.call('List', {}),
      ({ workloads: [web] }) => web?.state === 'running',
      'it goes on',
    )
    expect(workloads[0]).toMatchObject({ files: 1, generation: 1 })
    // It is killed; its supervisor sees that a moment later.
    await eventually(
      () => successor.alive,
      (alive) => !alive,
      'its successor lives',
    )
  })
})

describe('the vault', () => {
  test('has a descriptor for every record, at every moment', async () => {
    await using luod = await Replaceable.start()
    const has = new Set<string>()
    const wrong: unknown[] = []
    const kinds = new Set<string>()
    const check = () => {
      const file = luod.daemon.vault.entries().get('records')
      if (!file) return
      const bytes = new Uint8Array(fileSize(file))
      readAt(file, bytes, 0)
      const findings = checkRecords(decodeRecords(bytes).entries, (key) => has.has(key))
      if (findings.length > 0) wrong.push(findings)
    }
    let first = true
    luod.daemon.vault.addSink({
      put: (entries) => {
        // Put before the records say so: what was there is still whole.
        if (!first) check()
        first = false
        for (const { key } of entries) {
          has.add(key)
          kinds.add(key.split('/')[0] ?? '')
        }
      },
      remove: (keys) => {
        for (const key of keys) has.delete(key)
        // Removed when the records do not say so any more.
        check()
      },
    })
    const { old, member, session } = await running(luod)
    const client = await luod.stage.client()
    const made = await client.call('CreateSession', { id: 'c', name: 'c' })
    for (const fd of made.fds) fd.close()
    const asked = luod.stage.call('Update', { id: 'u', workload: 'web' })
    const successor = await luod.stage.nextPuppet()
    const joined = await successor.join('web')
    const claim = successor.call('Claim', { id: 'claim', member: joined.member })
    const { update = '' } = await old.event('prepare')
    await old.do('memfd', { name: 'last', size: 1 })
    const files = [{ token: '9', fd: 0 }]
    await old.call('Ready', { id: 'ready', member, update, files, fds: 1 }, { send: ['last'] })
    await claim
    const whole = successor.call('Commit', { id: 'commit', member: joined.member })
    await old.event('release')
    await old.call('Released', { id: 'released', member, update })
    await whole
    await asked
    await successor.call('Unpreserve', { id: 'less', session, tokens: ['9'] })
    successor.kill()
    await eventually(
      () => luod.stage.call('Sessions', {}),
      ({ sessions }) => sessions.length === 0,
      'the session does not end',
    )
    check()
    expect(wrong).toEqual([])
    expect([...kinds].sort()).toEqual(['file', 'lifetime', 'listener', 'pidfd', 'records', 'target', 'ticket'])
  })
})

describe('damage', () => {
  const lose = (kind: string) => (fds: Map<string, Fd>) => {
    const key = [...fds.keys()].find((name) => name.startsWith(kind)) ?? ''
    fds.get(key)?.close()
    fds.delete(key)
  }
  const swap = (kind: string) => (fds: Map<string, Fd>) => {
    const key = [...fds.keys()].find((name) => name.startsWith(kind)) ?? ''
    fds.get(key)?.close()
    fds.set(key, createMemfd('other'))
  }

  test.each([
    ['a file is missing', lose('file'), { files: 0, state: 'running' }],
    ['a lifetime is of another kind', swap('lifetime'), undefined],
    ['a pidfd is of another kind', swap('pidfd'), { files: 1, state: 'orphaned' }],
  ] as const)('is refused in strict, and named in recover: %s', async (_what, change, expected) => {
    await using luod = await Replaceable.start()
    await running(luod, 'web', ['--keep', '60s'])
    expect(await luod.refused(change)).toBe('LUO_RECORDS')
    const findings = await luod.replace({ mode: 'recover', change })
    expect(findings.length).toBeGreaterThan(0)
    if (!expected) return
    const { workloads } = await luod.stage.call('List', {})
    expect(workloads[0]).toMatchObject(expected)
    expect(await luod.replace()).toEqual([])
  })

  test('of the bytes of the records is refused in strict; in recover the rest is kept', async () => {
    await using luod = await Replaceable.start()
    const { fds } = await (await luod.stage.client()).call('CreateSession', { id: 'a', name: 'a' })
    const records = luod.copies.fds.get('records')
    if (records) writeAt(records, Uint8Array.of(0xff), 64 + 24)
    expect(await luod.refused(() => {})).toBe('LUO_RECORDS')
    const findings = await luod.replace({ mode: 'recover' })
    expect(findings.map(({ what }) => what)).toContain('records')
    expect((await luod.stage.call('Sessions', {})).sessions.map(({ name }) => name)).toEqual(['a'])
    for (const fd of fds) fd.close()
  })
})
