import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { LuoError } from '../errors.js'
import {
  type Change,
  decodeRecords,
  type Json,
  RECORD_TYPES,
  RECORDS_VERSION,
  Records,
  salvageRecords,
} from './records.js'
import { RecordsFollower } from './records-follow.js'
import { MemoryStorage } from './records-memory.js'

const HEADER_BYTES = 64
/** As in records.ts: from here on a log is compacted when it has this much more than twice what is alive. */
const COMPACT_FROM_BYTES = 256 * 1024
const MAX_JSON_BYTES = 1024 * 1024

class Memory extends MemoryStorage {
  largest = 0

  override write(bytes: Uint8Array, offset: number): void {
    if (offset + bytes.length > this.bytes.length) throw new LuoError('ENOSPC', 'write behind the end of the file')
    super.write(bytes, offset)
  }

  override resize(size: number): void {
    super.resize(size)
    this.largest = Math.max(this.largest, size)
  }
}

/** Fails at one call and at all that come after it, as a process that has ended, or a disk that is full. */
class Failing extends Memory {
  calls = 0
  failAt = Number.POSITIVE_INFINITY
  /** How much of the write that fails is written. */
  torn = 0

  override write(bytes: Uint8Array, offset: number): void {
    if (this.calls++ >= this.failAt) {
      // The aligned word of the header is never torn.
      const part = bytes.length === 8 ? 0 : Math.floor(bytes.length * this.torn)
      if (part > 0 && this.calls - 1 === this.failAt) super.write(bytes.subarray(0, part), offset)
      throw new LuoError('ENOSPC', 'the disk is full')
    }
    super.write(bytes, offset)
  }

  override resize(size: number): void {
    if (this.calls++ >= this.failAt) throw new LuoError('ENOSPC', 'the disk is full')
    super.resize(size)
  }
}

const put = (key: string, value: Json, type: Change['type'] = 'file'): Change => ({ type, key, value })
const remove = (key: string, type: Change['type'] = 'file'): Change => ({ type, key, value: undefined })
/** Everything that is in it, in one string; of long texts their length and checksum. */
const contentOf = (records: Pick<Records, 'entries'>): string =>
  JSON.stringify(
    RECORD_TYPES.map((type) => [...records.entries(type)].sort(([a], [b]) => (a < b ? -1 : 1))),
    (_key, value: unknown) =>
      typeof value === 'string' && value.length > 100 ? `${value.length} ${crc32(value)}` : value,
  )
function salvage(storage: Memory): { records: Records; damage: string[] } {
  const damage: string[] = []
  const { records } = new RecordsFollower(storage).finish((why) => damage.push(why))
  return { records, damage }
}
const reopened = (storage: Memory): string => contentOf(Records.open(new Memory(storage.bytes)))
/** A header, and entries whose checksums are right, whatever else is wrong with them. */
function fileOf(...entries: { operation?: number; type?: number; json: string; length?: number }[]): Uint8Array {
  const encoded = entries.map(({ operation = 1, type = 0, json, length = Buffer.byteLength(json) }) => {
    const bytes = Buffer.alloc(Math.ceil((24 + Buffer.byteLength(json)) / 8) * 8)
    bytes.writeUInt32LE(length, 0)
    bytes.writeUInt8(operation, 8)
    bytes.writeUInt8(type, 9)
    bytes.write(json, 24)
    bytes.writeUInt32LE(crc32(bytes.subarray(8, 24 + length)), 4)
    return bytes
  })
  const log = Buffer.concat(encoded)
  const header = Buffer.alloc(HEADER_BYTES)
  header.write('LUODREC\0', 'latin1')
  header.writeUInt32LE(RECORDS_VERSION, 8)
  header.writeUIntLE(1 + (log.length / 8) * 2 ** 22, 16, 6)
  header.writeUInt16LE(crc32(header.subarray(16, 22)) & 0xffff, 22)
  return Buffer.concat([header, log])
}

let storage: Memory
let records: Records
beforeEach(() => {
  storage = new Memory()
  records = Records.create(storage)
})

