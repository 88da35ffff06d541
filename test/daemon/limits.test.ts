/** What one user may have: each limit is reached, the error names it, and nothing of what was refused stays. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { isLuoError, type LuoError } from '../../src/errors.js'
import { eventually, NOBODY, type Puppet, Stage } from './stage.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const KIB = 1024
const isRoot = process.getuid?.() === 0
const UID = process.getuid?.() ?? 0

function run(script: string, args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [script, ...args], { timeout: 5_000 }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr })
    })
  })
}

async function refused(work: Promise<unknown>): Promise<LuoError> {
  const error = await work.then(
    () => 'it was not refused',
    (reason: unknown) => reason,
  )
  if (isLuoError(error)) return error
  throw error
}

function preserve(puppet: Puppet, session: string, id: string, names: string[], from = 0) {
  const files = names.map((_, fd) => ({ token: String(from + fd), fd }))
  return puppet.call('Preserve', { id, session, files, fds: files.length }, { send: names })
}

test.each([
  ['--limit', 'files'],
  ['--limit', 'pages=5'],
  ['--limit', 'files=9999999999'],
  ['--limit', 'bytes=-1'],
])('luod %s %s ends with 2, and makes nothing', async (...args) => {
  const { code, stderr } = await run(LUOD, ['--socket', '/nonexistent/luod.sock', ...args])
  expect(code).toBe(2)
  expect(stderr).toContain(`--limit ${args[1]}`)
})

test('files: one more than the limit is refused, and luod holds what it held', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'files=3'] })
  const puppet = await stage.puppet()
  const { session } = await puppet.join('web')
  for (const name of ['a', 'b', 'c', 'd']) await puppet.do('memfd', { name, size: 1 })
  await preserve(puppet, session, '1', ['a', 'b'])
  const before = (await stage.atRest()).open_fds
  const error = await refused(preserve(puppet, session, '2', ['c', 'd'], 2))
  expect(error.code).toBe('LUO_LIMIT')
  expect(error.message).toContain(`uid ${UID} has 2 of 3 files`)
  expect(error.message).toContain('--limit files=N')
  expect((await stage.atRest()).open_fds).toBe(before)
  await preserve(puppet, session, '3', ['c'], 2)
  expect((await refused(preserve(puppet, session, '4', ['d'], 3))).code).toBe('LUO_LIMIT')
  await puppet.call('Unpreserve', { id: '5', session, tokens: ['0', '0'] })
  await preserve(puppet, session, '6', ['d'], 3)
  const { usage } = await stage.call('Status', {})
  expect(usage.find(({ uid }) => uid === UID)).toMatchObject({ files: 3, bytes: 3, sessions: 1, workloads: 1 })
})

test('bytes: memory counts with the size that it has when it is preserved, other files do not', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'bytes=64KiB'] })
  const puppet = await stage.puppet()
  const { session } = await puppet.join('web')
  await puppet.do('memfd', { name: 'small', size: 60 * KIB })
  await puppet.do('memfd', { name: 'large', size: 5 * KIB })
  await puppet.do('pair', { name: 'socket' })
  await preserve(puppet, session, '1', ['small'])
  const before = (await stage.atRest()).open_fds
  const error = await refused(preserve(puppet, session, '2', ['socket', 'large'], 1))
  expect([error.code, error.message]).toEqual(['LUO_LIMIT', expect.stringContaining(`has ${60 * KIB} of ${64 * KIB}`)])
  expect((await stage.atRest()).open_fds).toBe(before)
  await preserve(puppet, session, '3', ['socket'], 1)
  await puppet.call('Unpreserve', { id: '4', session, tokens: ['0'] })
  await preserve(puppet, session, '5', ['large'], 2)
})

test('workloads and sessions: a join too many leaves nothing behind, and there is room when one ends', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'workloads=2', '--limit', 'sessions=1'] })
  const [first, second] = [await stage.puppet(), await stage.puppet()]
  await first.join('a')
  const before = (await stage.atRest()).open_fds
  const sessions = await refused(second.call('Join', { id: '1', workload: 'b', accepts: [] }))
  expect([sessions.code, sessions.message]).toEqual(['LUO_LIMIT', expect.stringContaining('--limit sessions=N')])
  expect((await stage.call('List', {})).workloads.map(({ name }) => name)).toEqual(['a'])
  // Supervised and without a process: a workload without a session.
  await second.do('stream', { on: 'keep', method: 'Supervise', input: { id: '2', workload: 'b' } })
  const third = await stage.puppet()
  const workloads = await refused(
    third.do('stream', { on: 'keep', method: 'Supervise', input: { id: '3', workload: 'c' } }),
  )
  expect([workloads.code, workloads.message]).toEqual(['LUO_LIMIT', expect.stringContaining('--limit workloads=N')])
  await third.do('disconnect', { on: 'keep' })
  await second.do('disconnect', { on: 'keep' })
  await second.do('disconnect', { on: 'control' })
  // Its process lives, so that luod waits a moment for it to come back.
  await eventually(
    () => stage.atRest(),
    ({ open_fds: now }) => now === before,
    'a descriptor is left',
  )
  first.kill()
  await eventually(
    () => stage.call('List', {}),
    ({ workloads: left }) => left.length === 0,
    'it stays',
  )
  await third.join('c')
})

test('connections: the next one is told which option, and closing one makes room', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'connections=2'] })
  const clients = [await stage.client(), await stage.client()]
  const { usage } = (await clients[0]?.call('Status', {}))?.parameters ?? {}
  expect(usage?.find(({ uid }) => uid === UID)?.connections).toBe(2)
  const error = await refused(stage.call('List', {}))
  expect([error.code, error.message]).toEqual(['LUO_LIMIT', expect.stringContaining('has 2 of 2 connections')])
  expect(error.message).toContain('--limit connections=N')
  clients[1]?.close()
  await eventually(
    () => stage.call('List', {}),
    ({ workloads }) => workloads.length === 0,
    'there is no room',
  )
})

test('watchers: a stream too many is refused, and one that ends makes room', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'watchers=1'] })
  const puppet = await stage.puppet()
  await puppet.join('web')
  const watch = (on: string) => puppet.do('stream', { on, method: 'Watch', input: {} })
  await watch('one')
  const error = await refused(watch('two'))
  expect([error.code, error.message]).toEqual(['LUO_LIMIT', expect.stringContaining('--limit watchers=N')])
  await puppet.do('disconnect', { on: 'two' })
  await puppet.do('disconnect', { on: 'one' })
  await eventually(
    () => watch('three').finally(() => puppet.do('disconnect', { on: 'three' })),
    Boolean,
    'there is no room',
  )
})

test('luoctl status shows what is used, and what of', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'files=12', '--limit', 'bytes=3MiB'] })
  const puppet = await stage.puppet()
  const { session } = await puppet.join('web')
  await puppet.do('memfd', { name: 'store', size: 2 * KIB })
  await preserve(puppet, session, '1', ['store'])
  const { stdout } = await run(LUOCTL, ['status', '--socket', stage.socket])
  for (const line of [
    `user ${UID}`,
    'files 1 of 12',
    'bytes 2 KiB of 3 MiB',
    'workloads 1 of 64',
    'sessions 1 of 1024',
  ]) {
    expect(stdout.split('\n').map((text) => text.trim())).toContain(line)
  }
  const status = JSON.parse((await run(LUOCTL, ['status', '--json', '--socket', stage.socket])).stdout)
  expect(status.limits).toMatchObject({ files: 12, bytes: 3 * KIB * KIB, connections: 256, accepts: 64 })
  expect(status.usage).toEqual([expect.objectContaining({ uid: UID, files: 1, bytes: 2 * KIB, workloads: 1 })])
})

test.runIf(isRoot)('a user sees what they use and nobody else, root sees all', async () => {
  await using stage = await Stage.start()
  const [mine, theirs] = [await stage.puppet(), await stage.puppet({ uid: NOBODY })]
  await mine.join('mine')
  await theirs.join('theirs')
  expect((await theirs.call('Status', {})).usage.map(({ uid }) => uid)).toEqual([NOBODY])
  expect((await mine.call('Status', {})).usage.map(({ uid }) => uid)).toEqual([0, NOBODY])
})

test('luod starts with every limit set, and Status has them', async () => {
  const all = ['connections=9', 'workloads=8', 'sessions=7', 'files=6', 'bytes=5TiB', 'watchers=4']
  await using stage = await Stage.start({ args: all.flatMap((limit) => ['--limit', limit]) })
  expect((await stage.call('Status', {})).limits).toMatchObject({
    ...{ connections: 9, workloads: 8, sessions: 7, files: 6 },
    ...{ bytes: 5 * 2 ** 40, watchers: 4 },
  })
})
