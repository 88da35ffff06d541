import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { decodeRecords, Records } from '../abi/records.js'
import type { HistoryEvent } from '../protocol/types.js'
import { History } from './history.js'
import { HISTORY_POSTPONE_MS, HISTORY_REPEAT_MS, LIMITS, NOTIFY_DELAY_MS } from './limits.js'

const START = Date.parse('2026-01-01T00:00:00.000Z')
let bytes: Uint8Array<ArrayBuffer>
let busy: boolean
let defects: unknown[]
let history: History

beforeEach(() => {
  vi.useFakeTimers()
  bytes = new Uint8Array()
  busy = false
  defects = []
  const records = Records.create({
    size: () => bytes.length,
    read: (offset, length) => bytes.slice(offset, offset + length),
    write: (part, offset) => bytes.set(part, offset),
    resize: (size) => {
      const larger = new Uint8Array(size)
      larger.set(bytes.subarray(0, size))
      bytes = larger
    },
  })
  history = new History({ records, busy: () => busy, onDefect: (error) => defects.push(error) })
})
afterEach(() => vi.useRealTimers())

function event(name: string, more: Partial<HistoryEvent> & { ms?: number } = {}): HistoryEvent {
  const { ms = 0, ...rest } = more
  return { event: name, at: new Date(START + ms).toISOString(), uid: 1, workload: 'web', ...rest }
}

function recorded(): Record<string, unknown>[] {
  return [...(decodeRecords(bytes).entries.get('history')?.values() ?? [])]
}

const names = (events: readonly HistoryEvent[]) => events.map(({ event: name }) => name)

test('a workload has the last of its events, and the number of those before', () => {
  for (let count = 0; count < LIMITS.history_events + 5; count++) history.add(event(`e${count}`))
  const { events, dropped } = history.of(1, 'web', LIMITS.history_events)
  expect([names(events)[0], events.length, dropped]).toEqual(['e5', LIMITS.history_events, 5])
  expect(names(history.of(1, 'web', 2).events)).toEqual([
    `e${LIMITS.history_events + 3}`,
    `e${LIMITS.history_events + 4}`,
  ])
  history.flush()
  expect(recorded().map(({ event: name }) => name)).toEqual(names(events))
})

test('what is recorded is what is answered, also after much was forgotten', () => {
  for (let round = 0; round < 3 * LIMITS.history_events; round++) {
    history.add(event(`e${round}`, { workload: `w${round % 3}`, detail: 'x'.repeat(round % 50) }))
    if (round % 100 === 0) history.flush()
  }
  history.flush()
  const all = ['w0', 'w1', 'w2'].flatMap((name) => history.of(1, name, LIMITS.history_events).events)
  const byName = (a: { event?: unknown }, b: { event?: unknown }) => (String(a.event) < String(b.event) ? -1 : 1)
  expect(
    recorded()
      .map(({ number, ...rest }) => rest)
      .sort(byName),
  ).toEqual([...all].sort(byName))
})

test('names that are made up push out the oldest of that user, and nothing of others', () => {
  history.add(event('mine', { uid: 2 }))
  history.add(event('first'))
  for (let count = 0; count < LIMITS.history_user_events + 100; count++) {
    history.add(event('joined', { workload: `made-up-${count}` }))
    if (count % 1000 === 0) history.flush()
  }
  history.flush()
  expect(recorded().length).toBe(LIMITS.history_user_events + 1)
  expect([history.has(1, 'web'), history.has(1, 'made-up-0'), history.has(1, 'made-up-200')]).toEqual([
    false,
    false,
    true,
  ])
  expect(names(history.of(2, 'web', 10).events)).toEqual(['mine'])
})

test('a workload that goes on is not pushed out by made-up names', () => {
  for (let count = 0; count < LIMITS.history_user_events * 2; count++) {
    history.add(event('joined', { workload: `made-up-${count}` }))
    if (count % 500 === 0) history.add(event('updated', { detail: String(count) }))
  }
  expect(history.of(1, 'web', 3).events.map(({ detail }) => detail)).toEqual(['7000', '7500', '8000'])
})

