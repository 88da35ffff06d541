/** What has happened can be asked for later: by whom, how it ended, and that nobody can push it out or make it up. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { decodeRecords } from '../../src/abi/records.js'
import type { HistoryEvent } from '../../src/protocol/types.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { eventually, failure, NOBODY, type Puppet, Stage } from './stage.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const UID = process.getuid?.() ?? 0
const isRoot = UID === 0

async function history(stage: Stage, workload?: string): Promise<HistoryEvent[]> {
  return (await stage.call('History', workload === undefined ? {} : { workload })).events
}

/** Once it has this event. */
async function until(stage: Stage, workload: string, event: string): Promise<HistoryEvent[]> {
  return eventually(
    () => history(stage, workload),
    (events) => events.some((found) => found.event === event),
    `no event ${event}`,
  )
}

const names = (events: readonly HistoryEvent[]) => events.map(({ event }) => event)

async function preserve(puppet: Puppet, session: string): Promise<void> {
  await puppet.do('memfd', { name: 'store', size: 4096 })
  const files = [{ token: '1', fd: 0, format: 'store/1' }]
  await puppet.call('Preserve', { id: `preserve-${puppet.pid}`, session, files, fds: 1 }, { send: ['store'] })
}

async function running(stage: Stage, args: string[] = []) {
  const old = await stage.supervised('web', args)
  const joined = await old.join('web')
  await preserve(old, joined.session)
  await old.call('Commit', { id: 'first', member: joined.member })
  return { old, ...joined }
}

function luoctl(stage: Stage, args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [LUOCTL, ...args, '--socket', stage.socket], (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr })
    })
  })
}

test('an update is told with who asked, both versions, the blackout and the outcome; refused or committed', async () => {
  await using stage = await Stage.start()
  const { old, member } = await running(stage)

  const refused = stage.call('Update', { id: 'one', workload: 'web' })
  const first = await stage.nextPuppet()
  const firstJoined = await first.join('web')
  void failure(first.call('Claim', { id: 'claim-1', member: firstJoined.member }))
  const { update = '' } = await old.event('prepare')
  await old.call('Refuse', { id: 'refuse', member, update, reason: 'busy with the books' })
  expect((await refused).outcome).toBe('rolledBack')

  old.events.length = 0
  const committed = stage.call('Update', { id: 'two', workload: 'web' })
  const second = await stage.nextPuppet()
  const joined = await second.join('web')
  const claim = second.call('Claim', { id: 'claim-2', member: joined.member })
  const next = await old.event('prepare')
  await old.call('Ready', { id: 'ready', member, update: next.update ?? '' })
  await claim
  const commit = second.call('Commit', { id: 'commit', member: joined.member })
  await old.event('release')
  await old.call('Released', { id: 'released', member, update: next.update ?? '' })
  await commit
  const { blackout_ms } = await committed

  const events = await history(stage, 'web')
  expect(names(events)).toEqual([
    ...['joined', 'running', 'updating', 'joined', 'refused', 'updated'],
    ...['updating', 'joined', 'running', 'updated'],
  ])
  const [, , , , refusal, rolledBack, , , , done] = events
  expect(refusal).toMatchObject({
    code: 'LUO_REFUSED',
    detail: 'busy with the books',
    pid: old.pid,
    by_uid: UID,
    update,
  })
  const by = { by_uid: UID, pid: process.pid, old_pid: old.pid, uid: UID, workload: 'web' }
  expect(rolledBack).toMatchObject({ ...by, outcome: 'rolledBack', code: 'LUO_REFUSED', new_pid: first.pid, update })
  expect(done).toMatchObject({ ...by, outcome: 'committed', new_pid: second.pid, update: next.update, blackout_ms })
  expect(done?.duration_ms).toBeGreaterThan(blackout_ms ?? 0)
  expect(done?.code).toBeUndefined()
  for (const { at } of events) expect(new Date(at).toISOString()).toBe(at)
})

