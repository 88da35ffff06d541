/** Who is next, and when: with builds of luod that are none, and say only what is to be said over the line. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { rejectionOf } from '../../test/code-of.js'
import { until } from '../../test/until.js'
import { LuoError } from '../errors.js'
import { countOpenFds } from '../sys/fd.js'
import { Poller } from '../sys/poller.js'
import { Protection } from './protection.js'
import { Vault } from './vault.js'

let directory: string
let before: number
let protection: Protection
/** What was done with luod. */
let done: string[]
/** Whether it can be replaced, each time it is asked. */
let replaceable: boolean[]

beforeEach(() => {
  // Made at its first use, and kept.
  Poller.shared()
  before = countOpenFds()
  directory = mkdtempSync(join(tmpdir(), 'luo-protection-'))
  done = []
  replaceable = []
})

afterEach(async () => {
  protection.close()
  rmSync(directory, { recursive: true })
  await until(() => countOpenFds() === before, 'that no file is left')
})

/** Says hello, and after a while that it is ready. */
function build(name: string, { claims = true, readyMs = 0 } = {}): string {
  const main = join(directory, `${name}.cjs`)
  const hello = { version: name, pid: 1, records: [], machines: [], connections: false, ...(claims ? { claims } : {}) }
  writeFileSync(
    main,
    `const { writeSync } = require('node:fs')
     const say = (message) => writeSync(3, JSON.stringify(message))
     say({ hello: ${JSON.stringify(hello)} })
     setTimeout(() => say({ ready: { entries: 0 } }), ${readyMs})
     setInterval(() => {}, 1000)`,
  )
  return main
}

function protect(main: string): Protection {
  protection = new Protection({
    luod: {
      vault: new Vault(),
      followConnections: () => () => {},
      mustBeReplaceable: () => {
        done.push('asked')
        if (replaceable.shift() === false) throw new LuoError('LUO_UPDATING', 'not now')
      },
      pause: () => void done.push('paused'),
      resume: () => void done.push('resumed'),
      leave: () => ({ entries: [], [Symbol.dispose]: () => {} }),
    },
    ...{ main, args: [], checkVersions: () => {}, log: () => {} },
  })
  return protection
}

const standby = () => protection.status.standby

async function standing(main: string): Promise<number | undefined> {
  protect(main).keepStandby(0)
  await until(() => standby() === 'ready', 'a standby')
  return protection.status.pid
}

const upgrade = (main: string) => rejectionOf(protection.upgrade(main, (phase) => void done.push(phase)))

test('what luod refuses before it stands still costs not even the standby, and later it has another one', async () => {
  const pid = await standing(build('standby'))
  const next = build('next')
  replaceable = [false]
  expect([await upgrade(next), done.splice(0)]).toEqual(['LUO_UPDATING', ['asked']])
  replaceable = [true, false]
  expect([await upgrade(next), done.splice(0)]).toEqual(['LUO_UPDATING', ['asked', 'starting', 'ready', 'asked']])
  expect([standby(), protection.status.pid]).toEqual(['ready', pid])
  replaceable = [true, true, false]
  const all = ['asked', 'starting', 'ready', 'asked', 'paused', 'asked', 'resumed']
  expect([await upgrade(next), done.splice(0)]).toEqual(['LUO_UPDATING', all])
  await until(() => standby() === 'ready', 'another standby')
  expect([protection.status.pid !== pid, protection.status.lost]).toEqual([true, 0])
})

test('a standby that is starting is waited for: until it has everything it must not be next beside one that has', async () => {
  protect(build('slow', { readyMs: 150 })).keepStandby(0)
  const seen: string[] = []
  replaceable = [true, false]
  const next = build('next')
  expect(await rejectionOf(protection.upgrade(next, (phase) => void seen.push(`${phase}, ${standby()}`)))).toBe(
    'LUO_UPDATING',
  )
  expect(seen).toEqual(['starting, ready', 'ready, ready'])
})

test('a build that cannot be next beside another one is none for an upgrade, and there is none beside it', async () => {
  const older = build('older', { claims: false })
  const pid = await standing(build('standby'))
  expect([await upgrade(older), done.splice(0)]).toEqual(['LUO_UNSUPPORTED', ['asked', 'starting']])
  expect([standby(), protection.status.pid]).toEqual(['ready', pid])
  protection.close()
  await standing(older)
  expect([await upgrade(build('next')), done]).toEqual(['LUO_UNSUPPORTED', ['asked']])
  expect(standby()).toBe('ready')
})
