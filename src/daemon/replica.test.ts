/** What is built ahead has no effect on anybody, and at the end counts only if it is as it was. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { type Change, Records } from '../abi/records.js'
import { referenceHandlers } from '../handlers/reference.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd, fileSize, readAt, writeAt } from '../sys/memfd.js'
import { Poller } from '../sys/poller.js'
import { socketPair } from '../sys/unix.js'
import { recordsStorage } from './records-file.js'
import { Replica } from './replica.js'
import { check } from './restore-check.js'
import type { RestoreSource } from './restore-source.js'

/** Of luod: its records, and the descriptors that it holds. */
let file: Fd
let records: Records
let fds: Fd[]
let registry: ReturnType<typeof referenceHandlers>
let replica: Replica
let source: RestoreSource | undefined
let before: number

beforeEach(() => {
  // Made at its first use, and kept.
  Poller.shared()
  before = countOpenFds()
  fds = []
  source = undefined
  registry = referenceHandlers()
  replica = new Replica(registry, (error) => {
    throw error
  })
  file = createMemfd('records')
  records = Records.create(recordsStorage(file))
  records.transaction([
    { type: 'meta', key: '0', value: { version: '1', pid: 1, started_at: 0, next_session: 9 } },
    session('1', 'one'),
    session('2', 'two'),
  ])
  replica.put('records', file.dup())
})

afterEach(() => {
  replica.close()
  file.close()
  closeAll(fds)
  expect(countOpenFds()).toBe(before)
})

function session(key: string, name: string, more: object = {}): Change {
  const value = { uid: 0, name, custody: 'held', keep_ms: 0, created_at: 0, ...more }
  return { type: 'session', key, value }
}

function fileRecord(key: string, more: object = {}): Change {
  const value = { session: '1', token: key, kind: 'memfd', compatible: 'memfd-ref-v1', bytes: 10, data: key, ...more }
  return { type: 'file', key, value }
}

const gone = (type: Change['type'], key: string): Change => ({ type, key, value: undefined })

function memory(text = 'x'): Fd {
  const fd = createMemfd('replica-test')
  writeAt(fd, Buffer.from(text), 0)
  fds.push(fd)
  return fd
}

/** As luod does it: the descriptor first. */
function preserve(key: string, more: object = {}, fd = memory(key)): void {
  replica.put(`file/${key}`, fd.dup())
  records.transaction([fileRecord(key, more)])
}

function work(): void {
  while (replica.work(1));
}

function finish(mode: 'strict' | 'recover' = 'strict'): RestoreSource {
  source = replica.finish(mode)
  return source
}

/** What is in each session, in its order, by keys. */
function built({ ahead }: Pick<RestoreSource, 'ahead'>): Record<string, string> {
  const all: Record<string, string> = {}
  for (const id of ['1', '2', '3']) {
    const known = ahead.session(id)
    if (known) all[known.session.name] = [...known.session.files.values()].map(({ about }) => about.key).join(' ')
  }
  return all
}

const findings = () => check(replica.now(), registry).findings.filter(({ key }) => key !== 'listener')