test('a crash, the claim after it, and the end of the state are told', async () => {
  await using stage = await Stage.start()
  const first = await stage.puppet()
  const { member, session } = await first.join('web', ['*'], { keep_ms: 60_000 })
  await preserve(first, session)
  await first.call('Commit', { id: 'first', member })
  first.kill()
  const orphaned = await until(stage, 'web', 'orphaned')
  expect(names(orphaned)).toEqual(['joined', 'running', 'left', 'orphaned'])
  expect(orphaned[2]).toMatchObject({ pid: first.pid, by_uid: UID })

  const claimant = await stage.puppet()
  const joined = await claimant.join('web', ['store/1'])
  await claimant.call('Claim', { id: 'claim', member: joined.member })
  await claimant.call('Commit', { id: 'commit', member: joined.member })
  const claimed = (await until(stage, 'web', 'claimed')).find(({ event }) => event === 'claimed')
  expect(claimed).toMatchObject({ outcome: 'committed', pid: claimant.pid, new_pid: claimant.pid, by_uid: UID })
  // No file is left, so nothing is kept.
  await claimant.call('Unpreserve', { id: 'empty', session: joined.session, tokens: ['1'] })
  claimant.kill()
  const released = (await until(stage, 'web', 'released')).at(-1)
  expect(released?.detail).toContain('its last holder is gone')
  expect((await stage.call('List', {})).workloads).toEqual([])
})

test('state that nobody claims is told as expired, and then as released', async () => {
  await using stage = await Stage.start()
  const first = await stage.puppet()
  const { member, session } = await first.join('web', ['*'], { keep_ms: 50 })
  await preserve(first, session)
  await first.call('Commit', { id: 'first', member })
  first.kill()
  const events = await until(stage, 'web', 'released')
  expect(names(events).slice(-3)).toEqual(['orphaned', 'expired', 'released'])
  expect(events.at(-1)?.detail).toBe('nobody claimed it in time: 1 files')
})

test('an operator who aborts is named, with the update', async () => {
  await using stage = await Stage.start()
  await running(stage)
  const result = stage.call('Update', { id: 'one', workload: 'web' })
  await stage.nextPuppet()
  const { update } = await stage.call('Abort', { id: 'abort', workload: 'web' })
  await result
  const events = await until(stage, 'web', 'updated')
  expect(events.find(({ event }) => event === 'aborted')).toMatchObject({ update, pid: process.pid, by_uid: UID })
  expect(events.at(-1)).toMatchObject({ event: 'updated', outcome: 'rolledBack', code: 'LUO_ABORTED', update })
})

test('a flood of refusals is one event with a number, and pushes nothing out', async () => {
  await using stage = await Stage.start()
  await running(stage)
  const attacker = await stage.puppet()
  const tries = 300
  for (let count = 0; count < tries; count++) {
    const join = attacker.call('Join', { id: `join-${count}`, workload: 'web', accepts: [] })
    expect(await failure(join)).toBe('LUO_WORKLOAD_ACTIVE')
  }
  const ticket = { id: 'ticket', workload: 'web', accepts: ['*'], fds: 1 }
  await attacker.do('pair', { name: 'forged' })
  expect(await failure(attacker.call('Join', ticket, { send: ['forged'] }))).toBe('LUO_TICKET')
  const events = await history(stage, 'web')
  expect(names(events)).toEqual(['joined', 'running', 'refused', 'refused'])
  expect(events[2]).toMatchObject({ code: 'LUO_WORKLOAD_ACTIVE', method: 'Join', times: tries, pid: attacker.pid })
  expect(events[3]).toMatchObject({ code: 'LUO_TICKET', method: 'Join' })
})

test('names that do not exist make no history of their own, and the refusals are counted', async () => {
  await using stage = await Stage.start()
  for (let count = 0; count < 50; count++) {
    expect(await failure(stage.call('Show', { workload: `made-up-${count}` }))).toBe('LUO_NOT_FOUND')
  }
  expect(await failure(stage.call('History', { workload: 'made-up-1' }))).toBe('LUO_NOT_FOUND')
  const events = await history(stage)
  expect(events.map(({ event, times, method }) => [event, times, method])).toEqual([
    ['started', undefined, undefined],
    ['refused', 50, 'Show'],
    ['refused', undefined, 'History'],
  ])
})

