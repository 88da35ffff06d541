/**
 * What the kernel may answer to a luod that is protected, and to whoever stands by: each call of libc of either side
 * fails once, while one begins to stand by and gets what changes, takes over in an upgrade, and goes on after a crash.
 * luod goes on whatever fails, and loses the one that stands by at most; that one goes on with everything, or not at
 * all.
 */
import type { ChildProcess } from 'node:child_process'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { Daemon } from '../../src/daemon/daemon.js'
import { Protection } from '../../src/daemon/protection.js'
import { isLuoError } from '../../src/errors.js'
import { countOpenFds } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { luodOfOurOwn, optionsOfOurOwn } from '../daemon/in-process.js'
import { eventually, failure as failureOf, type Puppet, type Stage } from '../daemon/stage.js'
import { until } from '../until.js'
import { always, besides, FAILURES, failEach } from './interference.js'
import { NextLuods } from './next-luod.js'

type Spawn = (command: string, args: readonly string[], options: { stdio: unknown[] }) => ChildProcess
const next = vi.hoisted(() => ({ start: (_: number): ChildProcess => expect.fail('nobody is next') }))
vi.mock('node:child_process', async (original) => {
  const real = await original<typeof import('node:child_process')>()
  const spawn: Spawn = (command, args, options) =>
    args.includes('--line-fd')
      ? next.start(Number(options.stdio[3]))
      : (real.spawn as unknown as Spawn)(command, args, options)
  return { ...real, spawn }
})

/** A connection that lasts longer is shared. */
const SHARED_MS = 25

const log: string[] = []
let stage: Stage
let luod: Daemon
let puppet: Puppet
let nexts: NextLuods
let protection: Protection

beforeAll(async () => {
  const tell = (_: string, message: string) => log.push(message)
  ;({ stage, daemon: luod } = await luodOfOurOwn(tell))
  nexts = new NextLuods(optionsOfOurOwn(tell))
  next.start = (line) => nexts.start(line)
  puppet = await stage.puppet()
  for (const name of ['memory', 'more']) await puppet.do('memfd', { name, size: 4096 })
  const { session } = (await puppet.call('CreateSession', { id: 's', name: 'kept' }, { keep: ['session'] })).session
  const files = ['1', '2'].map((token) => ({ token, fd: 0 }))
  await puppet.call('Preserve', { id: 'p1', session, files: files.slice(0, 1), fds: 1 }, { send: ['memory'] })
  await puppet.call('Preserve', { id: 'p2', session, files: files.slice(1), fds: 1 }, { send: ['more'] })
  await puppet.do('stream', {
    on: 'machine',
    method: 'Emulate',
    input: { id: 'm', machine: 'machine' },
    keep: ['channel'],
  })
  luod.vault.put([{ key: 'lock', fd: createMemfd('lock') }])
  always(nexts.interference)
})
afterAll(async () => {
  always(() => undefined)
  await nexts[Symbol.asyncDispose]()
  luod.close()
  await stage[Symbol.asyncDispose]()
})

/** `isMortal`: it shares no connections, which whoever takes its place would end. */
function protect(isMortal = false): void {
  protection = new Protection({
    luod: {
      vault: luod.vault,
      followConnections: (told) => (isMortal ? () => {} : luod.followConnections(told)),
      mustBeReplaceable: (by) => luod.mustBeReplaceable(by),
      pause: () => luod.pause(),
      resume: () => luod.resume(),
      leave: () => luod.leave(),
    },
    ...{ main: 'next', args: [], checkVersions: () => {} },
    log: (_, message) => log.push(message),
  })
}

async function keepStandby(): Promise<void> {
  protection.keepStandby(0)
  await until(() => protection.status.standby === 'ready' || protection.status.lost > 0, 'it is ready, or lost')
}

/** What comes and goes while one stands by. */
async function change(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, SHARED_MS))
  const fd = besides(() => createMemfd('changes'))
  luod.vault.put([{ key: 'file/1000', fd }])
  luod.vault.remove(['file/1000'])
  fd.close()
  await new Promise((resolve) => setTimeout(resolve, 1))
}

let upgraded: boolean | undefined

const WAYS: readonly { way: string; ready: boolean; work(): Promise<void>; took: () => readonly string[][] }[] = [
  {
    way: 'a standby',
    ready: false,
    work: async () => {
      await keepStandby()
      if (protection.status.lost === 0) await change()
      expect(protection.status.lost).toBeLessThan(2)
      protection.close()
    },
    took: () => [[]],
  },
  {
    way: 'an upgrade',
    ready: true,
    work: async () => {
      upgraded = await protection
        .upgrade('next', () => {})
        .then(
          () => true,
          (error) => (isLuoError(error) ? false : Promise.reject(error)),
        )
      if (upgraded) luod.resume()
    },
    took: () => [upgraded ? ['upgrade'] : []],
  },
  {
    way: 'a crash',
    ready: true,
    work: async () => {
      await besides(() => nexts.killLuod())
      protection.close()
      await until(() => nexts.alive === 0, 'it goes on, or ends')
    },
    took: () => [['crash']],
  },
  {
    way: 'a crash that the kernel tells of',
    ready: true,
    work: async () => {
      await besides(() => nexts.killLuod())
      process.emit('SIGURG', 'SIGURG')
      protection.close()
      await until(() => nexts.alive === 0, 'it goes on, or ends')
    },
    took: () => [['crash']],
  },
]

test.each(WAYS.flatMap((way) => FAILURES.map(([failure, calls, instead]) => ({ ...way, failure, calls, instead }))))(
  '$way: $failure at each call costs one that stands by at most',
  async ({ way, ready, work, took, calls, instead }) => {
    await stage.atRest()
    const { connections, ...counts } = luod.counts()
    const before = countOpenFds()
    await failEach({
      ...{ calls, instead },
      before: async () => {
        nexts.begin()
        protect(way.startsWith('a crash'))
        if (ready) await keepStandby()
      },
      work,
      after: async ({ call, where }) => {
        protection.close()
        await until(() => nexts.alive === 0, `${where}: whoever was next has ended`)
        expect(took(), where).toContainEqual(nexts.tookOver.map(({ how }) => how))
        if (call === undefined && upgraded !== undefined) expect(upgraded).toBe(true)
        for (const { counts: counted } of nexts.tookOver) expect(counted, where).toMatchObject(counts)
        expect(process.listenerCount('SIGURG'), where).toBe(0)
        const { machines } = await stage.call('Machines', {})
        expect(machines, where).toMatchObject([{ programs: true }])
        expect((await stage.call('Status', {})).files, where).toBe(2)
        await eventually(countOpenFds, (count) => count <= before, `${where}: descriptors are left`)
      },
    })
    upgraded = undefined
    expect(log.filter((line) => /defect|TypeError/.test(line))).toEqual([])
  },
)

test('a luod that has no memory for its records refuses to be replaced, and goes on', async () => {
  nexts.begin()
  protect()
  always((call, args) => (call === 'pwrite' ? 'ENOSPC' : nexts.interference(call, args)))
  try {
    const input = { id: 'full', workload: 'full' }
    await puppet.do('stream', { on: 'supervisor', method: 'Supervise', input })
    expect(await failureOf(protection.upgrade('next', () => {}))).toBe('ENOSPC')
  } finally {
    always(nexts.interference)
    protection.close()
  }
  await until(() => nexts.alive === 0, 'the successor has ended')
  expect(nexts.tookOver).toEqual([])
  await puppet.call('CreateSession', { id: 'room', name: 'room' }, { keep: ['room'] })
  await puppet.do('close', { name: 'room' })
})
