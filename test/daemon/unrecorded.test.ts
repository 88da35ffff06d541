/** An update whose beginning cannot be written down: whoever asked is told, and it does not go on. */
import { expect, test } from 'vitest'
import { Daemon } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { userLimits } from '../../src/daemon/user-limits.js'
import { interfere } from '../../src/sys/ffi.js'
import { listenUnix } from '../../src/sys/unix.js'
import { eventually, failure, Stage } from './stage.js'

test.each([
  ['Update', { id: 'one', workload: 'web' }],
  ['UpdateGroup', { id: 'two', workloads: ['web'] }],
] as const)(
  '%s fails with ENOSPC, the version that runs goes on, and is updated when there is space',
  async (method, input) => {
    const registry = await loadHandlers([])
    await using stage = await Stage.around((socket) => {
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
    const puppet = await stage.supervised('web')
    const { member } = await puppet.join('web')
    await puppet.call('Commit', { id: 'c', member })
    const stateOf = async () => (await stage.call('List', {})).workloads[0]?.state
    await eventually(stateOf, (state) => state === 'running', 'it does not run')
    const client = await stage.client()
    interfere((call) => (call === 'pwrite' ? 'ENOSPC' : undefined))
    try {
      expect(await failure(client.call(method, input as never))).toBe('ENOSPC')
    } finally {
      interfere(undefined)
    }
    await eventually(stateOf, (state) => state === 'running', 'the update goes on')
    const again = await client.call(method, { ...input, deadline_ms: 1 } as never)
    expect(JSON.stringify(again.parameters)).toContain('rolledBack')
    await eventually(stateOf, (state) => state === 'running', 'it is not as before')
  },
)