describe('ahead of time', () => {
  test('each file is in its session, and nothing is left to check of it', () => {
    preserve('1')
    preserve('2', { session: '2' })
    preserve('3')
    expect(built(replica.now())).toEqual({})
    work()
    expect(built(replica.now())).toEqual({ one: '1 3', two: '2' })
    expect(findings()).toEqual([])
    const { ahead, descriptors } = finish()
    expect([ahead.size, ahead.lastKey, ahead.has('2'), ahead.has('4')]).toEqual([3, '3', true, false])
    expect([...ahead.held.keys()].sort()).toEqual(['file/1', 'file/2', 'file/3'])
    expect([...descriptors.keys()]).toEqual(['records'])
    expect(ahead.session('1')?.files).toEqual({ files: 2, bytes: 20, memory: 20 })
  })

  test('nothing has an effect: not on the records, not on a file, not on who holds a session', async () => {
    const [ours, theirs] = socketPair()
    fds.push(ours)
    replica.put('lifetime/1', ours.dup())
    records.transaction([
      { type: 'lifetime', key: '1', value: { session: '1', pid: process.pid, inode: '0:1', given_at: 0 } },
    ])
    const fd = memory('content')
    preserve('1', {}, fd)
    const bytes = () => {
      const all = Buffer.alloc(fileSize(file))
      readAt(file, all, 0)
      return all
    }
    const is = bytes()
    work()
    theirs.close()
    await new Promise((resolve) => setTimeout(resolve, 20))
    work()
    expect(bytes().equals(is)).toBe(true)
    expect(built(replica.now())).toEqual({ one: '1' })
    replica.close()
    expect(fileSize(fd)).toBe(7)
    expect(() => records.transaction([gone('file', '1')])).not.toThrow()
  })

  test('only what is harmless is done: files with shared state, and of plug-ins, wait', () => {
    registry.register({
      compatible: 'mine-v1',
      canPreserve: () => true,
      preserve: () => {
        throw new Error('it does something')
      },
      unpreserve: () => {},
      retrieve: () => {
        throw new Error('no')
      },
      finish: () => {},
    })
    preserve('1', { compatible: 'mine-v1' })
    preserve('2', { kind: 'hugetlb', compatible: 'hugetlb-ref-v1' })
    preserve('3')
    work()
    expect(built(replica.now())).toEqual({ one: '3' })
    expect([...finish().descriptors.keys()].sort()).toEqual(['file/1', 'file/2', 'records'])
  })

  test('work is done in parts, and what is left over is done at the end', () => {
    for (let key = 1; key <= 1_000; key++) preserve(String(key), { session: String((key % 2) + 1) }, memory())
    expect(replica.work(0)).toBe(true)
    expect(replica.now().ahead.size).toBeLessThan(1_000)
    const { ahead } = finish()
    expect(ahead.size).toBe(1_000)
    const odd = Array.from({ length: 500 }, (_, index) => index * 2 + 1)
    expect(built({ ahead }).two).toBe(odd.join(' '))
  })
})

