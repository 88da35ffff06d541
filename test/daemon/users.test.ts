/**
 * Several users of one luod, and where luod may listen. Credentials are the kernel's; these tests need two users and so
 * root. Without root they check the same with the one user there is: that a name which is not one's own is not found.
 */
import { execFile, spawn } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { VarlinkClient } from '../../src/wire/client.js'
import { eventually, failure, NOBODY, type Puppet, Stage } from './stage.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const isRoot = process.getuid?.() === 0
const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'luo-users-'))
  folders.push(made)
  chmodSync(made, 0o755)
  return made
}

/** Runs luod until it ends by itself. */
function luod(args: string[], uid?: number): Promise<{ code: number; stderr: string }> {
  return new Promise((resolve) => {
    const { LUO_SOCKET, ...env } = process.env
    const options = { env, timeout: 5_000, ...(uid === undefined ? {} : { uid, gid: uid }) }
    execFile(process.execPath, [LUOD, ...args], options, (error, _, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stderr })
    })
  })
}

test.runIf(isRoot)('another user sees nothing of a workload, and can do nothing to it', async () => {
  await using stage = await Stage.start()
  const owner = await stage.supervised('web')
  const { member, session } = await owner.join('web')
  await owner.do('memfd', { name: 'store', size: 10 })
  const files = [{ token: '1', fd: 0 }]
  await owner.call('Preserve', { id: 'p', session, files, fds: 1 }, { send: ['store'] })
  await owner.call('Commit', { id: 'first', member })

  const other = await stage.puppet({ uid: NOBODY })
  expect((await other.call('List', {})).workloads).toEqual([])
  const attempts: [string, () => Promise<unknown>][] = [
    ['Show', () => other.call('Show', { workload: 'web' })],
    ['Update', () => other.call('Update', { id: '1', workload: 'web' })],
    ['UpdateGroup', () => other.call('UpdateGroup', { id: 'g', workloads: ['web'] })],
    ['Abort', () => other.call('Abort', { id: '2', workload: 'web' })],
    ['Claim', () => other.call('Claim', { id: '3', member })],
    ['Commit', () => other.call('Commit', { id: '4', member })],
    ['Ready', () => other.call('Ready', { id: '5', member, update: 'x' })],
    ['Refuse', () => other.call('Refuse', { id: '6', member, update: 'x', reason: 'x' })],
    ['Released', () => other.call('Released', { id: '7', member, update: 'x' })],
    ['Retrieve', () => other.call('Retrieve', { session, tokens: ['1'] })],
    ['Unpreserve', () => other.call('Unpreserve', { id: '8', session, tokens: ['1'] })],
    ['Preserve', () => other.call('Preserve', { id: '9', session, files: [], fds: 0 })],
    ['Subscribe', () => other.do('stream', { on: 's', method: 'Subscribe', input: { member } })],
    ['SpawnFailed', () => other.call('SpawnFailed', { id: '10', workload: 'web', update: 'x', reason: 'x' })],
  ]
  for (const [name, attempt] of attempts) expect([name, await failure(attempt())]).toEqual([name, 'LUO_NOT_FOUND'])
  expect(await failure(other.call('Inspect', {}))).toBe('EPERM')
  expect(await other.call('Status', {})).toMatchObject({ workloads: 0, sessions: 0, files: 0 })

  // The same name is another workload.
  await other.join('web')
  const shown = (await stage.call('List', {})).workloads
  expect(shown.map(({ uid }) => uid).sort()).toEqual([0, NOBODY])
  expect((await other.call('List', {})).workloads.map(({ uid }) => uid)).toEqual([NOBODY])
})

test.runIf(isRoot)('another user hears nothing of a workload, root hears of all', async () => {
  await using stage = await Stage.start()
  const other = await stage.puppet({ uid: NOBODY })
  const root = await stage.puppet()
  const watch = (puppet: Puppet) => puppet.do('stream', { on: 'watch', method: 'Watch', input: {} })
  // The first reply comes with the first event.
  const [mine, all] = [watch(other), watch(root)]
  const owner = await stage.puppet()
  await owner.join('secret')
  const theirs = await stage.puppet({ uid: NOBODY })
  await theirs.join('open')
  expect(await mine).toMatchObject({ workload: 'open' })
  expect(await all).toMatchObject({ workload: 'secret' })
  await eventually(
    () => root.events,
    (events) => events.some((event) => (event as { workload?: string }).workload === 'open'),
    'root hears nothing of it',
  )
  expect(JSON.stringify(other.events)).not.toContain('secret')
})