describe('the bytes of records', () => {
  test('are a header of 64 bytes', () => {
    expect(Buffer.from(storage.bytes.subarray(0, HEADER_BYTES)).toString('hex')).toBe(
      `4c554f4452454300${'03000000'}${'00000000'}${'0100000000000672'}${'00'.repeat(40)}`,
    )
  })

  test('are an entry with its checksum, its key and its JSON, and the header says how long the log is', () => {
    records.transaction([put('7', { name: 'web', uid: 0 }, 'session')])
    expect(Buffer.from(storage.bytes.subarray(16, 24)).toString('hex')).toBe('0100800100000aae')
    expect(Buffer.from(storage.bytes.subarray(64, 112)).toString('hex')).toBe(
      ['16000000', '534f613a', '01', '02', '0000', 'eb851a48', '0700000000000000']
        .concat(Buffer.from('{"name":"web","uid":0}').toString('hex'), '0000')
        .join(''),
    )
  })

  test('are an entry without JSON for a record that was taken away', () => {
    records.transaction([remove('18446744073709551615', 'update')])
    expect(Buffer.from(storage.bytes.subarray(64, 88)).toString('hex')).toMatch(/^00000000.{8}02040000b33b69d8f{16}$/)
  })
})

describe('records', () => {
  test('are what was put, and not what was taken away', () => {
    records.transaction([put('1', { a: 1 }), put('2', { b: 2 }), put('1', { w: 0 }, 'workload')])
    records.transaction([put('1', { a: 3 }), remove('2'), remove('99')])
    expect(records.get('file', '1')).toEqual({ a: 3 })
    expect(records.get('file', '2')).toBeUndefined()
    expect(records.get('workload', '1')).toEqual({ w: 0 })
    expect([...records.entries('file')]).toEqual([['1', { a: 3 }]])
    expect([...records.entries('session')]).toEqual([])
  })

  test('are the same when they are opened again, and go on from there', () => {
    records.transaction([put('1', { text: 'é\0"\u2028' }), put('18446744073709551615', { big: true }, 'meta')])
    records.transaction([remove('1'), put('2', {})])
    const again = Records.open(storage)
    expect(contentOf(again)).toBe(contentOf(records))
    again.transaction([put('3', { c: [null, 1.5] })])
    expect(reopened(storage)).toBe(contentOf(again))
    expect(again.get('meta', '18446744073709551615')).toEqual({ big: true })
  })

  test('are read by decodeRecords too, from the bytes alone', () => {
    records.transaction([put('1', { a: 1 })])
    const { version, entries } = decodeRecords(storage.bytes)
    expect(version).toBe(3)
    expect([...(entries.get('file') ?? [])]).toEqual([['1', { a: 1 }]])
  })

  test('change in the order of the changes in one transaction', () => {
    records.transaction([put('1', { a: 1 }), remove('1'), put('2', { b: 1 }), put('2', { b: 2 })])
    expect(contentOf(records)).toBe(
      JSON.stringify(RECORD_TYPES.map((type) => (type === 'file' ? [['2', { b: 2 }]] : []))),
    )
    expect(reopened(storage)).toBe(contentOf(records))
  })

  test('write nothing for no changes', () => {
    const before = storage.bytes.slice()
    records.transaction([])
    expect(Buffer.compare(storage.bytes, before)).toBe(0)
  })

  test('are empty when they are created over others', () => {
    records.transaction([put('1', { a: 1 })])
    const empty = contentOf(Records.create(storage))
    expect(empty).toBe(JSON.stringify(RECORD_TYPES.map(() => [])))
    expect(reopened(storage)).toBe(empty)
  })

  test('are as in a map, after any transactions and reopenings', () => {
    const key = fc.constantFrom('0', '1', '2', '3', '18446744073709551615')
    const small = fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 4 })
    const large = fc.integer({ min: 1, max: 60_000 }).map((length): Json => ({ text: 'x'.repeat(length) }))
    const value = fc.oneof(small, large, fc.constant(undefined))
    const change = fc.record({ type: fc.constantFrom(...RECORD_TYPES), key, value })
    const step = fc.oneof(
      { weight: 8, arbitrary: fc.array(change, { maxLength: 8 }) },
      { weight: 1, arbitrary: fc.constant('reopen' as const) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const model = new Map(RECORD_TYPES.map((type) => [type, new Map<string, Json>()]))
        const disk = new Memory()
        let current = Records.create(disk)
        for (const changes of steps) {
          if (changes === 'reopen') {
            current = Records.open(disk)
            continue
          }
          current.transaction(changes as Change[])
          for (const { type, key: name, value: wanted } of changes) {
            if (wanted === undefined) model.get(type)?.delete(name)
            else model.get(type)?.set(name, wanted)
          }
        }
        const expected = contentOf({ entries: (type) => model.get(type) ?? new Map() })
        expect(contentOf(current)).toBe(expected)
        expect(reopened(disk)).toBe(expected)
      }),
      { numRuns: 60 },
    )
  })
})

