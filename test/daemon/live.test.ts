/** The client library in real processes, through real updates; each test has a luod of its own. */
import { once } from 'node:events'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { eventually, failure, type Puppet, Stage } from './stage.js'

const stageForLive = (args: string[] = []) => Stage.start({ puppet: 'live-puppet.mjs', args })

/** The old version is told to do `first` things, then it is updated; the successor has joined. */
async function updated(stage: Stage, prepare: (old: Puppet) => Promise<void>, joinOptions: object = {}) {
  const old = await stage.supervised('web', ['--restart'])
  await old.do('join', joinOptions)
  await prepare(old)
  await old.do('ready')
  const result = startUpdate(stage)
  const next = await stage.nextPuppet()
  await next.do('join', joinOptions)
  return { old, next, result }
}

function startUpdate(stage: Stage) {
  const result = stage.call('Update', { id: `${Math.random()}`, workload: 'web', deadline_ms: 5_000 })
  result.catch(() => {})
  return result
}

const answer = (path: string) =>
  new Promise<string>((resolve, reject) => {
    const asked = request({ socketPath: path, agent: false }, (response) => {
      let body = ''
      response.on('data', (data) => {
        body += data
      })
      response.on('end', () => resolve(body))
    })
    asked.on('error', reject)
    asked.end()
  })

test('memory is handed over; what the successor writes before its commit is its own, and vanishes', async () => {
  await using stage = await stageForLive()
  const { old, next, result } = await updated(stage, async (puppet) => {
    expect(await puppet.do('memory', { name: 'a', size: 100, format: 'a/1' })).toMatchObject({ size: 100, first: 0 })
    await puppet.do('write', { name: 'a', value: 7 })
  })
  expect(await next.do('state')).toMatchObject({ active: true, successor: true, origin: 'update', workload: 'web' })
  expect(await next.do('memory', { name: 'a', size: 999 })).toMatchObject({ size: 100, first: 7, format: 'a/1' })
  await next.do('write', { name: 'a', value: 99 })
  // The old version is frozen: its stray writes vanish as well.
  await old.do('write', { name: 'a', value: 55, at: 1 })
  expect(await next.do('read', { name: 'a', at: 1 })).toBe(0)
  await next.do('ready')
  expect((await result).outcome).toBe('committed')
  expect(await next.do('read', { name: 'a' })).toBe(7)
  expect(await next.do('read', { name: 'a', at: 1 })).toBe(0)
  await old.event('released')
  await eventually(
    () => old.alive,
    (alive) => !alive,
    'the old version does not end',
  )
})

test('after a rollback the old version has its memory as it was, and goes on writing it', async () => {
  await using stage = await stageForLive()
  const { old, next, result } = await updated(stage, async (puppet) => {
    await puppet.do('memory', { name: 'a', size: 100 })
    await puppet.do('write', { name: 'a', value: 7 })
  })
  await next.do('memory', { name: 'a', size: 100 })
  await next.do('write', { name: 'a', value: 99 })
  next.kill()
  expect((await result).outcome).toBe('rolledBack')
  await old.event('resume')
  expect(await old.do('read', { name: 'a' })).toBe(7)
  await old.do('write', { name: 'a', value: 8 })
  const again = startUpdate(stage)
  const third = await stage.nextPuppet()
  await third.do('join')
  expect(await third.do('memory', { name: 'a', size: 100 })).toMatchObject({ first: 8 })
  await third.do('ready')
  expect((await again).outcome).toBe('committed')
})