test('a limit that is reached is told to whom it is about', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'files=1', '--limit', 'connections=6'] })
  const puppet = await stage.puppet()
  const { session } = await puppet.join('web')
  for (const name of ['a', 'b']) await puppet.do('memfd', { name, size: 1 })
  const files = [0, 1].map((fd) => ({ token: String(fd), fd }))
  const preserve = puppet.call('Preserve', { id: '1', session, files, fds: 2 }, { send: ['a', 'b'] })
  expect(await failure(preserve)).toBe('LUO_LIMIT')
  expect((await history(stage, 'web')).at(-1)).toMatchObject({
    event: 'refused',
    code: 'LUO_LIMIT',
    method: 'Preserve',
  })
  const clients = [await stage.client(), await stage.client(), await stage.client(), await stage.client()]
  expect(await failure(stage.call('List', {}))).toBe('LUO_LIMIT')
  for (const client of clients) client.close()
  const events = await eventually(
    () => history(stage),
    (found) => found.length > 0,
    'there is no room',
  )
  expect(events.at(-1)).toMatchObject({ event: 'refused', code: 'LUO_LIMIT', uid: UID, by_uid: UID })
})

test('the records have what History answers, also of a workload that has ended', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  await puppet.join('gone')
  puppet.kill()
  const events = await until(stage, 'gone', 'released')
  const client = await stage.client()
  const { fds } = await client.call('Inspect', {})
  const [file] = fds
  if (!file) throw new Error('no records came')
  const bytes = new Uint8Array(Number(fileSize(file)))
  readAt(file, bytes, 0)
  file.close()
  const recorded = [...(decodeRecords(bytes).entries.get('history')?.values() ?? [])]
  expect(recorded.filter(({ workload }) => workload === 'gone').map(({ number, ...event }) => event)).toEqual(events)
  expect(recorded[0]).toMatchObject({ event: 'started', number: 1 })
})

test('watchers hear what the history keeps, with the same words', async () => {
  await using stage = await Stage.start()
  const watcher = await stage.puppet()
  const first = watcher.do('stream', { on: 'watch', method: 'Watch', input: {} })
  const puppet = await stage.puppet()
  await puppet.join('web')
  await first
  puppet.kill()
  const kept = await until(stage, 'web', 'released')
  await watcher.event('released')
  expect([await first, ...watcher.events]).toEqual(kept)
})

test.runIf(isRoot)('a user sees their own history only, root that of all by name', async () => {
  await using stage = await Stage.start()
  const [mine, theirs] = [await stage.puppet(), await stage.puppet({ uid: NOBODY })]
  await mine.join('mine')
  await theirs.join('theirs')
  expect(await failure(theirs.call('History', { workload: 'mine' }))).toBe('LUO_NOT_FOUND')
  const all = (await theirs.call('History', {})).events
  expect(all.map(({ uid }) => uid)).toEqual([NOBODY, NOBODY])
  expect(all[1]).toMatchObject({ event: 'refused', code: 'LUO_NOT_FOUND', by_uid: NOBODY, pid: theirs.pid })
  expect(names(await history(stage, 'theirs'))).toEqual(['joined'])
  await theirs.do('disconnect', { on: 'control' })
  const other = await stage.puppet({ uid: NOBODY })
  await other.join('mine')
  const own = await history(stage, 'mine')
  expect(own.map(({ uid }) => uid)).toEqual([0])
})

test('luoctl history shows it as a table, and as JSON', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  await puppet.join('web')
  const table = await luoctl(stage, ['history', 'web'])
  expect(table.code).toBe(0)
  expect(table.stdout).toMatch(/^TIME +EVENT +WHO +OUTCOME +BLACKOUT +DETAIL\n/)
  expect(table.stdout).toMatch(
    new RegExp(
      `^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{3} +joined +uid ${UID} pid ${puppet.pid} .*first start$`,
      'm',
    ),
  )
  const { events, dropped } = JSON.parse((await luoctl(stage, ['history', '--limit', '1', '--json'])).stdout)
  expect([dropped, names(events)]).toEqual([0, ['joined']])
  expect((await luoctl(stage, ['history', 'web', '--limit', '0'])).code).toBe(2)
  expect((await luoctl(stage, ['history', 'web', '--limit', '9999'])).code).toBe(2)
  expect((await luoctl(stage, ['history', 'nobody'])).code).toBe(1)
})
