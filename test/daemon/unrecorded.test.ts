/** An update whose beginning cannot be written down: whoever asked is told, and it does not go on. */
import { expect, test } from 'vitest'
import { Daemon } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { userLimits } from '../../src/daemon/user-limits.js'
import { closeAll } from '../../src/sys/fd.js'
import { interfere } from '../../src/sys/ffi.js'
import { listenUnix } from '../../src/sys/unix.js'
import { eventually, failure, Stage } from './stage.js'

/** luod in this process, so that its calls of libc can fail. */
async function stageOfOurOwn(): Promise<Stage> {
  const registry = await loadHandlers([])
  return Stage.around((socket) => {
    Daemon.begin({
      ...{ version: '1', nofile: 20_000, registry, listener: listenUnix(socket, 0o666), log: () => {} },
      limits: userLimits({}, { nofile: 20_000, shared: true, memory: 2 ** 30 }),
      replacement: {
        protection: { kind: 'none', ready: false, lost: 0 },
        settled: () => undefined,
        upgrade: () => Promise.reject(new Error()),
      },
    })
  })
}

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
    await using stage = await stageOfOurOwn()
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
    await using stage = await stageOfOurOwn()
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
