/** luod against members that do it right and members that do not; each test has a luod and processes of its own. */
import { expect, test } from 'vitest'
import { eventually, failure, type Puppet, Stage } from './stage.js'

const TOKEN = { token: '1', fd: 0, format: 'store/1' }

async function preserve(puppet: Puppet, session: string): Promise<void> {
  await puppet.do('memfd', { name: 'store', size: 4096 })
  await puppet.call('Preserve', { id: `preserve-${puppet.pid}`, session, files: [TOKEN], fds: 1 }, { send: ['store'] })
}

/** A workload whose first version runs, with one preserved file. */
async function running(stage: Stage, name = 'web', args: string[] = []) {
  const old = await stage.supervised(name, args)
  const joined = await old.join(name)
  await preserve(old, joined.session)
  await old.call('Commit', { id: 'first', member: joined.member })
  return { old, ...joined }
}

/** An update under way, up to the successor. */
async function updating(stage: Stage, options: { deadlineMs?: number; check?: 'successor' | 'prepare' } = {}) {
  const first = await running(stage)
  const { deadlineMs = 10_000, check } = options
  const client = await stage.client()
  const request = { id: 'update', workload: 'web', deadline_ms: deadlineMs, ...(check ? { check } : {}) }
  const result = client.call('Update', request).then(({ parameters }) => parameters)
  result.catch(() => {})
  const successor = await stage.nextPuppet()
  return { ...first, successor, result }
}

/** An update in which the old version has let go, and the successor has the state. */
async function frozen(stage: Stage) {
  const { old, member, session, successor, result } = await updating(stage)
  const joined = await successor.join('web')
  const claim = successor.call('Claim', { id: 'claim', member: joined.member })
  const { update = '' } = await old.event('prepare')
  await old.call('Ready', { id: 'ready', member, update })
  await claim
  return { old, session, successor, joined, result }
}

function gone(puppet: Puppet): Promise<boolean> {
  return eventually(
    () => puppet.alive,
    (alive) => !alive,
    `pid ${puppet.pid} lives`,
  )
}

test('a whole update: the successor gets what the old version preserved, and the session goes on', async () => {
  await using stage = await Stage.start()
  const { old, member, successor, result, session } = await updating(stage)
  const joined = await successor.join('web', ['store/1'])
  expect(joined.origin).toBe('update')
  const claim = successor.call('Claim', { id: 'claim', member: joined.member }, { keep: ['store'] })
  const { update = '' } = await old.event('prepare')
  await old.call('Ready', { id: 'ready', member, update })
  expect((await claim).files).toMatchObject([{ token: '1', kind: 'memfd', format: 'store/1' }])
  const commit = successor.call('Commit', { id: 'commit', member: joined.member })
  await old.event('release')
  await old.call('Released', { id: 'released', member, update })
  expect(await commit).toEqual({ released: 'word' })
  const { outcome, timeline, blackout_ms } = await result
  expect(outcome).toBe('committed')
  expect(timeline?.map(({ phase }) => phase)).toEqual([
    'starting',
    'joined',
    'preparing',
    'restoring',
    'committing',
    'committed',
  ])
  expect(blackout_ms).toBeGreaterThan(0)
  const { workload, sessions } = await stage.call('Show', { workload: 'web' })
  expect(workload).toMatchObject({ state: 'running', pid: successor.pid, generation: 2, formats: ['store/1'] })
  expect(sessions[0]?.session).toBe(session)
  expect(await failure(old.call('Ready', { id: 'late', member, update }))).toBe('LUO_NOT_FOUND')
})

test('a successor that does not accept the state is turned away, and the old version is asked nothing', async () => {
  await using stage = await Stage.start()
  const { old, successor, result } = await updating(stage)
  // It is killed before it can read the answer.
  void successor.join('web', ['store/2'])
  const { outcome, timeline } = await result
  expect(outcome).toBe('rolledBack')
  expect(timeline?.find(({ code }) => code)?.code).toBe('LUO_STATE_VERSION')
  expect(old.events).toEqual([])
  await gone(successor)
})

test('a refusal is the outcome, with its reason, and the old version is told to go on', async () => {
  await using stage = await Stage.start()
  const { old, member, successor, result } = await updating(stage)
  const joined = await successor.join('web')
  const claim = failure(successor.call('Claim', { id: 'claim', member: joined.member }))
  const { update = '' } = await old.event('prepare')
  await old.call('Refuse', { id: 'refuse', member, update, reason: 'busy with the books' })
  expect((await old.event('resume')).reason).toBe('busy with the books')
  const { outcome, timeline } = await result
  expect(outcome).toBe('rolledBack')
  expect(timeline?.find(({ reason }) => reason)).toMatchObject({ code: 'LUO_REFUSED', reason: 'busy with the books' })
  await gone(successor)
  void claim
})

