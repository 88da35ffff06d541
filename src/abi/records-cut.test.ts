/**
 * A process may be killed at any instruction while it changes its records: whatever of that is in the file, it decodes
 * to the state before or after the change, never to one between, and to the one after for good once it did.
 *
 * Assumed of the machine: what one process has stored in a memory file is there for the next, whole or not, in the
 * order of its calls; an aligned store of 8 bytes is there as a whole or not at all. Within one call nothing is assumed
 * of the order in which its words are stored: any part of them may be there.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Change, type Json, RECORD_TYPES, Records } from './records.js'
import { RecordsFollower } from './records-follow.js'
import { MemoryStorage } from './records-memory.js'
import { verifyRecords } from './records-verify.js'

const WORD = 8
/** Of one call, cut in the middle: how many cuts of it are looked at. */
const CUTS = 3

type Step = { write: Uint8Array; at: number } | { size: number }

/** Remembers each call that changes the file. */
class Recorder extends MemoryStorage {
  steps: Step[] = []

  override write(bytes: Uint8Array, offset: number): void {
    this.steps.push({ write: bytes.slice(), at: offset })
    super.write(bytes, offset)
  }

  override resize(size: number): void {
    this.steps.push({ size })
    super.resize(size)
  }
}

function apply(image: Uint8Array<ArrayBuffer>, step: Step): Uint8Array<ArrayBuffer> {
  if ('size' in step) {
    const bytes = new Uint8Array(step.size)
    bytes.set(image.subarray(0, step.size))
    return bytes
  }
  const bytes = image.slice()
  bytes.set(step.write, step.at)
  return bytes
}

/** The file with some of the words of a write: those that `stored` says. */
function partly(image: Uint8Array, step: Step, stored: (word: number, words: number) => boolean): Uint8Array {
  if ('size' in step) return image
  const bytes = image.slice()
  const words = Math.ceil(step.write.length / WORD)
  for (let word = 0; word < words; word++) {
    if (stored(word, words)) bytes.set(step.write.subarray(word * WORD, (word + 1) * WORD), step.at + word * WORD)
  }
  return bytes
}

const put = (key: string, value: Json, type: Change['type'] = 'file'): Change => ({ type, key, value })
const contentOf = (records: Pick<Records, 'entries'>): string =>
  JSON.stringify(RECORD_TYPES.map((type) => [...records.entries(type)].sort(([a], [b]) => (a < b ? -1 : 1))))

/** As each reader sees it: a luod that opens it, one that has followed it from `before` on, and whoever verifies it. */
function seenIn(image: Uint8Array, before: Uint8Array): string[] {
  const storage = new Recorder(before)
  const follower = new RecordsFollower(storage)
  follower.refresh(Number.MAX_SAFE_INTEGER)
  storage.bytes = image.slice()
  const { entries, findings } = verifyRecords(image)
  expect(findings.filter(({ what, key }) => what === 'records' && key === '')).toEqual([])
  return [
    contentOf(Records.open(new Recorder(image))),
    contentOf(follower.finish().records),
    contentOf({ entries: (type) => entries.get(type) ?? new Map() }),
  ]
}

/** Every cut of what `change` does, in each of the ways in which a call may be cut. */
function cutEverywhere(storage: Recorder, records: Records, change: () => void, seed: number): void {
  const start = storage.bytes.slice()
  const before = contentOf(records)
  storage.steps = []
  change()
  const after = contentOf(records)
  let image = start
  let done = false
  const look = (cut: Uint8Array) => {
    const seen = new Set(seenIn(cut, start))
    expect(seen.size).toBe(1)
    const [content = ''] = seen
    expect([before, after]).toContain(content)
    if (done) expect(content).toBe(after)
    return content === after && before !== after
  }
  for (const step of storage.steps) {
    const words = 'size' in step ? 1 : Math.ceil(step.write.length / WORD)
    // One word is there or it is not.
    if (words > 1) {
      for (let cut = 1; cut < CUTS; cut++) {
        const end = Math.floor((words * cut) / CUTS)
        look(partly(image, step, (word) => word < end))
        look(partly(image, step, (word) => word >= end))
        look(partly(image, step, (word) => ((word * 2654435761 + seed + cut) >>> 7) % 2 === 0))
      }
    }
    image = apply(image, step)
    done = look(image) || done
  }
  expect(contentOf(Records.open(new Recorder(image)))).toBe(after)
}

const value = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 60 }) },
  // Some large ones, so that the log is compacted now and then.
  { weight: 3, arbitrary: fc.integer({ min: 90_000, max: 140_000 }) },
)
const change = fc.record({
  type: fc.constantFrom('file', 'session', 'answer') as fc.Arbitrary<Change['type']>,
  key: fc.integer({ min: 0, max: 3 }),
  length: fc.option(value, { nil: undefined, freq: 4 }),
})
const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant('transaction'), changes: fc.array(change, { maxLength: 4 }) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('together'), changes: fc.array(change, { maxLength: 4 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('tidy'), changes: fc.constant([]) }) },
)

describe('killed at any word of any call,', () => {
  test('a process leaves its records as before or as after what it did', () => {
    fc.assert(
      fc.property(fc.array(operation, { minLength: 4, maxLength: 8 }), fc.integer(), (operations, seed) => {
        const storage = new Recorder()
        const records = Records.create(storage)
        for (const [turn, { kind, changes }] of operations.entries()) {
          const all = changes.map(
            ({ type, key, length }): Change => ({
              ...{ type, key: String(key) },
              value: length === undefined ? undefined : { turn, text: String(turn % 10).repeat(length) },
            }),
          )
          cutEverywhere(
            storage,
            records,
            () => {
              if (kind === 'tidy') records.tidy()
              else if (kind === 'transaction') records.transaction(all)
              else {
                for (const one of all) records.add([one])
                records.commit()
              }
            },
            seed,
          )
        }
      }),
      { numRuns: 4 },
    )
  })

  test('a process that begins, or compacts on both sides of its log, leaves them whole', () => {
    const storage = new Recorder()
    const records = Records.create(storage)
    let most = 0
    for (let turn = 0; turn < 8; turn++) {
      const changes = [
        put(String(turn % 3), { turn, text: 'x'.repeat(90_000) }),
        ...(turn % 5 === 4 ? [{ ...put('1', {}), value: undefined }] : []),
      ]
      cutEverywhere(storage, records, () => records.transaction(changes), turn)
      most = Math.max(most, storage.steps.length)
    }
    // Without a compaction there are two writes, and one more where the file grows.
    expect(most).toBeGreaterThan(3)
  })
})
