/** Groups of workloads against luod, with real processes: the order, and whatever can fail in any of them. */
import { readFileSync } from 'node:fs'
import { expect, test, vi } from 'vitest'
import { isDead, type Needs, type Outcome, Play, type Point, type Script, type Successor, wait } from './group-play.js'
import { eventually, failure, Stage } from './stage.js'

/** Many processes, and nothing here is about how long they take. */
vi.setConfig({ testTimeout: 180_000 })

const PAIR: Needs = { web: ['db'], db: [], log: [] }
const CHAIN: Needs = { web: ['api'], api: ['db'], db: [] }

function parentOf(pid: number): number {
  return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
}

/** The code with which each update ended. */
function codes(outcomes: Record<string, Outcome>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(outcomes).map(([name, { outcome, timeline }]) => {
      const code = timeline.findLast((phase) => phase.code !== undefined)?.code
      return [name, code === undefined ? outcome : `${outcome} ${code}`]
    }),
  )
}

const killAt = (name: string, at: Point): Script => {
  return (where, point, side) => {
    if (where !== name || point !== at) return undefined
    side.kill()
    return 'stop'
  }
}

const eachOf = (play: Play, code: string, but: Record<string, string> = {}) => ({
  ...Object.fromEntries([...play.members.keys()].map((name) => [name, code])),
  ...but,
})

const GROUP = 'rolledBack LUO_GROUP'

async function allGoOn(play: Play): Promise<void> {
  for (const name of play.members.keys()) await play.goesOn(name)
}

test('dependents prepare first and restore last; each commits after what it needs', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, { web: ['api'], log: [], api: ['db'], db: [] })
  const before = [...play.members.values()].map(({ old }) => old)
  const fds = await play.openFds()
  // Slow everywhere, so that whoever does not wait for another is seen before it.
  const outcomes = await play.update(() => wait(60).then(() => undefined))
  expect(codes(outcomes)).toEqual(eachOf(play, 'committed'))
  for (const name of play.members.keys()) {
    for (const other of play.members.keys()) {
      play.inOrder(`${other} claims`, `${name} prepares`)
      play.inOrder(`${other} is whole`, `${name} is asked for its word`)
    }
  }
  for (const [dependent, needed] of [
    ['web', 'api'],
    ['api', 'db'],
  ]) {
    play.inOrder(`${dependent} is ready`, `${needed} prepares`)
    play.inOrder(`${needed} is whole`, `${dependent} restores`)
    play.inOrder(`${needed} gives its word`, `${dependent} is asked for its word`)
  }
  for (const { blackout_ms } of Object.values(outcomes)) expect(blackout_ms).toBeGreaterThan(0)
  for (const { name, old } of play.members.values()) {
    const { workload } = await stage.call('Show', { workload: name })
    expect(workload).toMatchObject({ state: 'running', pid: old.pid, generation: 2 })
  }
  for (const puppet of before) puppet.kill()
  await play.hasOpen(fds)

  // Who has let go is not needed any more.
  const killed = await play.update((name, point, side) => {
    if (name === 'log' || point !== 'old after ready') return undefined
    side.kill()
    return 'stop'
  })
  expect(codes(killed)).toEqual(eachOf(play, 'committed'))
  const { old } = play.of('db')
  const silent = await play.update((name, point) =>
    name === 'db' && point === 'old before released' ? 'stop' : undefined,
  )
  expect(codes(silent)).toEqual(eachOf(play, 'committed'))
  await isDead(old)
})

// --- before the first commit: all or none ---------------------------------------------------------------------------

test('whatever kills a new version before the first commit, all go on as they were, and nothing leaks', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, PAIR)
  const fds = await play.openFds()
  for (const name of ['web', 'db']) {
    for (const point of ['new before join', 'new before claim', 'new after claim', 'new before commit'] as const) {
      const outcomes = await play.update(killAt(name, point))
      expect(codes(outcomes), `${name} ${point}`).toEqual(eachOf(play, GROUP, { [name]: 'rolledBack LUO_GONE' }))
      await allGoOn(play)
      const early = ['new before join', 'new before claim'].includes(point)
      if (early) expect(play.log.filter((line) => line.endsWith('prepares'))).toEqual([])
      await play.hasOpen(fds)
    }
  }
})