test.each(['successor', 'prepare'] as const)('a check (%s) changes nothing, and ends the successor', async (check) => {
  await using stage = await Stage.start()
  const { old, member, successor, result } = await updating(stage, { check })
  const joined = await successor.join('web')
  successor.call('Claim', { id: 'claim', member: joined.member }).catch(() => {})
  if (check === 'prepare') {
    const { update = '' } = await old.event('prepare')
    await old.call('Ready', { id: 'ready', member, update })
    await old.event('resume')
  }
  expect((await result).outcome).toBe('checked')
  if (check === 'successor') expect(old.events).toEqual([])
  expect((await stage.call('Show', { workload: 'web' })).workload).toMatchObject({ state: 'running', pid: old.pid })
})

test('a successor that never joins is killed at the deadline', async () => {
  await using stage = await Stage.start()
  const { successor, result } = await updating(stage, { deadlineMs: 2_000 })
  const { outcome, timeline } = await result
  expect(outcome).toBe('rolledBack')
  expect(timeline?.find(({ code }) => code)?.code).toBe('LUO_DEADLINE')
  await gone(successor)
})

test.each(['rolledBack', 'committed'] as const)(
  'a process that luod hears of when its update has %s',
  async (outcome) => {
    await using stage = await Stage.start()
    let update: string
    if (outcome === 'committed') {
      const { old, joined, successor, result } = await frozen(stage)
      const commit = successor.call('Commit', { id: 'commit', member: joined.member })
      await old.event('release')
      old.kill()
      await commit
      update = (await result).update
    } else {
      const { successor, result } = await updating(stage)
      successor.kill()
      update = (await result).update
    }
    const [late, other] = [await stage.puppet(), await stage.puppet()]
    await other.do('pidfd', { name: 'late', pid: late.pid })
    const spawned = { workload: 'web', pid: late.pid, fds: 1 }
    const never = other.call('Spawned', { ...spawned, id: 'a', update: 'never' }, { send: ['late'] })
    expect(await failure(never)).toBe('LUO_NOT_FOUND')
    expect(late.alive).toBe(true)
    await other.call('Spawned', { ...spawned, id: 'b', update }, { send: ['late'] })
    // What failed is ended: nobody else would do that. What committed runs.
    if (outcome === 'rolledBack') await gone(late)
    else expect(await late.do('memfd', { name: 'any', size: 1 })).toBe(null)
  },
)

test('an operator ends an update, and the old version goes on', async () => {
  await using stage = await Stage.start()
  const { successor, result } = await updating(stage)
  await successor.join('web')
  const { update } = await stage.call('Abort', { id: 'abort', workload: 'web' })
  expect(await result).toMatchObject({ update, outcome: 'rolledBack' })
  await expect(stage.call('Abort', { id: 'again', workload: 'web' })).rejects.toMatchObject({
    code: 'LUO_WRONG_STATE',
    message: `abort web: no update is under way; the last one (${update}) ended without a commit: luoctl history`,
  })
})

test('two updates at once: the second is refused, the same request again follows the first', async () => {
  await using stage = await Stage.start()
  const { successor, result } = await updating(stage)
  expect(await failure(stage.call('Update', { id: 'other', workload: 'web' }))).toBe('LUO_UPDATING')
  const again = stage.call('Update', { id: 'update', workload: 'web', deadline_ms: 10_000 })
  expect(await failure(stage.call('Update', { id: 'update', workload: 'web', deadline_ms: 5 }))).toBe('LUO_REPEATED')
  successor.kill()
  expect((await again).update).toBe((await result).update)
})

test('a ticket is good once, and only the right one', async () => {
  await using stage = await Stage.start()
  const { successor, result } = await updating(stage)
  const thief = await stage.puppet()
  await thief.do('pair', { name: 'forged' })
  const join = { id: 'steal', workload: 'web', accepts: ['*'], fds: 1 }
  expect(await failure(thief.call('Join', join, { send: ['forged'] }))).toBe('LUO_TICKET')
  await successor.join('web')
  const again = { id: 'again', workload: 'web', accepts: ['*'], fds: 1 }
  expect(await failure(successor.call('Join', again, { send: ['ticket'] }))).toBe('LUO_TICKET')
  successor.kill()
  await result
})

test('two claimants: only the successor gets the state, and once', async () => {
  await using stage = await Stage.start()
  const { old, member, successor, result } = await updating(stage)
  const joined = await successor.join('web')
  const claim = failure(successor.call('Claim', { id: 'claim', member: joined.member }, { on: 'one' }))
  await old.event('prepare')
  expect(await failure(old.call('Claim', { id: 'mine', member }))).toBe('LUO_WRONG_STATE')
  expect(await failure(successor.call('Claim', { id: 'twice', member: joined.member }))).toBe('LUO_WRONG_STATE')
  successor.kill()
  expect((await result).outcome).toBe('rolledBack')
  void claim
})