describe('what changes meanwhile', () => {
  /** Built ahead, and changed after that: once seen at once, and once at the end. */
  describe.each([
    ['seen before the end', true],
    ['seen at the end', false],
  ] as const)('%s', (_, seen) => {
    function end(): RestoreSource {
      if (seen) work()
      return finish()
    }

    test('a file that is gone, and others that have come', () => {
      preserve('1')
      preserve('2')
      work()
      records.transaction([gone('file', '1')])
      replica.remove('file/1')
      preserve('3')
      expect(built(end())).toEqual({ one: '2 3' })
    })

    test('a file that is gone, whose descriptor is still here', () => {
      preserve('1')
      work()
      records.transaction([gone('file', '1')])
      const { ahead, descriptors } = end()
      expect(built({ ahead })).toEqual({ one: '' })
      expect([...descriptors.keys()].sort()).toEqual(['file/1', 'records'])
      expect(ahead.session('1')?.files).toEqual({ files: 0, bytes: 0, memory: 0 })
    })

    test('a descriptor that is gone, while the record says it is there', () => {
      preserve('1')
      work()
      replica.remove('file/1')
      const { ahead } = end()
      expect(built({ ahead })).toEqual({ one: '' })
      expect(findings()).toMatchObject([{ what: 'file', key: '1' }])
    })

    test('another descriptor under the same key', () => {
      preserve('1')
      work()
      replica.put('file/1', memory('another').dup())
      const { ahead } = end()
      const [other] = ahead.session('1')?.session.files.values() ?? []
      expect(other && fileSize(other.file.fd)).toBe(7)
      expect(ahead.held.get('file/1')).toBe(other?.file.fd)
    })

    test('a descriptor that is of another kind, and a record that is', () => {
      preserve('1')
      preserve('2')
      work()
      const [one, other] = socketPair()
      fds.push(other)
      replica.put('file/1', one)
      records.transaction([fileRecord('2', { kind: 'tcp' })])
      const { ahead } = end()
      expect(built({ ahead })).toEqual({ one: '' })
      const wrong = findings()
      expect(wrong.map(({ key, why }) => [key, why]).sort()).toEqual([
        ['file/1', 'it is of kind unix, not memfd'],
        ['file/2', 'it is of kind memfd, not tcp'],
      ])
    })

    test('a file that is in another session, at another token, and the same file under another key', () => {
      preserve('1')
      const fd = memory('moved')
      preserve('2', {}, fd)
      work()
      records.transaction([gone('file', '2'), fileRecord('1', { session: '2', token: '77' })])
      preserve('3', { session: '2', token: '2' }, fd)
      const { ahead } = end()
      expect(built({ ahead })).toEqual({ one: '', two: '1 3' })
      expect([...(ahead.session('2')?.session.files.keys() ?? [])]).toEqual(['77', '2'])
    })

    test('a session that is gone with its files, and another one of its name', () => {
      preserve('1')
      preserve('2', { session: '2' })
      work()
      records.transaction([gone('file', '1'), gone('session', '1'), session('3', 'one')])
      replica.remove('file/1')
      preserve('4', { session: '3' })
      expect(built(end())).toEqual({ one: '4', two: '2' })
    })

    test('a session that is gone, while its file is not: the file is nobody’s', () => {
      preserve('1')
      work()
      records.transaction([gone('session', '1')])
      const { ahead, descriptors } = end()
      expect(built({ ahead })).toEqual({})
      expect([...descriptors.keys()].sort()).toEqual(['file/1', 'records'])
      expect(findings()).toMatchObject([{ what: 'file', key: '1' }])
    })

    test('a session whose record makes no sense any more', () => {
      preserve('1')
      work()
      records.transaction([session('1', 'one', { custody: 'lost' })])
      expect(built(end())).toEqual({})
    })

    test('a session in another custody keeps its files', () => {
      preserve('1')
      work()
      const was = replica.now().ahead.session('1')
      records.transaction([session('1', 'one', { custody: 'frozen', heir: '7' })])
      expect(end().ahead.session('1')).toBe(was)
    })
  })

  test('a descriptor that comes late has its file in its place all the same', () => {
    const late = memory('late')
    records.transaction([fileRecord('1')])
    preserve('2')
    preserve('10')
    work()
    expect(built(replica.now())).toEqual({ one: '2 10' })
    replica.put('file/1', late.dup())
    preserve('11')
    work()
    expect(built(finish())).toEqual({ one: '1 2 10 11' })
  })

  test('other records are those of another luod: nothing of before counts', () => {
    preserve('1')
    work()
    using other = createMemfd('records')
    const another = Records.create(recordsStorage(other))
    another.transaction([session('1', 'other'), fileRecord('1')])
    replica.put('records', other.dup())
    expect(built(replica.now())).toEqual({})
    work()
    expect(built(finish())).toEqual({ other: '1' })
  })
})

describe('without', () => {
  test('records it is LUO_RECORDS, and everything is closed in the end', () => {
    replica.remove('records')
    replica.put('file/1', memory().dup())
    work()
    expect(codeOf(() => replica.now())).toBe('LUO_RECORDS')
    expect(codeOf(() => replica.finish('recover'))).toBe('LUO_RECORDS')
  })

  test('half of what there was, the other half is there: luod has died in the middle of sending it', () => {
    for (const key of ['1', '2', '3']) preserve(key)
    work()
    replica.remove('file/2')
    expect(built(finish('recover'))).toEqual({ one: '1 3' })
    expect(findings()).toMatchObject([{ what: 'file', key: '2' }])
  })

  test('good bytes it is LUO_RECORDS in strict; in recover what is sound is kept, and the rest named', () => {
    preserve('1')
    preserve('2')
    work()
    const end = Buffer.alloc(fileSize(file))
    readAt(file, end, 0)
    const at = end.lastIndexOf('"token":"2"')
    writeAt(file, Buffer.from('"token":"9"'), at)
    expect(codeOf(() => replica.finish('strict'))).toBe('LUO_RECORDS')
    const { ahead, damage } = finish('recover')
    expect(damage).toHaveLength(1)
    expect(built({ ahead })).toEqual({ one: '1' })
  })
})