test('a refusal, an abort and the end of a supervisor are one of all', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, PAIR)
  for (const name of ['web', 'db']) {
    const outcomes = await play.update(async (where, point, side) => {
      if (where !== name || point !== 'old before ready') return undefined
      const { member } = play.of(where)
      const { update = '' } = await side.event('prepare')
      await side.call('Refuse', { id: `refuse-${name}`, member, update, reason: 'busy with the books' })
      return 'stop'
    })
    expect(codes(outcomes)).toEqual(eachOf(play, GROUP, { [name]: 'rolledBack LUO_REFUSED' }))
    expect(outcomes.log?.timeline.find(({ code }) => code)?.reason).toBe(
      `${name}, in the same group, does not commit: busy with the books`,
    )
    await allGoOn(play)
    // What db would refuse is asked of it only when web has let go.
    expect(play.log.includes('db prepares')).toBe(name === 'db')
  }

  const aborted = await play.update(async (name, point) => {
    if (name === 'db' && point === 'new before commit') await stage.call('Abort', { id: 'abort', workload: 'web' })
    return undefined
  })
  expect(codes(aborted)).toEqual(eachOf(play, GROUP, { web: 'rolledBack LUO_ABORTED' }))
  await allGoOn(play)

  const unsupervised = await play.update((name, point) => {
    if (name === 'log' && point === 'new before commit') process.kill(parentOf(play.of('log').old.pid), 'SIGKILL')
    return name === 'log' && point === 'new before commit' ? 'stop' : undefined
  })
  expect(codes(unsupervised)).toEqual(eachOf(play, GROUP, { log: 'rolledBack LUO_NO_SUPERVISOR' }))
  await allGoOn(play)
})

test('an old version that ends before it is ready ends alone', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, PAIR)
  for (const name of ['log', 'web', 'db']) {
    const expected = eachOf(play, GROUP, { [name]: 'orphaned LUO_GONE' })
    expect(codes(await play.update(killAt(name, 'old before ready')))).toEqual(expected)
    await allGoOn(play)
  }
  await eventually(
    () => stage.call('List', {}),
    ({ workloads }) => workloads.length === 0,
    'state is left',
  )
})

test('an old version that has let go and ends leaves its state behind when the group fails', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, PAIR)
  const { old } = play.of('web')
  const outcomes = await play.update(async (name, point, side) => {
    const kills = (name === 'web' && point === 'old after ready') || (name === 'db' && point === 'new before commit')
    if (!kills) return undefined
    if (name === 'db') await isDead(old)
    side.kill()
    return 'stop'
  })
  expect(codes(outcomes)).toEqual({ web: 'orphaned LUO_GROUP', db: 'rolledBack LUO_GONE', log: GROUP })
  await allGoOn(play)
  expect((await stage.call('Show', { workload: 'web' })).workload).toMatchObject({ state: 'orphaned' })
})

test('one stands still: the deadline is its own, and who waits for the group has none', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, CHAIN)
  const still = [
    ['web', 'old before ready'],
    ['db', 'new before commit'],
  ] as const
  for (const [name, at] of still) {
    const script: Script = (where, point) => (where === name && point === at ? 'stop' : undefined)
    const outcomes = await play.update(script, { deadline_ms: 4_000 })
    expect(codes(outcomes), at).toEqual(eachOf(play, GROUP, { [name]: 'rolledBack LUO_DEADLINE' }))
    await allGoOn(play)
  }
  // web waits for four of these, which is longer than its deadline.
  const slow: Point[] = ['old before ready', 'new before commit']
  const script: Script = (_, point) => (slow.includes(point) ? wait(1_100).then(() => undefined) : undefined)
  expect(codes(await play.update(script, { deadline_ms: 4_000 }))).toEqual(eachOf(play, 'committed'))
})

test('a check of a group sees all of it and changes nothing', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, PAIR)
  for (const check of ['successor', 'prepare'] as const) {
    const outcomes = await play.update(() => wait(30).then(() => undefined), { check })
    expect(codes(outcomes)).toEqual(eachOf(play, 'checked'))
    await allGoOn(play)
    if (check === 'prepare') play.inOrder('web is ready', 'db prepares')
    else expect(play.log.filter((line) => line.endsWith('prepares'))).toEqual([])
  }
  const outcomes = await play.update(killAt('log', 'new before join'), { check: 'prepare' })
  expect(codes(outcomes)).toEqual(eachOf(play, GROUP, { log: 'rolledBack LUO_GONE' }))
})