test('a workload has one running instance', async () => {
  await using stage = await Stage.start()
  await running(stage)
  const second = await stage.puppet()
  expect(await failure(second.join('web'))).toBe('LUO_WORKLOAD_ACTIVE')
})

test('an update needs a supervisor, a version that is ready, and one that listens', async () => {
  await using stage = await Stage.start()
  const alone = await stage.puppet()
  const update = (id: string) => failure(stage.call('Update', { id, workload: 'solo' }))
  expect(await update('1')).toBe('LUO_NOT_FOUND')
  const { member } = await alone.join('solo')
  expect(await update('2')).toBe('LUO_WRONG_STATE')
  await alone.call('Commit', { id: 'first', member })
  expect(await update('3')).toBe('LUO_NO_SUPERVISOR')
  await alone.do('disconnect', { on: 'events' })
  await eventually(
    () => update(`4-${Math.random()}`),
    (code) => code === 'LUO_WRONG_STATE',
    'it listens',
  )
  await alone.do('close', { name: 'session' })
  await eventually(
    () => update(`5-${Math.random()}`),
    (code) => code === 'LUO_NOT_FOUND',
    'the workload is there',
  )
})

test('words of the wrong side, or at the wrong time, change nothing', async () => {
  await using stage = await Stage.start()
  const { old, member, successor, result } = await updating(stage)
  const joined = await successor.join('web')
  const { update = '' } = joined
  expect(await failure(old.call('Ready', { id: '1', member, update }))).toBe('LUO_WRONG_STATE')
  expect(await failure(old.call('Released', { id: '2', member, update }))).toBe('LUO_WRONG_STATE')
  expect(await failure(old.call('Commit', { id: '3', member }))).toBe('LUO_WRONG_STATE')
  expect(await failure(successor.call('Ready', { id: '4', member: joined.member, update }))).toBe('LUO_WRONG_STATE')
  expect(await failure(successor.call('Commit', { id: '5', member: joined.member }))).toBe('LUO_WRONG_STATE')
  expect(await failure(old.call('Ready', { id: '6', member, update: 'another' }))).toBe('LUO_WRONG_STATE')
  successor.kill()
  expect((await result).outcome).toBe('rolledBack')
})

test('an old version that closes its session and lives on is killed before anybody else goes on', async () => {
  await using stage = await Stage.start()
  const { old, joined, successor, result } = await frozen(stage)
  await old.do('close', { name: 'session' })
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(old.alive).toBe(true)
  expect(await successor.call('Commit', { id: 'commit', member: joined.member })).toEqual({ released: 'death' })
  expect((await result).outcome).toBe('committed')
  await gone(old)
})

test('an old version that closes its session instead of giving its word is killed first', async () => {
  await using stage = await Stage.start()
  const { old, joined, successor, result } = await frozen(stage)
  const commit = successor.call('Commit', { id: 'commit', member: joined.member })
  await old.event('release')
  void old.do('close', { name: 'session' })
  expect(await commit).toEqual({ released: 'death' })
  expect((await result).outcome).toBe('committed')
  await gone(old)
})

test('while the state is frozen nobody changes it', async () => {
  await using stage = await Stage.start()
  const { old, session, successor, result } = await frozen(stage)
  await old.do('memfd', { name: 'more', size: 4096 })
  const files = [{ token: '2', fd: 0 }]
  expect(await failure(old.call('Preserve', { id: 'p', session, files, fds: 1 }, { send: ['more'] }))).toBe('EBUSY')
  expect(await failure(old.call('Unpreserve', { id: 'u', session, tokens: ['1'] }))).toBe('EBUSY')
  successor.kill()
  expect((await result).outcome).toBe('rolledBack')
  await old.call('Preserve', { id: 'p2', session, files, fds: 1 }, { send: ['more'] })
})

