import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { type Change, decodeRecords, type Json, Records, type RecordType } from './records.js'
import { MemoryStorage } from './records-memory.js'
import { verifyRecords } from './records-verify.js'

const put = (type: RecordType, key: string, value: Json): Change => ({ type, key, value })
const workload = {
  uid: 0,
  name: 'web',
  keep_ms: 0,
  generation: 1,
  state: 'running',
  after: [],
  member: '1',
  session: '1',
}
const member = { id: 'm', workload: '1', uid: 0, pid: 9, accepts: [], after: [], ready: true, origin: 'new' }
const session = { uid: 0, name: 'web', custody: 'held', keep_ms: 0, created_at: 1, workload: '1' }
const file = { session: '1', token: '1', kind: 'memfd', compatible: 'memfd', bytes: 1, data: '0' }
const update = {
  ...{ id: 'u', workload: '1', name: 'web', phase: 'starting', deadline_ms: 1, by: { uid: 0, pid: 1 }, old: '1' },
  ...{
    ticket: false,
    targets: [],
    asked: false,
    checked: false,
    failure: {},
    started_ms: 0,
    asked_at_ms: 0,
    timeline: [],
  },
}
const WHOLE: readonly Change[] = [
  put('meta', '0', { version: '1', pid: 1, started_at: 1, next_session: 1024 }),
  put('workload', '1', workload),
  put('session', '1', session),
  put('file', '1', file),
  put('file', '2', { ...file, token: '2' }),
  put('member', '1', { ...member, lifetime: '1' }),
  put('lifetime', '1', { session: '1', pid: 9, member: '1', inode: '5', given_at: 1 }),
  put('update', '1', update),
  put('answer', '1', { uid: 0, id: 'a', digest: 'd', method: 'Update', updates: ['1'] }),
  put('answer', '2', { uid: 0, id: 'b', digest: 'd', method: 'Join', output: {} }),
  put('history', '1', { number: 1, event: 'started', at: 'now', uid: 0 }),
  put('flb', '1', { compatible: 'x', state: {} }),
]

function bytesOf(changes: readonly Change[], without: readonly string[] = []): Uint8Array {
  const memory = new MemoryStorage()
  Records.create(memory).transaction(changes.filter(({ type, key }) => !without.includes(`${type}/${key}`)))
  return memory.bytes
}

/** Of each type that is not kept as a whole. */
function lostOf(bytes: Uint8Array): Record<string, number> {
  const lost = [...verifyRecords(bytes).kept].map(([type, { records, kept }]) => [type, records - kept] as const)
  return Object.fromEntries(lost.filter(([, count]) => count > 0))
}

describe('verify', () => {
  test('what is whole has no findings, and is kept', () => {
    const { findings, kept } = verifyRecords(bytesOf(WHOLE))
    expect(findings).toEqual([])
    expect(Object.fromEntries(kept)).toMatchObject({ file: { records: 2, kept: 2 }, answer: { records: 2, kept: 2 } })
    expect(lostOf(bytesOf(WHOLE))).toEqual({})
  })

  test.each([
    ['session/1', { file: 2, lifetime: 1 }],
    ['workload/1', { member: 1, update: 1, answer: 1 }],
    ['member/1', { update: 1, answer: 1 }],
    ['update/1', { answer: 1 }],
    ['lifetime/1', {}],
    ['meta/0', {}],
    ['file/1', {}],
  ])('without %s, what cannot be without it is not kept', (gone, lost) => {
    expect(lostOf(bytesOf(WHOLE, [gone]))).toEqual(lost)
  })

  test('a name that is there twice is said, and the first is kept', () => {
    const twice = bytesOf([
      ...WHOLE,
      put('workload', '12', { ...workload, generation: 2 }),
      put('session', '7', session),
      put('file', '3', file),
      put('workload', '13', { ...workload, uid: 1, member: undefined, session: undefined }),
    ])
    expect(verifyRecords(twice).findings).toEqual([
      { what: 'workload', key: '12', why: 'workload 1 has the name web of uid 0 too' },
      { what: 'session', key: '7', why: 'session 1 has the name web of uid 0 too' },
      { what: 'file', key: '3', why: 'file 1 has the token 1 of session 1 too' },
    ])
    expect(lostOf(twice)).toEqual({ workload: 1, session: 1, file: 1 })
  })

  test('a record without one of its fields is said, and not kept', () => {
    const damaged = bytesOf([...WHOLE, put('session', '1', { ...session, custody: 'mine' })])
    expect(verifyRecords(damaged).findings).toEqual([{ what: 'session', key: '1', why: 'it has no good custody' }])
    expect(lostOf(damaged)).toEqual({ session: 1, file: 2, lifetime: 1 })
  })

  test('each bit that is another one is found, or changes nothing', () => {
    const bytes = bytesOf(WHOLE).slice(0, 4096)
    const { entries } = decodeRecords(bytes)
    const used = bytes.findLastIndex((byte) => byte !== 0) + 1
    const unseen: Uint8Array[] = []
    for (let at = 0; at < used; at++) {
      for (let bit = 1; bit < 256; bit *= 2) {
        const flipped = bytes.slice()
        flipped[at] = (flipped[at] ?? 0) ^ bit
        // Of another version: it is that, and no more is known of it.
        if (at >= 8 && at < 12) expect(codeOf(() => verifyRecords(flipped))).toBe('LUO_RECORDS_VERSION')
        else if (verifyRecords(flipped).findings.length === 0) unseen.push(flipped)
      }
    }
    // Padding, and the word that nobody reads.
    expect(unseen.length).toBeGreaterThan(0)
    for (const flipped of unseen) expect(verifyRecords(flipped).entries).toEqual(entries)
  })

  test('each length that is too short is found', () => {
    const bytes = bytesOf(WHOLE)
    const used = bytes.findLastIndex((byte) => byte !== 0) + 1
    for (let length = 0; length < used; length++) {
      expect([length, verifyRecords(bytes.subarray(0, length)).findings.length > 0]).toEqual([length, true])
    }
  })
})
