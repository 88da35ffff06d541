/**
 * What core costs when there is much of everything, in operations and not in time: what it asks of files and handlers,
 * for each file, may grow as the logarithm of how many there are.
 */
import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { HandlerRegistry } from './handler.js'
import { Orchestrator } from './orchestrator.js'

const SESSIONS = 40
const FILES_EACH = 500
const FILES = SESSIONS * FILES_EACH
/** A random binary tree is about 3 log2(n) deep; each call looks for the file twice or three times. */
const COMPARISONS = 3 * 4 * Math.log2(FILES)

/** Files are numbers, and all of one inode. Everything is counted. */
class Counter {
  readonly counts: Record<string, number> = {}

  count(operation: string): void {
    this.counts[operation] = (this.counts[operation] ?? 0) + 1
  }

  take(): Record<string, number> {
    const taken = { ...this.counts }
    for (const operation of Object.keys(this.counts)) delete this.counts[operation]
    return taken
  }

  boot(): Orchestrator<number, undefined> {
    const registry = new HandlerRegistry<number>()
    registry.register({
      compatible: 'other-v1',
      canPreserve: () => {
        this.count('canPreserve')
        return false
      },
      preserve: () => ({ data: 0n }),
      unpreserve: () => {},
      retrieve: () => 0,
      finish: () => {},
    })
    registry.register({
      compatible: 'number-v1',
      canPreserve: () => {
        this.count('canPreserve')
        return true
      },
      preserve: (file) => {
        this.count('preserve')
        return { data: BigInt(file) }
      },
      unpreserve: () => this.count('unpreserve'),
      freeze: ({ data }) => {
        this.count('freeze')
        return data
      },
      unfreeze: () => this.count('unfreeze'),
      retrieve: (data) => {
        this.count('retrieve')
        return Number(data)
      },
      canFinish: () => {
        this.count('canFinish')
        return true
      },
      finish: () => this.count('finish'),
    })
    return new Orchestrator({
      registry,
      files: {
        duplicate: (file) => {
          this.count('duplicate')
          return file
        },
        close: () => this.count('close'),
        key: () => {
          this.count('key')
          return 'one'
        },
        compare: (a, b) => {
          this.count('compare')
          return a - b
        },
      },
    })
  }
}

test('each file costs as much as the logarithm of all, in every call, through a whole life', () => {
  const counter = new Counter()
  /** At most so many comparisons and keys for each of `files`, and exactly these others. */
  const expectCounts = (files: number, expected: Record<string, number>) => {
    const { compare = 0, key = 0, ...others } = counter.take()
    expect(others).toEqual(expected)
    expect(compare / files).toBeLessThan(COMPARISONS)
    expect(key / files).toBeLessThanOrEqual(4)
  }
  const first = counter.boot()
  const sessions = Array.from({ length: SESSIONS }, (_, index) => first.createSession('', `session ${index}`))
  for (const [at, session] of sessions.entries()) {
    const files = Array.from({ length: FILES_EACH }, (_, index) => ({
      token: String(index),
      file: at * FILES_EACH + index,
      about: undefined,
    }))
    first.preserve(session, files)
  }
  expectCounts(FILES, { canPreserve: 2 * FILES, preserve: FILES })

  const [last] = sessions.slice(-1)
  if (!last) throw new Error('there are no sessions')
  first.reference(last, ['0', '499'])
  expectCounts(2, { duplicate: 2 })
  first.unpreserve(last, ['7', '8', '9'])
  expectCounts(3, { unpreserve: 3, close: 3 })
  const taken = [{ token: '7', file: FILES - 1, about: undefined }]
  expect(codeOf(() => first.preserve(last, taken))).toBe('EBUSY')
  expectCounts(1, { canPreserve: 2 })
  first.freeze([last])
  expectCounts(1, { freeze: FILES_EACH - 3 })
  first.commit([last])
  expectCounts(1, { unfreeze: FILES_EACH - 3 })
  first.release(last)
  expectCounts(FILES_EACH, { unpreserve: FILES_EACH - 3, close: FILES_EACH - 3 })
  const rest = FILES - FILES_EACH
  expect(first.fileCount).toBe(rest)

  first.freezeAll()
  expectCounts(1, { freeze: rest })
  const second = counter.boot()
  second.receive(first.serialize())
  expectCounts(1, {})
  first.end({ handedOver: true })
  expectCounts(1, { close: rest })

  const incoming = sessions.slice(0, -1).map(({ name }) => second.retrieveSession('', name))
  for (const session of incoming) for (const token of session.files.keys()) second.retrieve(session, token)
  expectCounts(rest, { retrieve: rest, duplicate: rest })
  for (const session of incoming) second.finish(session)
  expectCounts(rest, { canFinish: rest, finish: rest, close: rest })
  for (const session of incoming) second.release(session)
  expectCounts(1, {})
  expect(second.sessionCount).toBe(0)
})
