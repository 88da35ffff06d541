/** Processes that luod may not kill: the kernel refuses, as it does when a process has another uid to go back to. */
import { afterEach, expect, test } from 'vitest'
import { interfere, SYS } from '../../src/sys/ffi.js'
import { luodOfOurOwn } from './in-process.js'
import { failure } from './stage.js'

afterEach(() => interfere(undefined))

function refuseSignals(): void {
  interfere((call, args) => (call === 'syscall' && args[0] === SYS.pidfdSendSignal ? 'EPERM' : undefined))
}

test('one of them does not become a version', async () => {
  await using stage = (await luodOfOurOwn()).stage
  const puppet = await stage.puppet()
  refuseSignals()
  expect(await failure(puppet.join('web'))).toBe('EPERM')
  interfere(undefined)
  expect(await puppet.join('web')).toMatchObject({ origin: 'new' })
})

test('one that was a successor when it could still be killed does not hold the old version up', async () => {
  await using stage = (await luodOfOurOwn()).stage
  const old = await stage.supervised('web')
  const { member } = await old.join('web')
  await old.call('Commit', { id: 'first', member })
  const result = stage.call('Update', { id: 'update', workload: 'web' })
  await stage.nextPuppet()
  refuseSignals()
  await stage.call('Abort', { id: 'abort', workload: 'web' })
  expect(await result).toMatchObject({ outcome: 'rolledBack' })
  expect((await stage.call('Show', { workload: 'web' })).workload.state).toBe('running')
})
