/** One user takes everything that luod gives a user. Another one's preserves and updates go through all the same. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { eventually, NOBODY, Stage } from '../daemon/stage.js'

const GREEDY = fileURLToPath(new URL('greedy.mjs', import.meta.url))
const isRoot = process.getuid?.() === 0
const OTHER = NOBODY - 1
const MIB = 2 ** 20
/** What a greedy user may make luod take: see docs/security.md, and what Node adds to that. */
const MOST_MEMORY = 512 * MIB

function memoryOf(pid: number): number {
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}

async function greedy(stage: Stage): Promise<ChildProcess> {
  const child = spawn(process.execPath, [GREEDY, stage.socket], {
    ...{ uid: NOBODY, gid: NOBODY },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines: string[] = []
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(line))
  await eventually(
    () => lines,
    (seen) => seen.includes('full') || child.exitCode !== null,
    'it does not fill luod',
  )
  expect(child.exitCode).toBeNull()
  return child
}

test.runIf(isRoot)('a user who takes everything starves nobody else', async () => {
  await using stage = await Stage.start({ args: ['--limit', 'files=2000', '--limit', 'sessions=100'] })
  const { nofile } = await stage.call('Status', {})
  const pid = stage.luod.pid ?? 0
  const attacker = await greedy(stage)
  try {
    // Another user, with sessions of its own.
    const other = await stage.puppet({ uid: OTHER })
    const { session } = (await other.call('CreateSession', { id: 'c', name: 'mine' }, { keep: ['s'] })).session
    for (let n = 0; n < 20; n++) {
      await other.do('memfd', { name: `f${n}`, size: 4096 })
      const files = [{ token: `${n}`, fd: 0 }]
      await other.call('Preserve', { id: `p${n}`, session, files, fds: 1 }, { send: [`f${n}`] })
    }
    expect((await other.call('Retrieve', { session, offset: 0 })).files).toHaveLength(20)
    // And an update, from its request to its commit.
    const old = await stage.supervised('web')
    const { member } = await old.join('web')
    await old.call('Commit', { id: 'first', member })
    const asked = stage.call('Update', { id: 'u', workload: 'web', deadline_ms: 20_000 })
    const successor = await stage.nextPuppet()
    const joined = await successor.join('web')
    const claim = successor.call('Claim', { id: 'claim', member: joined.member })
    const { update = '' } = await old.event('prepare')
    await old.call('Ready', { id: 'ready', member, update })
    await claim
    const whole = successor.call('Commit', { id: 'commit', member: joined.member })
    await old.event('release')
    await old.call('Released', { id: 'released', member, update })
    await whole
    expect((await asked).outcome).toBe('committed')
    const { open_fds } = await stage.call('Status', {})
    expect(open_fds).toBeLessThan(nofile / 2)
    expect(memoryOf(pid)).toBeLessThan(MOST_MEMORY)
    expect(attacker.exitCode).toBeNull()
  } finally {
    attacker.kill('SIGKILL')
    await once(attacker, 'exit')
  }
  // It leaves nothing behind.
  await eventually(
    () => stage.call('Status', {}),
    ({ usage }) => usage.every(({ uid }) => uid !== NOBODY),
    'something of it is there',
  )
})
