/** Whoever follows the records has, at the end, what whoever opens them has, whatever was read when. */
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { type Change, decodeRecords, RECORD_TYPES, Records } from './records.js'
import { RecordsFollower } from './records-follow.js'
import { MemoryStorage } from './records-memory.js'

const HEADER_BYTES = 64

/** Answers the same memory again and again, as storages may. */
class Memory extends MemoryStorage {
  readonly #answer = new Uint8Array(64 * 1024)

  override read(offset: number, length: number): Uint8Array {
    const there = super.read(offset, length)
    if (there.length > this.#answer.length) return there.slice()
    this.#answer.set(there)
    return this.#answer.subarray(0, there.length)
  }
}

const contentOf = (records: Pick<Records, 'entries'>) =>
  RECORD_TYPES.map((type) => [...records.entries(type)].sort(([a], [b]) => Number(a) - Number(b)))
const snapshotOf = (records: Pick<Records, 'entries'>) =>
  new Map(
    RECORD_TYPES.flatMap((type) =>
      [...records.entries(type)].map(([key, value]) => [`${type}/${key}`, value] as const),
    ),
  )
const put = (key: string, value: Record<string, unknown>, type: Change['type'] = 'file'): Change => ({
  type,
  key,
  value,
})

let storage: Memory
let records: Records
let follower: RecordsFollower
beforeEach(() => {
  storage = new Memory()
  records = Records.create(storage)
  follower = new RecordsFollower(storage)
})

function readAll(maxBytes = 1024): Set<string> {
  const all = new Set<string>()
  for (let more = true; more; ) {
    const read = follower.refresh(maxBytes)
    for (const { type, key } of read.changed) all.add(`${type}/${key}`)
    more = read.more
  }
  return all
}

describe('what is read on', () => {
  test('is each entry once, also one that is larger than what is read in one go', () => {
    records.transaction([put('1', { a: 1 }), put('2', { text: 'x'.repeat(5_000) }), put('3', { a: 3 }, 'session')])
    expect(follower.refresh(1)).toEqual({ changed: [{ type: 'file', key: '1' }], more: true })
    expect([...readAll()]).toEqual(['file/2', 'session/3'])
    expect(contentOf(follower)).toEqual(contentOf(records))
    expect([...readAll()]).toEqual([])
    records.transaction([put('1', { a: 2 }), { type: 'session', key: '3', value: undefined }])
    expect([...readAll()]).toEqual(['file/1', 'session/3'])
    expect(contentOf(follower)).toEqual(contentOf(records))
  })

  test('is the very same object for what has not changed, also when the log was compacted', () => {
    const text = 'x'.repeat(10_000)
    records.transaction([put('1', { kept: true }), put('2', { kept: false })])
    readAll()
    const kept = follower.get('file', '1')
    for (let turn = 0; turn < 60; turn++) records.transaction([put('3', { turn, text })])
    const changed = readAll()
    records.transaction([{ type: 'file', key: '2', value: undefined }])
    for (const key of readAll()) changed.add(key)
    expect([...changed].sort()).toEqual(['file/2', 'file/3'])
    expect(follower.get('file', '1')).toBe(kept)
    const { records: last } = follower.finish()
    expect(last.get('file', '1')).toBe(kept)
  })

  test('is read again when it was torn', () => {
    records.transaction([put('1', { a: 1 })])
    readAll()
    records.transaction([put('2', { a: 2 }), put('3', { a: 3 })])
    const whole = storage.bytes.slice()
    storage.bytes[HEADER_BYTES + 40] = 7
    expect(codeOf(() => readAll())).toBe('LUO_RECORDS')
    storage.bytes = whole
    expect([...readAll()]).toEqual(expect.arrayContaining(['file/2', 'file/3']))
    expect(contentOf(follower)).toEqual(contentOf(records))
  })
})

describe('at the end', () => {
  test('the records are what they are, whatever was read when', () => {
    const change = fc.record({
      type: fc.constantFrom<Change['type']>('file', 'session', 'meta'),
      key: fc.integer({ min: 0, max: 9 }).map(String),
      value: fc.option(fc.record({ n: fc.integer(), text: fc.nat(40_000).map((length) => 'x'.repeat(length)) }), {
        nil: undefined,
      }),
    })
    const steps = fc.array(fc.oneof(fc.array(change, { minLength: 1, maxLength: 4 }), fc.constantFrom(1, 5_000, 1e9)))
    fc.assert(
      fc.property(steps, (all) => {
        const disk = new Memory()
        const writer = Records.create(disk)
        const reader = new RecordsFollower(disk)
        let seen = snapshotOf(reader)
        /** What is another one than before was told. */
        const compare = (now: Pick<Records, 'entries'>, changed: readonly { type: string; key: string }[]) => {
          const told = new Set(changed.map(({ type, key }) => `${type}/${key}`))
          const after = snapshotOf(now)
          for (const name of new Set([...seen.keys(), ...after.keys()])) {
            if (seen.get(name) !== after.get(name)) expect(told).toContain(name)
          }
          seen = after
        }
        for (const step of all) {
          if (typeof step === 'number') compare(reader, reader.refresh(step).changed)
          else writer.transaction(step as Change[])
        }
        const { records: last, changed } = reader.finish()
        compare(last, changed)
        expect(contentOf(last)).toEqual(contentOf(writer))
        // They go on, and are whole.
        last.transaction([put('99', { a: 1 }, 'answer')])
        expect(contentOf(Records.open(disk))).toEqual(contentOf(last))
      }),
      { numRuns: 150 },
    )
  })

  test('what was read and is another by now is seen, also if the log begins and ends at the same place', () => {
    records.transaction([put('1', { a: 1 }), put('2', { b: 1 })])
    readAll()
    const other = new Memory()
    Records.create(other).transaction([put('1', { a: 1 }), put('2', { b: 2 })])
    storage.bytes = other.bytes
    expect([...readAll()]).toEqual([])
    const { records: last, changed } = follower.finish()
    expect(contentOf(last)).toEqual(contentOf(Records.open(other)))
    expect(changed).toEqual([{ type: 'file', key: '2' }])
  })

  test('damage is refused, or named and passed over, as if nothing had been read before', () => {
    for (let key = 1; key <= 6; key++) {
      records.transaction([put(String(key), { key })])
      if (key === 3) readAll()
    }
    const { length } = storage.bytes
    const end = HEADER_BYTES + 6 * 40
    for (const at of [0, 9, 17, 23, HEADER_BYTES + 1, HEADER_BYTES + 50, HEADER_BYTES + 130, end - 10, length - 1]) {
      const damaged = storage.bytes.slice()
      damaged[at] = (damaged[at] ?? 0) ^ 0x55
      const outcome = (disk: Memory, reader: RecordsFollower, salvage: boolean) => {
        const damage: string[] = []
        try {
          const { records: last } = reader.finish(salvage ? (why) => damage.push(why) : undefined)
          return { damage, content: contentOf(last), again: contentOf(Records.open(disk)) }
        } catch (error) {
          return (error as { code: string }).code
        }
      }
      for (const salvage of [false, true]) {
        const [a, b] = [new Memory(), new Memory()]
        a.bytes = storage.bytes.slice()
        b.bytes = damaged.slice()
        const read = new RecordsFollower(a)
        read.refresh(130)
        a.bytes = damaged.slice()
        expect(outcome(a, read, salvage)).toEqual(outcome(b, new RecordsFollower(b), salvage))
      }
    }
    expect(decodeRecords(storage.bytes).entries.get('file')?.size).toBe(6)
  })
})
