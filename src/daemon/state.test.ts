import { expect, test } from 'vitest'
import { Records } from '../abi/records.js'
import { MemoryStorage } from '../abi/records-memory.js'
import { HandlerRegistry } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import { type HeldFile, heldFiles } from '../handlers/held-file.js'
import { Journal } from './journal.js'
import { State } from './state.js'
import { Usage } from './usage.js'
import { userLimits } from './user-limits.js'
import { Vault } from './vault.js'

function newState(): State {
  const orchestrator = new Orchestrator({ registry: new HandlerRegistry<HeldFile>(), files: heldFiles })
  const usage = new Usage(userLimits({}, { nofile: 20_000, shared: false, memory: 2 ** 30 }))
  const records = Records.create(new MemoryStorage())
  const journal = new Journal(records, new Vault(), () => {})
  const meta = { version: '1', pid: 1, started_at: 0, next_session: 0 }
  return new State(orchestrator as never, records, { log: () => {}, usage, journal, meta })
}

test('a workload that has ended takes nothing of the next one of its name with it, however late it is looked at', () => {
  const state = newState()
  const first = state.ensure(0, 'web')
  state.endIfUnused(first)
  expect(state.lookup(0, 'web')).toBeUndefined()
  const second = state.ensure(0, 'web')
  state.endIfUnused(first)
  expect(state.lookup(0, 'web')).toBe(second)
  expect(state.usage.of(0).workloads).toBe(1)
  state.endIfUnused(second)
  expect(state.workloadCount).toBe(0)
  expect(state.usage.of(0).workloads).toBe(0)
  state.sessions.close()
  state.history.close()
})
