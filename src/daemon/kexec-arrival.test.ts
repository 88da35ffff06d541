import { expect, test } from 'vitest'
import type { HistoryEvent } from '../protocol/types.js'
import { Events } from './events.js'
import { tellArrival } from './kexec-arrival.js'
import { Usage } from './usage.js'
import { userLimits } from './user-limits.js'

test('when all that crossed is taken up it says so once, and listens no longer', () => {
  let listening = 0
  const events = new Events(new Usage(userLimits({}, { nofile: 20_000, shared: true, memory: 2 ** 30 })))
  const told: HistoryEvent[] = []
  events.onEvent((event) => told.push(event))
  const counted = Object.assign(Object.create(events) as Events, {
    emit: (...args: Parameters<Events['emit']>) => events.emit(...args),
    onEvent: (keep: (event: HistoryEvent) => void) => {
      const stop = events.onEvent(keep)
      listening += 1
      return () => {
        listening -= 1
        stop()
      }
    },
  })
  const workloads = ['a', 'b'].map((name) => ({ uid: 7, name }))
  const state = { events: counted, workloads: () => workloads } as unknown as Parameters<typeof tellArrival>[0]
  const over = () => told.filter(({ event }) => event === 'kexecOver').length
  tellArrival(state, { luod: '1', times: {}, lost: [] })
  expect(listening).toBe(1)
  events.emit(7, 'joined', { workload: 'a' })
  events.emit(7, 'claimed', { workload: 'a', outcome: 'committed' })
  events.emit(8, 'released', { workload: 'b' })
  expect([over(), listening]).toEqual([0, 1])
  events.emit(7, 'released', { workload: 'b' })
  expect([over(), listening]).toEqual([1, 0])
  events.emit(7, 'released', { workload: 'b' })
  expect(over()).toBe(1)
})