test.runIf(isRoot)('a pidfd of a process that is not its own gets nobody killed', async () => {
  await using stage = await Stage.start()
  const victim = await stage.puppet()
  const attacker = await stage.puppet({ uid: NOBODY })
  await attacker.join('web')
  await attacker.do('pidfd', { name: 'victim', pid: victim.pid })
  const spawned = { id: '1', workload: 'web', update: 'x', pid: victim.pid, fds: 1 }
  expect(await failure(attacker.call('Spawned', spawned, { send: ['victim'] }))).toBe('EPERM')
  expect(victim.alive).toBe(true)
})

test.runIf(isRoot)("a stolen ticket is worth nothing to another user's process", async () => {
  await using stage = await Stage.start()
  const owner = await stage.supervised('web')
  const { member } = await owner.join('web')
  await owner.call('Commit', { id: 'first', member })
  const result = stage.call('Update', { id: 'update', workload: 'web' })
  const successor = await stage.nextPuppet()
  const thief = await stage.puppet({ uid: NOBODY })
  await thief.do('pair', { name: 'ticket' })
  const join_ = { id: 'steal', workload: 'web', accepts: ['*'], fds: 1 }
  expect(await failure(thief.call('Join', join_, { send: ['ticket'] }))).toBe('LUO_TICKET')
  successor.kill()
  expect((await result).outcome).toBe('rolledBack')
})

test.runIf(isRoot)('a luod of another user is not trusted', async () => {
  const base = folder()
  chownSync(base, NOBODY, NOBODY)
  const socket = join(base, 'luod.sock')
  const foreign = spawn(process.execPath, [LUOD, '--socket', socket], { uid: NOBODY, gid: NOBODY, stdio: 'ignore' })
  try {
    await eventually(
      async () => (await VarlinkClient.connect(socket)).close(),
      () => true,
      'it does not start',
    )
    chmodSync(socket, 0o666)
    const client = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
    const answer = await new Promise<string>((resolve) => {
      const options = { uid: NOBODY - 1, gid: NOBODY - 1 }
      execFile(process.execPath, [client, 'list', '--socket', socket], options, (_, __, stderr) => resolve(stderr))
    })
    expect(answer).toContain(`uid ${NOBODY} listens there`)
  } finally {
    foreign.kill()
  }
})

test('a second luod at the same socket ends with code 3, and the first goes on', async () => {
  await using stage = await Stage.start()
  const { code, stderr } = await luod(['--socket', stage.socket])
  expect(code).toBe(3)
  expect(stderr).toContain('another luod listens')
  expect((await stage.call('Status', {})).pid).toBe(stage.luod.pid)
})

test('what a killed luod left at the socket is replaced; what is no socket is not', async () => {
  const socket = join(folder(), 'luod.sock')
  writeFileSync(socket, 'precious')
  const refused = await luod(['--socket', socket])
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('is no socket')])
  expect(existsSync(socket)).toBe(true)
  {
    await using stage = await Stage.start()
    stage.luod.kill('SIGKILL')
    await eventually(
      () => stage.luod.signalCode,
      (signal) => signal === 'SIGKILL',
      'it lives',
    )
    expect(existsSync(stage.socket)).toBe(true)
    const { code } = await luod(['--socket', stage.socket, '--exit-when-idle'])
    expect(code).toBe(0)
  }
})

test('a directory that is a link, or open to others, is refused by name, and nothing is made', async () => {
  const base = folder()
  mkdirSync(join(base, 'real'))
  symlinkSync(join(base, 'real'), join(base, 'link'))
  const link = await luod(['--socket', join(base, 'link', 'luod.sock')])
  expect([link.code, link.stderr]).toEqual([1, expect.stringContaining('is a link')])

  mkdirSync(join(base, 'open'))
  chmodSync(join(base, 'open'), 0o777)
  const open = await luod(['--socket', join(base, 'open', 'luod.sock')])
  expect([open.code, open.stderr]).toEqual([1, expect.stringContaining('can be written by other users')])
  expect(existsSync(join(base, 'real', 'luod.sock'))).toBe(false)
})

test.runIf(isRoot)('a directory of another user is refused', async () => {
  const base = folder()
  mkdirSync(join(base, 'foreign'))
  chownSync(join(base, 'foreign'), NOBODY, NOBODY)
  const { code, stderr } = await luod(['--socket', join(base, 'foreign', 'luod.sock')])
  expect([code, stderr]).toEqual([1, expect.stringContaining(`belongs to uid ${NOBODY}`)])
})

test('a socket path that is too long, and options that do not exist, are refused', async () => {
  const long = await luod(['--socket', `/tmp/${'x'.repeat(120)}`])
  expect([long.code, long.stderr]).toEqual([1, expect.stringContaining('ENAMETOOLONG')])
  expect((await luod(['--no-such-option'])).code).toBe(2)
})