describe('compaction', () => {
  test('keeps the file bounded and the content the same, however many transactions there are', () => {
    const alive = 20
    const text = 'x'.repeat(1000)
    for (let turn = 0; turn < 6000; turn++) {
      records.transaction([put(String(turn % alive), { turn, text }), put('0', { turn }, 'meta')])
    }
    expect(storage.largest).toBeLessThan(3 * COMPACT_FROM_BYTES)
    expect([...records.entries('file').values()].map(({ turn }) => turn)).toEqual(
      Array.from({ length: alive }, (_, index) => 6000 - alive + index),
    )
    expect(records.get('meta', '0')).toEqual({ turn: 5999 })
    expect(reopened(storage)).toBe(contentOf(records))
  })

  test('comes in time also for records that were opened, not created', () => {
    records.transaction([put('1', { text: 'x'.repeat(50_000) })])
    for (let turn = 0; turn < 100; turn++) {
      Records.open(storage).transaction([put('1', { turn, text: 'x'.repeat(50_000) })])
    }
    expect(storage.largest).toBeLessThan(4 * COMPACT_FROM_BYTES)
    expect(Records.open(storage).get('file', '1')).toMatchObject({ turn: 99 })
  })

  test('gives back the space of what was taken away', () => {
    const keys = Array.from({ length: 40 }, (_, index) => String(index))
    records.transaction(keys.map((key) => put(key, { text: 'x'.repeat(50_000) })))
    const full = storage.size()
    expect(full).toBeGreaterThan(2_000_000)
    for (const key of keys) records.transaction([remove(key)])
    for (let turn = 0; turn < 8000; turn++) records.transaction([put('1', { turn, text: 'x'.repeat(100) })])
    expect(storage.size()).toBeLessThan(2 * COMPACT_FROM_BYTES)
    expect(reopened(storage)).toBe(contentOf(records))
  })
})

describe('a process that ends, or a write that fails,', () => {
  /** Large ones, so that the transactions compact behind the log, then before it, then behind it again. */
  const transactions: Change[][] = Array.from({ length: 30 }, (_, turn) => [
    put(String(turn % 3), { turn, text: 'x'.repeat(24_000) }),
    put('0', { turn }, 'workload'),
    ...(turn % 4 === 3 ? [remove(String((turn + 1) % 3))] : []),
  ])

  test.each([0, 0.3, 0.999])('at any call leaves the state before or after the transaction (%f written)', (torn) => {
    const failedAt: number[] = []
    for (const changes of transactions) {
      const before = contentOf(records)
      const image = storage.bytes.slice()
      records.transaction(changes)
      const after = contentOf(records)
      expect(after).not.toBe(before)
      for (let failAt = 0; ; failAt++) {
        const failing = new Failing(image)
        failing.torn = torn
        const crashed = Records.open(failing)
        failing.failAt = failAt
        const code = codeOf(() => crashed.transaction(changes))
        if (code === undefined) {
          expect(reopened(failing)).toBe(after)
          failedAt.push(failAt)
          break
        }
        expect(code).toBe('ENOSPC')
        // It threw, so nothing has happened: not in memory, and not in the file.
        expect(contentOf(crashed)).toBe(before)
        expect(reopened(failing)).toBe(before)
        // Tried again when there is room it does all of it.
        failing.failAt = Number.POSITIVE_INFINITY
        crashed.transaction(changes)
        expect(contentOf(crashed)).toBe(after)
        expect(reopened(failing)).toBe(after)
      }
    }
    // Two writes without a compaction; with one more writes, and in the end the smaller size.
    expect(Math.min(...failedAt)).toBe(2)
    expect(Math.max(...failedAt)).toBeGreaterThanOrEqual(5)
  })

  test('just after any call leaves the state before or after the transaction', () => {
    class Observed extends Memory {
      images: Uint8Array[] = []
      override write(bytes: Uint8Array, offset: number): void {
        super.write(bytes, offset)
        this.images.push(this.bytes.slice())
      }
      override resize(size: number): void {
        super.resize(size)
        this.images.push(this.bytes.slice())
      }
    }
    const observed = new Observed()
    const all = Records.create(observed)
    for (const changes of transactions) {
      const before = contentOf(all)
      observed.images = []
      all.transaction(changes)
      const after = contentOf(all)
      const seen = observed.images.map((image) => reopened(new Memory(image)))
      for (const content of seen) expect([before, after]).toContain(content)
      // Once there it stays.
      expect(seen.lastIndexOf(before)).toBeLessThan(seen.indexOf(after))
    }
  })
})