// --- after the first commit -----------------------------------------------------------------------------------------

test('after the first commit those that need what did not commit roll back, and the others commit', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, { ...CHAIN, log: [] })
  // Until db has given its word, api and web wait.
  const killed = await play.update(async (name, point) => {
    if (name !== 'db' || point !== 'old before released') return undefined
    play.successors.get('web')?.puppet.kill()
    const update = async () => (await stage.call('Show', { workload: 'web' })).workload.update
    await eventually(update, (now) => now === undefined, 'web does not roll back')
    return undefined
  })
  expect(codes(killed)).toEqual(eachOf(play, 'committed', { web: 'rolledBack LUO_GONE' }))
  await play.goesOn('web')

  const aborted = await play.update(async (name, point) => {
    if (name === 'db' && point === 'old before released') await stage.call('Abort', { id: 'abort', workload: 'api' })
    return undefined
  })
  expect(codes(aborted)).toEqual({ web: GROUP, api: 'rolledBack LUO_ABORTED', db: 'committed', log: 'committed' })
  await play.goesOn('web')
  await play.goesOn('api')

  const lost = await play.update((name, point) => {
    if (name !== 'db' || point !== 'old before released') return undefined
    play.successors.get('db')?.puppet.kill()
    return 'stop'
  })
  expect(codes(lost)).toEqual({ web: GROUP, api: GROUP, db: 'orphaned LUO_GONE', log: 'committed' })
  await play.goesOn('web')
  await play.goesOn('api')
})

// --- words at the wrong time ----------------------------------------------------------------------------------------

test('while the group waits, nothing is taken twice, and no other update begins', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, PAIR)
  const seen: string[] = []
  const outcomes = await play.update(async (name, point) => {
    if (name !== 'db' || point !== 'new before commit') return undefined
    // web has let go, and its new version has claimed; it gets the state when db is whole.
    const { old, member } = play.of('web')
    const successor = play.successors.get('web') as Successor
    const { update = '' } = await old.event('prepare')
    const { sessions } = await stage.call('Show', { workload: 'web' })
    expect(sessions[0]?.custody).toBe('frozen')
    seen.push(await failure(old.call('Ready', { id: 'again', member, update })))
    seen.push(await failure(old.call('Refuse', { id: 'refuse', member, update, reason: 'too late' })))
    const commit = successor.puppet.call('Commit', { id: 'early', member: successor.member }, { on: 'other' })
    seen.push(await failure(commit))
    seen.push(await failure(stage.call('Update', { id: 'one', workload: 'web' })))
    seen.push(await failure(stage.call('UpdateGroup', { id: 'two', workloads: ['log'] })))
    return undefined
  })
  expect(seen).toEqual(['LUO_WRONG_STATE', 'LUO_WRONG_STATE', 'LUO_WRONG_STATE', 'LUO_UPDATING', 'LUO_UPDATING'])
  expect(codes(outcomes)).toEqual(eachOf(play, 'committed'))
})

test('a group that cannot be updated as a whole is refused, and nobody hears of it', async () => {
  await using stage = await Stage.start({ args: [] })
  const play = await Play.start(stage, { web: [], db: [] })
  const alone = await stage.puppet()
  const { member } = await alone.join('alone')
  await alone.call('Commit', { id: 'alone', member })
  const { limits } = await stage.call('Status', {})
  const attempt = (...workloads: string[]) =>
    failure(stage.call('UpdateGroup', { id: `attempt-${workloads}`, workloads }))
  expect(await attempt()).toBe('LUO_INVALID_PARAMETER')
  expect(await attempt('web', 'db', 'web')).toBe('LUO_INVALID_PARAMETER')
  const many = Array.from({ length: (limits.group ?? 0) + 1 }, (_, index) => `w${index}`)
  expect(await attempt(...many)).toBe('LUO_INVALID_PARAMETER')
  expect(await attempt(...many.slice(1))).toBe('LUO_NOT_FOUND')
  expect(await attempt('web', 'nothing')).toBe('LUO_NOT_FOUND')
  expect(await attempt('web', 'alone')).toBe('LUO_NO_SUPERVISOR')
  expect(await failure(stage.call('UpdateGroup', { id: '', workloads: ['web'] }))).toBe('LUO_INVALID_PARAMETER')
  const late = { id: 'late', workloads: ['web'], deadline_ms: 0 }
  expect(await failure(stage.call('UpdateGroup', late))).toBe('LUO_INVALID_PARAMETER')
  const { workloads } = await stage.call('List', {})
  expect(workloads.map(({ state }) => state)).toEqual(['running', 'running', 'running'])
  for (const { old } of play.members.values()) expect(old.events).toEqual([])
})