test('memory grows up to its limit, also in the next version, and not while it is not its own', async () => {
  await using stage = await stageForLive()
  const { next, result } = await updated(stage, async (puppet) => {
    await puppet.do('memory', { name: 'a', size: 4096, max: 65_536 })
    await puppet.do('write', { name: 'a', value: 7 })
    expect(await puppet.do('grow', { name: 'a', size: 8192 })).toEqual({ size: 8192, before: 0 })
  })
  expect(await next.do('memory', { name: 'a', size: 4096 })).toMatchObject({ size: 8192, first: 7 })
  expect(await failure(next.do('grow', { name: 'a', size: 12_288 }))).toBe('EBUSY')
  await next.do('ready')
  await result
  expect(await next.do('grow', { name: 'a', size: 65_536 })).toMatchObject({ size: 65_536 })
  expect(await failure(next.do('grow', { name: 'a', size: 65_537 }))).toBe('EINVAL')
  expect(await next.do('read', { name: 'a' })).toBe(7)
})

test('a new format is written beside the old one, and takes its place at the commit only', async () => {
  await using stage = await stageForLive()
  const { old, next, result } = await updated(stage, async (puppet) => {
    await puppet.do('memory', { name: 'a', size: 100, format: 'a/1' })
    await puppet.do('write', { name: 'a', value: 7 })
  })
  await next.do('memory', { name: 'a', size: 100 })
  expect(await next.do('replace', { name: 'a', size: 200, format: 'a/2' })).toMatchObject({ size: 200, first: 0 })
  await next.do('write', { name: 'a.new', value: 70 })
  next.kill()
  expect((await result).outcome).toBe('rolledBack')
  expect(await old.do('look', { name: 'a' })).toEqual({ size: 100, format: 'a/1', first: 7 })

  const again = startUpdate(stage)
  const third = await stage.nextPuppet()
  await third.do('join')
  await third.do('memory', { name: 'a', size: 100 })
  await third.do('replace', { name: 'a', size: 200, format: 'a/2' })
  await third.do('write', { name: 'a.new', value: 71 })
  await third.do('ready')
  expect((await again).outcome).toBe('committed')
  const { workload, sessions } = await stage.call('Show', { workload: 'web' })
  expect(workload.formats).toEqual(['a/2'])
  expect(sessions[0]?.files).toBe(2)
  const last = startUpdate(stage)
  const fourth = await stage.nextPuppet()
  await fourth.do('join', { accepts: ['a/2'] })
  expect(await fourth.do('memory', { name: 'a', size: 1 })).toEqual({ size: 200, format: 'a/2', first: 71 })
  await fourth.do('ready')
  expect((await last).outcome).toBe('committed')
})

test('a version that does not accept a format is turned away with LUO_STATE_VERSION', async () => {
  await using stage = await stageForLive()
  const old = await stage.supervised('web')
  await old.do('join')
  await old.do('memory', { name: 'a', size: 100, format: 'a/2' })
  await old.do('ready')
  const result = startUpdate(stage)
  const next = await stage.nextPuppet()
  void next.do('join', { accepts: ['a/1'] }).catch(() => {})
  const { outcome, timeline } = await result
  expect(outcome).toBe('rolledBack')
  expect(timeline?.find(({ code }) => code)?.code).toBe('LUO_STATE_VERSION')
  expect(old.events).toEqual([])
})

test('a file is handed over open: same file, same position', async () => {
  await using stage = await stageForLive()
  const path = join(stage.directory, 'journal')
  const { next, result } = await updated(stage, async (puppet) => {
    const { number, own } = (await puppet.do('file', { name: 'journal', path })) as { number: number; own: number }
    expect(number).toBe(own)
    await puppet.do('append', { number, text: 'one ' })
  })
  const { ino, number } = (await next.do('file', { name: 'journal' })) as { ino: number; number: number }
  expect(ino).toBe(statSync(path).ino)
  await next.do('ready')
  await result
  await next.do('append', { number, text: 'two' })
  expect(readFileSync(path, 'utf8')).toBe('one two')
  expect(await next.do('file', { name: 'no such file' })).toBe(null)
})