describe('damage', () => {
  const first = { name: 'web', uid: 0 }
  let image: Uint8Array
  beforeEach(() => {
    // 48 bytes with two of padding, and 32 without: no flipped bit of the length ends at an entry.
    records.transaction([put('7', first, 'session'), put('8', { a: 12 })])
    image = storage.bytes.slice()
  })

  test.each([
    ['the magic', 0, 8, 'LUO_RECORDS'],
    ['the version', 8, 12, 'LUO_RECORDS_VERSION'],
    ['the range of the log, and its checksum', 16, 24, 'LUO_RECORDS'],
    ['the length of an entry', 64, 68, 'LUO_RECORDS'],
    ['the checksum of an entry', 68, 72, 'LUO_RECORDS'],
    ['the operation of an entry', 72, 73, 'LUO_RECORDS'],
    ['the type of an entry', 73, 74, 'LUO_RECORDS'],
    ['the unused bytes of an entry', 74, 80, 'LUO_RECORDS'],
    ['the key of an entry', 80, 88, 'LUO_RECORDS'],
    ['the JSON of an entry', 88, 110, 'LUO_RECORDS'],
    ['the second entry', 112, 144, 'LUO_RECORDS'],
  ])('of one bit of %s is refused, and nothing is changed', (_what, from, to, code) => {
    for (let bit = from * 8; bit < to * 8; bit++) {
      const at = bit >> 3
      const damaged = new Memory(image)
      damaged.bytes[at] = (damaged.bytes[at] ?? 0) ^ (1 << (bit & 7))
      const before = damaged.bytes.slice()
      expect(codeOf(() => Records.open(damaged))).toBe(code)
      expect(codeOf(() => decodeRecords(damaged.bytes))).toBe(code)
      expect(Buffer.compare(damaged.bytes, before)).toBe(0)
    }
  })

  test.each([
    ['the unused bytes of the header', 12, 16],
    ['the rest of the header', 24, 64],
    ['the padding of an entry', 110, 112],
    ['what is behind the log', 144, 160],
  ])('of %s changes nothing', (_what, from, to) => {
    image.fill(0xff, from, to)
    expect(reopened(new Memory(image))).toBe(contentOf(records))
  })

  test('of a file that was cut off anywhere is refused', () => {
    for (let length = 0; length < 144; length++) {
      expect(codeOf(() => Records.open(new Memory(image.subarray(0, length))))).toBe('LUO_RECORDS')
    }
    expect(reopened(new Memory(image.subarray(0, 144)))).toBe(contentOf(records))
  })

  test.each([
    ['an operation that is not known', fileOf({ operation: 3, json: '{}' })],
    ['a type that is not known', fileOf({ type: RECORD_TYPES.length, json: '{}' })],
    ['text that is not JSON', fileOf({ json: '{"a":' })],
    ['a length that leaves the log', fileOf({ json: '{}' }, { json: '{}', length: 64 })],
    ['a length that no record has', fileOf({ json: ' '.repeat(MAX_JSON_BYTES - 1).concat('{}') })],
  ])('that the checksum does not see is refused: %s', (_what, bytes) => {
    expect(codeOf(() => Records.open(new Memory(bytes)))).toBe('LUO_RECORDS')
  })

  test('is not in good files that are made the same way', () => {
    const good = Records.open(new Memory(fileOf({ json: '{"a":1}' }, { json: '{"b":2}', type: 4 })))
    expect([good.get('meta', '0'), good.get('update', '0')]).toEqual([{ a: 1 }, { b: 2 }])
  })

  test('is nothing, noise, or another file', () => {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(64), Buffer.alloc(4096, 0xa5), Buffer.from('#!/bin/sh\n')]) {
      expect(codeOf(() => Records.open(new Memory(bytes)))).toBe('LUO_RECORDS')
    }
  })

  test('is told apart from a newer version, whose number is in the message', () => {
    image[8] = 4
    expect(() => Records.open(new Memory(image))).toThrow('version 4')
    expect(() => salvage(new Memory(image))).toThrow('version 4')
  })
})