// --- what workloads say that they need ------------------------------------------------------------------------------

test('what closes a cycle is refused where it is said, and changes nothing', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, { web: ['db'], db: ['later'] })
  const other = await stage.puppet()
  const join = (workload: string, ...after: string[]) =>
    other.call('Join', { id: `${workload}-${after}`, workload, accepts: ['*'], after }, { keep: [workload] })
  await expect(join('later', 'web')).rejects.toThrow('later → web → db → later')
  expect(await failure(join('later', 'web'))).toBe('LUO_CYCLE')
  expect(await failure(join('self', 'self'))).toBe('LUO_CYCLE')
  const supervise = { on: 'supervisor', method: 'Supervise', input: { id: 's', workload: 'later', after: ['web'] } }
  expect(await failure(other.do('stream', supervise))).toBe('LUO_CYCLE')
  const names = async () => (await stage.call('List', {})).workloads.map(({ name, after }) => `${name} ${after}`)
  expect((await names()).sort()).toEqual(['db later', 'web db'])
  await join('later', 'disk')
  expect((await stage.call('Show', { workload: 'later' })).workload.after).toEqual(['disk'])
  await expect(join('disk', 'web')).rejects.toThrow('disk → web → db → later → disk')
  // Of what nobody says any more nothing is left.
  play.of('web').old.kill()
  await eventually(names, (left) => left.length === 2, 'web is still there')
  await join('disk', 'web')
})

test('the names of what a workload needs have limits', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const join = (...after: string[]) =>
    failure(puppet.call('Join', { id: `${Math.random()}`, workload: 'web', accepts: ['*'], after }))
  expect(await join('')).toBe('LUO_INVALID_PARAMETER')
  expect(await join('x'.repeat(64))).toBe('LUO_INVALID_PARAMETER')
  const { limits } = await stage.call('Status', {})
  const many = Array.from({ length: (limits.after ?? 0) + 1 }, (_, index) => `w${index}`)
  expect(await join(...many)).toBe('LUO_INVALID_PARAMETER')
  expect(await join(...many.slice(1))).toBe('nothing failed')
})

test('a new version may need more; one that closes a cycle is turned away; events name the group', async () => {
  await using stage = await Stage.start()
  const play = await Play.start(stage, { web: [], db: [] })
  const watcher = await stage.puppet()
  await watcher.do('stream', { on: 'watch', method: 'Watch', input: {} })
  // Nobody needed anybody; the new version of web needs db, and so commits after it.
  const needy: Script = async (name, point, side) => {
    await wait(60)
    if (name !== 'web' || point !== 'new before join') return undefined
    const join = side.join.bind(side)
    side.join = (workload) => join(workload, ['*'], { after: ['db'] })
    return undefined
  }
  expect(codes(await play.update(needy))).toEqual(eachOf(play, 'committed'))
  play.inOrder('db gives its word', 'web is asked for its word')
  expect((await stage.call('Show', { workload: 'web' })).workload.after).toEqual(['db'])

  const told = () => watcher.events.filter(({ event }) => event === 'committed') as { group?: string }[]
  const [first, second] = await eventually(told, ({ length }) => length === 2, 'no events')
  expect(first?.group).toMatch(/^[0-9a-f-]{36}$/)
  expect(second?.group).toBe(first?.group)

  const result = stage.call('Update', { id: 'one', workload: 'db' })
  const [successor] = await eventually(
    () => stage.newPuppets(),
    ({ length }) => length > 0,
    'no successor comes',
  )
  // It is killed before it can read the answer.
  void successor?.join('db', ['*'], { after: ['web'] })
  const { outcome, timeline } = await result
  expect(outcome).toBe('rolledBack')
  expect(timeline?.find(({ code }) => code)).toMatchObject({ code: 'LUO_CYCLE' })
  expect((await stage.call('Show', { workload: 'db' })).workload.after).toBeUndefined()
})