test('what a version adds after ready is handed over too', async () => {
  await using stage = await stageForLive()
  const old = await stage.supervised('web')
  await old.do('join')
  await old.do('ready')
  await old.do('memory', { name: 'late', size: 10 })
  await old.do('write', { name: 'late', value: 5 })
  const result = startUpdate(stage)
  const next = await stage.nextPuppet()
  await next.do('join')
  expect(await next.do('memory', { name: 'late', size: 10 })).toMatchObject({ first: 5 })
  // And what the new version adds before its commit is there after it.
  await next.do('memory', { name: 'added', size: 10 })
  await next.do('write', { name: 'added', value: 6 })
  await next.do('ready')
  await result
  expect(await next.do('read', { name: 'added' })).toBe(6)
  expect((await stage.call('Status', {})).files).toBe(3)
})

test('a Unix listener moves, and its path stays', async () => {
  await using stage = await stageForLive()
  const path = join(stage.directory, 'web.sock')
  const { next, result } = await updated(stage, async (puppet) => {
    await puppet.do('serve', { path, says: 'old' })
    expect(await answer(path)).toBe('old')
  })
  await next.do('serve', { path, says: 'new' })
  const waiting = answer(path)
  await next.do('ready')
  expect((await result).outcome).toBe('committed')
  expect(await waiting).toBe('new')
  expect(existsSync(path)).toBe(true)
  expect(await answer(path)).toBe('new')
})

test('a listener that the new version does not take up is closed', async () => {
  await using stage = await stageForLive()
  const path = join(stage.directory, 'web.sock')
  const { next, result } = await updated(stage, async (puppet) => {
    await puppet.do('serve', { path, says: 'old' })
  })
  await next.do('ready')
  expect((await result).outcome).toBe('committed')
  const gone = async () => ['ECONNREFUSED', 'ENOENT'].includes(String(await answer(path).catch((error) => error.code)))
  await eventually(gone, Boolean, 'somebody listens')
})

test.each(['prepare', 'freeze'])(
  'a %s hook that throws refuses, with its reason, and everything goes on',
  async (at) => {
    await using stage = await stageForLive()
    const path = join(stage.directory, 'web.sock')
    const { old, next, result } = await updated(stage, async (puppet) => {
      await puppet.do('serve', { path, says: 'old' })
      await puppet.do('refuse', { at, reason: 'closing the books' })
    })
    void next.do('memory', { name: 'a', size: 1 }).catch(() => {})
    const { outcome, timeline } = await result
    expect(outcome).toBe('rolledBack')
    expect(timeline?.find(({ code }) => code)).toMatchObject({ code: 'LUO_REFUSED', reason: 'closing the books' })
    expect((await old.event('resume')).reason).toBe('closing the books')
    expect(await answer(path)).toBe('old')
  },
)

test('a crashed service is started again with its state; one that left on purpose is not', async () => {
  await using stage = await stageForLive()
  const first = await stage.supervised('web', ['--restart'])
  await first.do('join')
  await first.do('memory', { name: 'a', size: 10 })
  await first.do('ready')
  await first.do('write', { name: 'a', value: 3 })
  first.kill()
  const second = await stage.nextPuppet()
  expect(await second.do('join')).toMatchObject({ origin: 'crash', successor: true })
  expect(await second.do('memory', { name: 'a', size: 10 })).toMatchObject({ first: 3 })
  await second.do('ready')
  expect((await stage.call('Show', { workload: 'web' })).workload.state).toBe('running')
  await second.do('leave')
  expect(await second.do('state')).toMatchObject({ active: false })
  await eventually(
    () => stage.call('Status', {}),
    ({ files }) => files === 0,
    'its state is kept',
  )
})

test('a service whose luod is killed goes on serving', async () => {
  await using stage = await stageForLive()
  const path = join(stage.directory, 'web.sock')
  const service = await stage.puppet()
  await service.do('join', { workload: 'web', reconnectMs: 100 })
  await service.do('memory', { name: 'a', size: 10 })
  await service.do('serve', { path, says: 'serving' })
  await service.do('ready')
  stage.luod.kill('SIGKILL')
  await eventually(
    () => service.do('state'),
    (state) => (state as { active: boolean }).active === false,
    'it is active',
  )
  expect(await answer(path)).toBe('serving')
  await service.do('write', { name: 'a', value: 1 })
})

