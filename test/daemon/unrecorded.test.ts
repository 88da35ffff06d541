/** An update whose beginning cannot be written down: whoever asked is told, and it does not go on. */
import { expect, test } from 'vitest'
import { closeAll } from '../../src/sys/fd.js'
import { interfere } from '../../src/sys/ffi.js'
import { luodOfOurOwn } from './in-process.js'
import { eventually, failure } from './stage.js'

/** While it runs nothing can be recorded. */
async function withoutSpace(run: () => Promise<void>): Promise<void> {
  interfere((call) => (call === 'pwrite' ? 'ENOSPC' : undefined))
  try {
    await run()
  } finally {
    interfere(undefined)
  }
}

const METHODS = [
  ['Update', { id: 'one', workload: 'web' }],
  ['UpdateGroup', { id: 'two', workloads: ['web'] }],
] as const

test.each(METHODS)(
  '%s fails with ENOSPC, the version that runs goes on, and is updated when there is space',
  async (method, input) => {
    await using stage = (await luodOfOurOwn()).stage
    const puppet = await stage.supervised('web')
    const { member } = await puppet.join('web')
    await puppet.call('Commit', { id: 'c', member })
    const stateOf = async () => (await stage.call('List', {})).workloads[0]?.state
    await eventually(stateOf, (state) => state === 'running', 'it does not run')
    const client = await stage.client()
    await withoutSpace(async () => expect(await failure(client.call(method, input as never))).toBe('ENOSPC'))
    await eventually(stateOf, (state) => state === 'running', 'the update goes on')
    const again = await client.call(method, { ...input, deadline_ms: 1 } as never)
    expect(JSON.stringify(again.parameters)).toContain('rolledBack')
    await eventually(stateOf, (state) => state === 'running', 'it is not as before')
  },
)

test.each(METHODS)(
  '%s tells the supervisor when it is recorded that it was asked, and not before',
  async (method, input) => {
    await using stage = (await luodOfOurOwn()).stage
    const member = await stage.client()
    const { parameters } = await member.call('Join', { id: 'j', workload: 'web', accepts: ['*'] })
    await member.call('Commit', { id: 'c', member: parameters.member })
    const told = member.stream('Subscribe', { member: parameters.member })
    await told.next()
    const [supervisor, client] = [await stage.client(), await stage.client()]
    const heard: string[] = []
    const listening = (async () => {
      for await (const { parameters: said, fds } of supervisor.stream('Supervise', { id: 's', workload: 'web' })) {
        heard.push(said.event)
        closeAll(fds)
      }
    })().catch(() => {})
    const asked = async (event: string) => eventually(async () => heard.includes(event), Boolean, `no ${event}`)
    await asked('supervising')
    await withoutSpace(async () => expect(await failure(client.call(method, input as never))).toBe('ENOSPC'))
    await client.call('Status', {})
    expect(heard).not.toContain('start')
    const again = client.call(method, { ...input, deadline_ms: 1_000 } as never).catch(() => {})
    await asked('start')
    supervisor.close()
    await Promise.all([again, listening])
  },
)