test('a refusal that is repeated is one event, with how often and when last', () => {
  history.add(event('joined'))
  const refusal = { code: 'LUO_WORKLOAD_ACTIVE', method: 'Join', by_uid: 1 }
  for (let count = 0; count < 10_000; count++) history.add(event('refused', { ...refusal, pid: count, ms: count }))
  history.add(event('refused', { ...refusal, code: 'LUO_LIMIT' }))
  const { events, dropped } = history.of(1, 'web', 10)
  expect([names(events), dropped]).toEqual([['joined', 'refused', 'refused'], 0])
  expect(events[1]).toEqual(
    event('refused', { ...refusal, pid: 9_999, times: 10_000, last_at: event('', { ms: 9_999 }).at }),
  )
  history.flush()
  expect(recorded()[1]).toMatchObject({ times: 10_000 })
})

test('a refusal long after the one before is an event of its own', () => {
  const refusal = { code: 'LUO_LIMIT', method: 'Join', by_uid: 1 }
  history.add(event('refused', refusal))
  history.add(event('refused', { ...refusal, ms: HISTORY_REPEAT_MS }))
  history.add(event('refused', { ...refusal, ms: HISTORY_REPEAT_MS + 1 }))
  expect(history.of(1, 'web', 10).events.map(({ times }) => times)).toEqual([undefined, 2])
})

test('a refusal that was forgotten is not counted on', () => {
  const refusal = { code: 'LUO_LIMIT', method: 'Join', by_uid: 1 }
  history.add(event('refused', refusal))
  for (let count = 0; count < LIMITS.history_events; count++) history.add(event('joined'))
  history.add(event('refused', refusal))
  expect(history.of(1, 'web', 1).events).toEqual([event('refused', refusal)])
})

test('everything of a user comes in the order in which it happened, and root sees that of all', () => {
  history.add(event('a'))
  history.add(event('b', { workload: undefined }))
  history.add(event('c', { uid: 2 }))
  history.add(event('d', { workload: 'other' }))
  history.add(event('e'))
  expect(names(history.all(1, 10).events)).toEqual(['a', 'b', 'd', 'e'])
  expect(names(history.all(1, 2).events)).toEqual(['d', 'e'])
  expect(names(history.all(undefined, 10).events)).toEqual(['a', 'b', 'c', 'd', 'e'])
  expect(history.all(7, 10)).toEqual({ events: [], dropped: 0 })
  expect([history.usersWith('web'), history.usersWith('none')]).toEqual([[1, 2], []])
})

test('events are recorded a moment later, in one transaction', () => {
  history.add(event('a'))
  history.add(event('b'))
  expect(recorded()).toEqual([])
  vi.advanceTimersByTime(NOTIFY_DELAY_MS)
  expect(recorded().map(({ event: name }) => name)).toEqual(['a', 'b'])
})

test('nothing is recorded while requests are held back, but for a second at most', () => {
  busy = true
  history.add(event('a'))
  vi.advanceTimersByTime(HISTORY_POSTPONE_MS / 2)
  expect(recorded()).toEqual([])
  busy = false
  vi.advanceTimersByTime(NOTIFY_DELAY_MS)
  expect(recorded().length).toBe(1)
  busy = true
  history.add(event('b'))
  vi.advanceTimersByTime(HISTORY_POSTPONE_MS)
  expect(recorded().length).toBe(2)
})

test('events that cannot be recorded are told of, and kept in memory', () => {
  history.add(event('a', { detail: 'x'.repeat(2 * 1024 * 1024) }))
  history.flush()
  expect(defects.length).toBe(1)
  expect(names(history.of(1, 'web', 1).events)).toEqual(['a'])
  history.add(event('b'))
  history.flush()
  expect(recorded().map(({ event: name }) => name)).toEqual(['b'])
})