test('preserving is all or none, and says what was wrong', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const { session } = await puppet.join('web')
  await puppet.do('memfd', { name: 'a', size: 10 })
  await puppet.do('memfd', { name: 'b', size: 10 })
  const attempt = (id: string, files: { token: string; fd: number }[], send: string[]) =>
    failure(puppet.call('Preserve', { id, session, files, fds: send.length }, { send }))
  const two = [
    { token: '1', fd: 0 },
    { token: '2', fd: 7 },
  ]
  expect(await attempt('1', two, ['a', 'b'])).toBe('EBADF')
  expect(await attempt('2', [{ token: '-1', fd: 0 }], ['a'])).toBe('EINVAL')
  expect(
    await attempt(
      '3',
      [
        { token: '1', fd: 0 },
        { token: '1', fd: 1 },
      ],
      ['a', 'b'],
    ),
  ).toBe('EEXIST')
  expect(
    await attempt(
      '4',
      [
        { token: '1', fd: 0 },
        { token: '2', fd: 1 },
      ],
      ['a', 'a'],
    ),
  ).toBe('EBUSY')
  expect((await stage.call('Status', {})).files).toBe(0)
  expect(
    await attempt(
      '5',
      [
        { token: '1', fd: 0 },
        { token: '2', fd: 1 },
      ],
      ['a', 'b'],
    ),
  ).toBe('nothing failed')
  expect((await stage.call('Status', {})).files).toBe(2)
  expect(await failure(puppet.call('Retrieve', { session, tokens: ['3'] }))).toBe('ENOENT')
  expect(await failure(puppet.call('Unpreserve', { id: '6', session, tokens: ['1', '3'] }))).toBe('ENOENT')
  expect((await stage.call('Status', {})).files).toBe(2)
})

test('a session ends with its last holder; kept, it waits for a restart and then expires', async () => {
  await using stage = await Stage.start()
  const first = await stage.puppet()
  await preserve(first, (await first.join('web')).session)
  first.kill()
  const none = ({ workloads }: { workloads: unknown[] }) => workloads.length === 0
  await eventually(() => stage.call('List', {}), none, 'it is still there')

  const kept = await stage.puppet()
  await preserve(kept, (await kept.join('web', ['*'], { keep_ms: 1_500 })).session)
  // There before it is needed: its start must not take from the time that the state waits.
  const heir = await stage.puppet()
  kept.kill()
  const state = async () => (await stage.call('List', {})).workloads[0]?.state
  await eventually(state, (seen) => seen === 'orphaned', 'it is not kept')
  const joined = await heir.join('web')
  expect(joined.origin).toBe('crash')
  const { files } = await heir.call('Claim', { id: 'claim', member: joined.member }, { keep: ['store'] })
  expect(files).toHaveLength(1)
  // It fails before its commit: the state waits on, for the next one.
  heir.kill()
  await eventually(state, (seen) => seen === 'orphaned', 'it is not kept a second time')
  await eventually(() => stage.call('List', {}), none, 'it does not expire')
  expect((await stage.call('Status', {})).files).toBe(0)
})

test('state that a restarted version does not accept is kept', async () => {
  await using stage = await Stage.start()
  const first = await stage.puppet()
  await preserve(first, (await first.join('web', ['*'], { keep_ms: 60_000 })).session)
  first.kill()
  const wrong = await stage.puppet()
  const attempt = () => failure(wrong.join('web', ['store/9']))
  expect(await attempt()).toBe('LUO_STATE_VERSION')
  expect((await stage.call('Show', { workload: 'web' })).workload.state).toBe('orphaned')
})

test('the same join twice gets another descriptor, and there is one member', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const request = { id: 'join', workload: 'web', accepts: ['*'] }
  const first = await puppet.call('Join', request, { keep: ['lost'] })
  expect(await puppet.call('Join', request, { keep: ['session'] })).toEqual(first)
  await puppet.do('close', { name: 'lost' })
  expect((await stage.call('List', {})).workloads).toHaveLength(1)
})

test('names, numbers and texts have limits', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const join = (workload: string, accepts: string[] = ['*'], more = {}) =>
    failure(puppet.call('Join', { id: `${Math.random()}`, workload, accepts, ...more }))
  expect(await join('')).toBe('LUO_INVALID_PARAMETER')
  expect(await join('x'.repeat(64))).toBe('LUO_INVALID_PARAMETER')
  expect(await join('web', Array(65).fill('a/1'))).toBe('LUO_INVALID_PARAMETER')
  expect(await join('web', ['x'.repeat(129)])).toBe('LUO_INVALID_PARAMETER')
  expect(await join('web', ['*'], { keep_ms: -1 })).toBe('LUO_INVALID_PARAMETER')
  expect(await failure(puppet.call('Join', { id: '', workload: 'web', accepts: [] }))).toBe('LUO_INVALID_PARAMETER')
  expect((await stage.call('List', {})).workloads).toEqual([])
})

test('a user has as many workloads as the limit says, and no more', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const { limits } = await stage.call('Status', {})
  const codes: string[] = []
  for (let count = 0; count <= (limits.workloads ?? 0); count++) {
    codes.push(
      await failure(
        puppet.call('Join', { id: `${count}`, workload: `w${count}`, accepts: [] }, { keep: [`s${count}`] }),
      ),
    )
  }
  expect(codes.pop()).toBe('LUO_LIMIT')
  expect(new Set(codes)).toEqual(new Set(['nothing failed']))
})