describe('what was added', () => {
  test('counts with the commit, and not before, in one step', () => {
    records.add([put('1', { a: 1 })])
    records.add([put('2', { b: 2 }), remove('1')])
    expect(reopened(storage)).toBe(contentOf(records))
    expect(records.get('file', '2')).toBeUndefined()
    records.commit()
    expect([...records.entries('file')]).toEqual([['2', { b: 2 }]])
    expect(reopened(storage)).toBe(contentOf(records))
    const image = storage.bytes.slice()
    records.commit()
    expect(Buffer.compare(image, storage.bytes)).toBe(0)
  })

  test('stays when the commit fails, and is nothing of itself when it is refused', () => {
    const failing = new Failing(storage.bytes)
    const crashed = Records.open(failing)
    crashed.add([put('1', { a: 1 })])
    expect(codeOf(() => crashed.add([put('2', { b: 1 }), put('-1', {})]))).toBe('EINVAL')
    failing.failAt = failing.calls
    expect(codeOf(() => crashed.commit())).toBe('ENOSPC')
    expect(reopened(failing)).toBe(contentOf(records))
    failing.failAt = Number.POSITIVE_INFINITY
    crashed.commit()
    expect([...crashed.entries('file')]).toEqual([['1', { a: 1 }]])
    expect(reopened(failing)).toBe(contentOf(crashed))
  })
})