test('an old version whose luod is killed before it gave its word goes on serving', async () => {
  await using stage = await stageForLive()
  const path = join(stage.directory, 'web.sock')
  const { old, next } = await updated(
    stage,
    async (puppet) => {
      await puppet.do('memory', { name: 'a', size: 10 })
      await puppet.do('serve', { path, says: 'old' })
      await puppet.do('write', { name: 'a', value: 4 })
    },
    { reconnectMs: 500 },
  )
  await next.do('memory', { name: 'a', size: 10 })
  const waiting = answer(path)
  stage.luod.kill('SIGKILL')
  expect(await waiting).toBe('old')
  expect(await old.do('read', { name: 'a' })).toBe(4)
  expect(await failure(next.do('ready'))).toBe('LUO_GONE')
})

test('a workload whose luod cannot be reached fails to join; outside a workload all is plain', async () => {
  await using stage = await stageForLive()
  const service = await stage.puppet()
  const missing = join(stage.directory, 'no.sock')
  expect(await failure(service.do('join', { workload: 'web', socket: missing }))).toBe('LUO_NO_DAEMON')

  const plain = await stage.puppet()
  expect(await plain.do('join')).toMatchObject({ active: false, successor: false, origin: 'new' })
  expect(await plain.do('memory', { name: 'a', size: 10, max: 20, format: 'a/1' })).toMatchObject({ size: 10 })
  expect(await plain.do('grow', { name: 'a', size: 20 })).toEqual({ size: 20, before: 0 })
  expect(await failure(plain.do('grow', { name: 'a', size: 21 }))).toBe('EINVAL')
  const path = join(stage.directory, 'plain.sock')
  await plain.do('serve', { path, says: 'plain' })
  await plain.do('ready')
  expect(await answer(path)).toBe('plain')
  // Without the native part: it is not even loaded.
  expect(await plain.do('maps')).toBe(false)
})

test('a successor with too few descriptors for the state fails with an error, and the old version serves', async () => {
  await using stage = await stageForLive()
  const path = join(stage.directory, 'web.sock')
  const old = await stage.supervised('web')
  await old.do('join')
  for (let count = 0; count < 60; count++) await old.do('memory', { name: `m${count}`, size: 10 })
  await old.do('serve', { path, says: 'old' })
  await old.do('ready')
  const limited = ['sh', '-c', `ulimit -n 64; exec ${stage.puppetCommand.map((word) => `'${word}'`).join(' ')}`]
  const result = stage.call('Update', { id: 'u', workload: 'web', deadline_ms: 5_000, command: limited })
  const next = await stage.nextPuppet()
  await next.do('join')
  // It lets go of its session when its connection is lost, and may be killed before it can tell us.
  const seen = failure(next.do('memory', { name: 'm1', size: 10 }))
  const code = await Promise.race([seen, result.then(() => 'LUO_GONE')])
  expect(['LUO_PROTOCOL', 'LUO_GONE', 'EMFILE']).toContain(code)
  if (next.alive) next.kill()
  expect((await result).outcome).toBe('rolledBack')
  expect(await answer(path)).toBe('old')
})

test('a private luod ends when nothing is left to do, and not before', async () => {
  const { stage, release } = await Stage.startPrivate({ puppet: 'live-puppet.mjs' })
  await using _ = stage
  const service = await stage.puppet()
  await service.do('join', { workload: 'web' })
  release()
  await stage.idleTime()
  expect(stage.luod.exitCode).toBe(null)
  const ended = once(stage.luod, 'exit')
  await service.do('leave')
  expect(await ended).toEqual([0, null])
  expect(existsSync(stage.socket)).toBe(false)
})