describe('what is salvaged', () => {
  beforeEach(() => records.transaction([put('7', { a: 7 }), put('8', { a: 8 }), put('9', { a: 9 })]))

  test('is everything when nothing is damaged', () => {
    const { records: found, damage } = salvage(new Memory(storage.bytes))
    expect([contentOf(found), damage]).toEqual([contentOf(records), []])
  })

  test('is what is sound, and the records are whole again', () => {
    const damaged = new Memory(storage.bytes)
    damaged.bytes[64 + 32 + 24] = 0xff
    const { records: found, damage } = salvage(damaged)
    expect([...found.entries('file').keys()]).toEqual(['7', '9'])
    expect(damage).toEqual(['the entry at 96, of file 8: its checksum is wrong; that record is not there'])
    expect(reopened(damaged)).toBe(contentOf(found))
    expect(salvageRecords(storage.bytes).damage).toEqual([])
  })

  test('is the record before the damaged change of it; what is taken away with a good head is gone', () => {
    records.transaction([put('7', { a: 70 }), put('8', { a: 80 }), remove('9')])
    const damaged = new Memory(storage.bytes)
    const from = 64 + 3 * 32
    damaged.bytes[from + 24] = 0xff
    damaged.bytes[from + 2 * 32 + 4] = (damaged.bytes[from + 2 * 32 + 4] ?? 0) ^ 1
    const { records: found, damage } = salvage(damaged)
    expect(Object.fromEntries(found.entries('file'))).toEqual({ 7: { a: 7 }, 8: { a: 80 } })
    expect(damage).toEqual([
      `the entry at ${from}, of file 7: its checksum is wrong; that record is as it was before`,
      `the entry at ${from + 64}, of file 9: its checksum is wrong; that record is taken away, as it says`,
    ])
    expect(reopened(damaged)).toBe(contentOf(found))
  })

  test.each([...Array(24).keys()])('is all but one record, whichever bit of a head is wrong: byte %i', (byte) => {
    for (let bit = 0; bit < 8; bit++) {
      const damaged = new Memory(storage.bytes)
      damaged.bytes[64 + 32 + byte] = (damaged.bytes[64 + 32 + byte] ?? 0) ^ (1 << bit)
      const { records: found, damage } = salvage(damaged)
      expect(Object.fromEntries(found.entries('file'))).toEqual({ 7: { a: 7 }, 9: { a: 9 } })
      expect(damage).toHaveLength(1)
      expect(reopened(damaged)).toBe(contentOf(found))
    }
  })

  test('of an older build, which wrote no checks, is what has a length, or comes before what has none', () => {
    const older = (damagedAt: number) => {
      const bytes = fileOf({ json: '{"a":1}', type: 3 }, { json: '{"b":2}', type: 4 }, { json: '{"c":3}', type: 2 })
      bytes[damagedAt] = 0xff
      return salvage(new Memory(bytes)).records
    }
    const kept = (found: Records) => RECORD_TYPES.filter((type) => found.entries(type).size > 0)
    expect(kept(older(64 + 32 + 24))).toEqual(['session', 'file'])
    expect(kept(older(64 + 32 + 2))).toEqual(['file'])
  })

  test('is nothing without a range', () => {
    const lost = new Memory(storage.bytes)
    lost.bytes[17] = 0xff
    const { records: found, damage } = salvage(lost)
    expect([[...found.entries('file')], damage]).toEqual([[], ['the checksum of the range is wrong']])
    found.transaction([put('1', { a: 1 })])
    expect(reopened(lost)).toBe(contentOf(found))
    const nothing = salvage(new Memory())
    expect(nothing.damage).toEqual(['they do not begin as records do'])
  })
})

test('a log is tidied before it has to be compacted, and not when little is outdated', () => {
  const start = () => (Buffer.from(storage.bytes).readUInt32LE(16) % 2 ** 22) * 64
  for (let count = 0; count < 100; count++) records.transaction([put('1', { text: 'x'.repeat(1_000) })])
  records.tidy()
  expect(start()).toBe(HEADER_BYTES)
  for (let count = 0; count < 100; count++) records.transaction([put('1', { text: 'x'.repeat(1_000), count })])
  expect(start()).toBe(HEADER_BYTES)
  records.tidy()
  expect(start()).toBeGreaterThan(HEADER_BYTES)
  expect(reopened(storage)).toBe(contentOf(records))
  records.transaction([put('2', {})])
  expect(reopened(storage)).toBe(contentOf(records))
})

describe('a transaction that is refused', () => {
  const circular: Json = {}
  circular.self = circular

  test.each<[string, Change, string | undefined]>([
    ['a record that is too long', put('2', { text: 'x'.repeat(MAX_JSON_BYTES) }), 'LUO_LIMIT'],
    ['a value that is not JSON', put('2', circular), undefined],
    ['a key that is not a number', put('two', {}), undefined],
    ['a key above u64', put('18446744073709551616', { wrapped: true }), 'EINVAL'],
    ['a key below zero', put('-1', { wrapped: true }), 'EINVAL'],
    ['a key that would be another one in the file', put('01', { zero: true }), 'EINVAL'],
  ])('changes nothing: %s', (_what, change, code) => {
    records.transaction([put('0', { a: 0 }), put('1', { a: 1 })])
    const before = contentOf(records)
    const image = storage.bytes.slice()
    const refused = codeOf(() => records.transaction([put('1', { a: 2 }), change, remove('0')]))
    if (code !== undefined) expect(refused).toBe(code)
    else expect(refused).toBeInstanceOf(Error)
    expect(contentOf(records)).toBe(before)
    expect(Buffer.compare(storage.bytes, image)).toBe(0)
  })

  test('is none when a record is as long as it may be', () => {
    records.transaction([put('1', { text: 'x'.repeat(MAX_JSON_BYTES - '{"text":""}'.length) })])
    expect(reopened(storage)).toBe(contentOf(records))
  })
})
