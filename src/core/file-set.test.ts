import { beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { MAX_FILES_PER_SESSION } from '../abi/luo.js'
import { LuoError } from '../errors.js'
import type { IncomingSession, OutgoingSession } from './session.js'
import { type FakeFile, FROZEN } from './testing/fakes.js'
import { type Generation, handOver, Machine } from './testing/world.js'

let machine: Machine
let generation: Generation
let session: OutgoingSession<FakeFile, string>
let other: OutgoingSession<FakeFile, string>
beforeEach(() => setUp())

function setUp(options: { ordered?: boolean } = {}): void {
  machine = new Machine(options)
  generation = machine.boot()
  session = generation.orchestrator.createSession('', 'web')
  other = generation.orchestrator.createSession('', 'other')
}

const NAMES = ['a0', 'b1', 'a2', 'b3', 'a4']
const POSITIONS = NAMES.map((_, position) => position)
const TOKENS = POSITIONS.map(String)
const files = (names: string[]) =>
  names.map((name, index) => ({ token: String(index), file: machine.files.open(name), about: `about ${name}` }))
const preserve = (names: string[], into = session) => generation.orchestrator.preserve(into, files(names))
const one = (token: string, file: FakeFile) => ({ token, file, about: '' })
/** What was called, without the choice of a handler. */
const calls = () => machine.journal.take().filter((call) => !call.includes('canPreserve'))
const state = () => ({
  tokens: [...session.files.keys()],
  files: generation.orchestrator.fileCount,
  references: machine.files.references,
  counts: generation.counts(),
  memory: machine.memory.files.size,
})
const healthy = () => expect([machine.defects, machine.journal.broken]).toEqual([[], []])
const NO_FLBS = { x: [0n, 0n], y: [0n, 0n] }

describe('preserve', () => {
  test('keeps each file under its token, by the handler that takes it, with its FLBs in order', () => {
    const [first, second] = generation.orchestrator.preserve(session, [
      { token: '7', file: machine.files.open('b1'), about: 'memory' },
      { token: '18446744073709551615', file: machine.files.open('a1'), about: 'socket' },
    ])
    expect(first).toMatchObject({ token: '7', handler: generation.b, about: 'memory', kept: { data: 2n } })
    expect(second).toMatchObject({ handler: generation.a, about: 'socket', kept: { data: 4n, private: 'a1' } })
    expect(session.files.get('7')).toBe(first)
    expect(machine.journal.take()).toEqual([
      'a.canPreserve b1',
      'b.canPreserve b1',
      'y.preserve',
      'b.preserve b1',
      'a.canPreserve a1',
      'x.preserve',
      'a.preserve a1',
    ])
    expect(state()).toMatchObject({ files: 2, references: 2, counts: { x: [1n, 0n], y: [2n, 0n] } })
  })

  test('of no files does nothing', () => {
    expect(generation.orchestrator.preserve(session, [])).toEqual([])
    expect(machine.journal.take()).toEqual([])
  })

  test.each(POSITIONS)(
    'does all or nothing when the handler fails at position %i; the files stay the caller’s',
    (at) => {
      const name = NAMES[at] ?? ''
      const nth = NAMES.slice(0, at + 1).filter((one) => one[0] === name[0]).length
      machine.journal.failAt(`${name[0]}.preserve`, nth, new LuoError('ENOMEM', 'no memory'))
      const all = files(NAMES)
      expect(codeOf(() => generation.orchestrator.preserve(session, all))).toBe('ENOMEM')
      const before = NAMES.slice(0, at)
      const ofFiles = calls().filter((call) => /^[ab]/.test(call))
      expect(ofFiles.map((call) => call.split(' ').slice(0, 2).join(' '))).toEqual([
        ...[...before, name].map((one) => `${one[0]}.preserve ${one}`),
        ...before.reverse().map((one) => `${one[0]}.unpreserve ${one}`),
      ])
      expect(state()).toEqual({ tokens: [], files: 0, references: 5, counts: NO_FLBS, memory: 0 })
      generation.orchestrator.preserve(session, all)
      expect(state()).toMatchObject({ tokens: TOKENS, files: 5, references: 5, counts: { x: [3n, 0n], y: [5n, 0n] } })
      healthy()
    },
  )

  test('gives the FLBs back in reverse when its handler fails', () => {
    machine.journal.failAt('a.preserve')
    expect(codeOf(() => preserve(['a0']))).toBe('EIO')
    expect(calls()).toEqual([
      'x.preserve',
      'y.preserve',
      'a.preserve a0',
      'y.unpreserve 2 object 2',
      'x.unpreserve 1 object 1',
    ])
    expect(state().counts).toEqual(NO_FLBS)
  })

  test('gives back the FLBs that were taken when one fails, and does not ask the handler', () => {
    machine.journal.failAt('y.preserve', 1, new LuoError('ENOSPC', 'full'))
    expect(codeOf(() => preserve(['a0']))).toBe('ENOSPC')
    expect(calls()).toEqual(['x.preserve', 'y.preserve', 'x.unpreserve 1 object 1'])
    expect(state()).toEqual({ tokens: [], files: 0, references: 1, counts: NO_FLBS, memory: 0 })
    preserve(['a0'])
    expect(state()).toMatchObject({ tokens: ['0'], counts: { x: [1n, 0n], y: [1n, 0n] } })
    healthy()
  })

  test('leaves FLBs alone that other files hold when it fails', () => {
    preserve(['a0'], other)
    calls()
    machine.journal.failAt('a.preserve')
    expect(codeOf(() => preserve(['a1']))).toBe('EIO')
    expect(calls()).toEqual(['a.preserve a1'])
    expect(state().counts).toEqual({ x: [1n, 0n], y: [1n, 0n] })
  })

  test.each(['a.canPreserve', 'a.preserve', 'x.preserve'])('is EIO when %s throws what is no LuoError', (operation) => {
    const cause = new TypeError('oops')
    machine.journal.failAt(operation, 1, cause)
    expect(() => preserve(['a0'])).toThrow(expect.objectContaining({ code: 'EIO', cause }))
    expect(state()).toEqual({ tokens: [], files: 0, references: 1, counts: NO_FLBS, memory: 0 })
  })

  test('is EIO when the identity of the file cannot be known, and nothing is done', () => {
    generation.a.getId = () => {
      throw new TypeError('oops')
    }
    expect(codeOf(() => preserve(['b0', 'a0']))).toBe('EIO')
    expect(state()).toEqual({ tokens: [], files: 0, references: 2, counts: NO_FLBS, memory: 0 })
    healthy()
  })

  test.each([
    ['EEXIST', 'a token that is used in the session', '100', 'a9'],
    ['EEXIST', 'a token that is used in the request', '0', 'a9'],
    ['EBUSY', 'a file that the session has', '9', 'a100'],
    ['EBUSY', 'a file that another session has', '9', 'b200'],
    ['EBUSY', 'a file that is in the request twice', '9', 'b1'],
    ['ENOENT', 'a file that no handler takes', '9', 'c1'],
    ['EINVAL', 'a token that is none', '09', 'a9'],
    ['EINVAL', 'a token beyond u64', '18446744073709551616', 'a9'],
  ])('is %s for %s, wherever it is in the request, and nothing of it is done', (code, _what, token, name) => {
    const all = files(NAMES)
    const [a100, b200] = [machine.files.open('a100'), machine.files.open('b200')]
    generation.orchestrator.preserve(session, [one('100', a100)])
    generation.orchestrator.preserve(other, [one('0', b200)])
    const again = [...all.map(({ file }) => file), a100, b200].find(({ open }) => open.name === name)
    const bad = one(token, again ? machine.files.duplicate(again) : machine.files.open(name))
    const before = state()
    const first = token === '0' || name === 'b1' ? 2 : 0
    for (let position = first; position <= all.length; position++) {
      const request = [...all.slice(0, position), bad, ...all.slice(position)]
      expect(codeOf(() => generation.orchestrator.preserve(session, request))).toBe(code)
      expect(state()).toEqual(before)
    }
    healthy()
  })

  test('knows a file again by its handler’s identity: two open files of one inode are one', () => {
    generation.orchestrator.preserve(session, [one('0', machine.files.open('a0', 'inode 5'))])
    expect(codeOf(() => generation.orchestrator.preserve(other, [one('0', machine.files.open('a1', 'inode 5'))]))).toBe(
      'EBUSY',
    )
    generation.orchestrator.preserve(other, [one('0', machine.files.open('a1', 'inode 6'))])
  })

  test.each([true, false])('tells open files of one inode apart without it; an order is known: %s', (ordered) => {
    setUp({ ordered })
    const opened = Array.from({ length: 20 }, (_, index) => machine.files.open(`b${index}`, 'inode 5'))
    generation.orchestrator.preserve(
      session,
      opened.map((file, index) => one(String(index), file)),
    )
    for (const file of opened) {
      expect(codeOf(() => generation.orchestrator.preserve(other, [one('0', machine.files.duplicate(file))]))).toBe(
        'EBUSY',
      )
    }
    expect(generation.orchestrator.fileCount).toBe(20)
    generation.orchestrator.unpreserve(session, ['7'])
    generation.orchestrator.preserve(other, [one('0', machine.files.open('b7', 'inode 5'))])
    healthy()
  })

  test('takes a file again once it was let go of, by another reference', () => {
    for (const name of ['a1', 'b1']) {
      const file = machine.files.open(name)
      const again = machine.files.duplicate(file)
      generation.orchestrator.preserve(session, [one('1', file)])
      generation.orchestrator.unpreserve(session, ['1'])
      generation.orchestrator.preserve(other, [one(name === 'a1' ? '1' : '2', again)])
    }
    expect(state()).toMatchObject({ files: 2, references: 2 })
    healthy()
  })

  test('takes the same token in another session', () => {
    preserve(['a0'])
    preserve(['b0'], other)
    expect(generation.orchestrator.fileCount).toBe(2)
  })

  test('is ENOSPC at 630,000 files in a session, and not in another', () => {
    preserve(['b0'])
    // So that the test need not preserve them.
    Object.defineProperty(session.files, 'size', { value: MAX_FILES_PER_SESSION, configurable: true })
    expect(MAX_FILES_PER_SESSION).toBe(630_000)
    const b1 = machine.files.open('b1')
    expect(codeOf(() => generation.orchestrator.preserve(session, [one('630000', b1)]))).toBe('ENOSPC')
    expect(codeOf(() => generation.orchestrator.preserve(session, [one('0', b1)]))).toBe('EEXIST')
    generation.orchestrator.preserve(other, [one('630000', b1)])
    Object.defineProperty(session.files, 'size', { value: MAX_FILES_PER_SESSION - 1 })
    generation.orchestrator.preserve(session, [one('630000', machine.files.open('b2'))])
  })
})

describe('unpreserve', () => {
  beforeEach(() => {
    preserve(NAMES)
    calls()
  })

  test('lets go of the files in reverse order, closes them, and gives FLBs back at the last', () => {
    generation.orchestrator.unpreserve(session, ['0', '3', '1'])
    expect(calls()).toEqual([
      'b.unpreserve b1 4',
      'close b1',
      'b.unpreserve b3 6',
      'close b3',
      'a.unpreserve a0 3',
      'close a0',
    ])
    expect(state()).toMatchObject({ tokens: ['2', '4'], files: 2, references: 2, counts: { x: [2n, 0n], y: [2n, 0n] } })
    generation.orchestrator.unpreserve(session, ['4', '2'])
    expect(calls()).toEqual([
      'a.unpreserve a2 5',
      'close a2',
      'a.unpreserve a4 7',
      'y.unpreserve 2 object 2',
      'x.unpreserve 1 object 1',
      'close a4',
    ])
    expect(state()).toEqual({ tokens: [], files: 0, references: 0, counts: NO_FLBS, memory: 0 })
    healthy()
  })

  test('lets go of a file once that is named twice', () => {
    generation.orchestrator.unpreserve(session, ['2', '2'])
    expect(calls()).toEqual(['a.unpreserve a2 5', 'close a2'])
  })

  test.each([
    ['ENOENT', '9'],
    ['EINVAL', 'x'],
  ])('is %s for the token %s, and nothing of it is done', (code, token) => {
    const before = state()
    for (const tokens of [[token], ['0', token], [token, '0']]) {
      expect(codeOf(() => generation.orchestrator.unpreserve(session, tokens))).toBe(code)
    }
    expect(state()).toEqual(before)
    expect(calls()).toEqual([])
  })

  test.each(['a.unpreserve', 'y.unpreserve', 'x.unpreserve', 'close'])(
    'does everything else when %s fails, and reports the defect',
    (operation) => {
      machine.journal.failAt(operation)
      generation.orchestrator.unpreserve(session, TOKENS)
      expect(calls()).toEqual([
        'a.unpreserve a4 7',
        'close a4',
        'b.unpreserve b3 6',
        'close b3',
        'a.unpreserve a2 5',
        'close a2',
        'b.unpreserve b1 4',
        'close b1',
        'a.unpreserve a0 3',
        'y.unpreserve 2 object 2',
        'x.unpreserve 1 object 1',
        'close a0',
      ])
      expect(machine.defects).toEqual([expect.stringContaining(`${operation} was told to fail`)])
      expect(state()).toMatchObject({ tokens: [], files: 0, references: 0, counts: NO_FLBS })
      preserve(NAMES)
      expect(state().files).toBe(5)
    },
  )

  test('gives back the FLBs that were taken, not those that the handler has got since', () => {
    const { registry, a, b, x } = generation
    registry.registerFlb(b, x)
    generation.orchestrator.unpreserve(session, ['1', '3'])
    expect(state().counts).toEqual({ x: [3n, 0n], y: [3n, 0n] })
    preserve(['b9'], other)
    expect(state().counts).toEqual({ x: [4n, 0n], y: [4n, 0n] })
    generation.orchestrator.unpreserve(session, ['0', '2', '4'])
    generation.orchestrator.unpreserve(other, ['0'])
    expect(state().counts).toEqual(NO_FLBS)
    expect(registry.flbsOf(a)).toHaveLength(2)
    healthy()
  })

  test('asks for the identity of a file only when it is preserved', () => {
    generation.a.getId = () => {
      throw new Error('it is not known any more')
    }
    generation.orchestrator.unpreserve(session, TOKENS)
    expect(state()).toMatchObject({ files: 0, references: 0, counts: NO_FLBS })
    healthy()
  })
})

describe('reference', () => {
  beforeEach(() => {
    preserve(NAMES)
    calls()
  })

  test('gives new references in the order that was asked for, also twice of one file', () => {
    const found = generation.orchestrator.reference(session, ['3', '0', '3'])
    expect(found.map(({ file }) => file.open.name)).toEqual(['b3', 'a0', 'b3'])
    expect(found.map(({ preserved }) => preserved.token)).toEqual(['3', '0', '3'])
    expect(state()).toMatchObject({ files: 5, references: 8 })
    for (const { file } of found) machine.files.close(file)
    expect(codeOf(() => generation.orchestrator.reference(session, TOKENS))).toBeUndefined()
    healthy()
  })

  test.each([
    ['ENOENT', '9'],
    ['EINVAL', '00'],
  ])('is %s for the token %s, and nothing of it is done', (code, token) => {
    expect(codeOf(() => generation.orchestrator.reference(session, ['0', token]))).toBe(code)
    expect(calls()).toEqual([])
  })

  test.each(POSITIONS)('keeps no reference when position %i cannot be had', (position) => {
    machine.journal.failAt('duplicate', position + 1, new LuoError('EMFILE', 'no more descriptors'))
    const before = state()
    expect(codeOf(() => generation.orchestrator.reference(session, TOKENS))).toBe('EMFILE')
    expect(state()).toEqual(before)
    healthy()
  })
})

describe('an incoming session', () => {
  let incoming: IncomingSession<FakeFile>
  beforeEach(() => {
    preserve(NAMES)
    const next = machine.boot()
    handOver(machine, generation, next)
    generation = next
    incoming = generation.orchestrator.retrieveSession('', 'web')
  })
  const retrieve = (token: string) => generation.orchestrator.retrieve(incoming, token)
  const taken = () => ({ references: machine.files.references, counts: generation.counts() })
  // Frozen by `a`, as they were by `b`.
  const DATA = [FROZEN + 3n, 4n, FROZEN + 5n, 6n, FROZEN + 7n]
  const finishes = (retrieved: (position: number) => string) =>
    [4, 3, 2, 1, 0].map((at) => {
      const name = NAMES[at] ?? ''
      const how = retrieved(at)
      return `${name[0]}.finish ${how === 'yes' ? `${name} ` : ''}${DATA[at]} ${how}`
    })

  test('has the files as data, in order, and builds none before it is asked', () => {
    expect([...incoming.files.values()].map(({ token, data }) => [token, data])).toEqual(
      TOKENS.map((token, at) => [token, DATA[at]]),
    )
    expect(machine.journal.take()).toEqual([])
    expect(taken()).toEqual({ references: 0, counts: { x: [0n, 3n], y: [0n, 5n] } })
  })

  test('gives the same open file each time, in any order, built once', () => {
    const first = retrieve('3')
    const second = retrieve('0')
    const again = retrieve('3')
    expect([first, second, again].map(({ open }) => open.name)).toEqual(['b3', 'a0', 'b3'])
    expect(again.open).toBe(first.open)
    expect(again).not.toBe(first)
    expect(machine.journal.take()).toEqual([
      'b.retrieve 6',
      'duplicate b3',
      `a.retrieve ${DATA[0]}`,
      'duplicate a0',
      'duplicate b3',
    ])
    expect(taken().references).toBe(5)
  })

  test.each([
    ['ENOENT', '9'],
    ['EINVAL', '-1'],
  ])('is %s for the token %s', (code, token) => {
    expect(codeOf(() => retrieve(token))).toBe(code)
    expect(machine.journal.take()).toEqual([])
  })

  test('fails to build a file once and for all, with the same error, and finishes it so', () => {
    machine.journal.failAt('b.retrieve', 1, new LuoError('ENOMEM', 'no memory'))
    expect([1, 2, 3].map(() => codeOf(() => retrieve('1')))).toEqual(['ENOMEM', 'ENOMEM', 'ENOMEM'])
    expect(machine.journal.take()).toEqual(['b.retrieve 4'])
    expect(taken().references).toBe(0)
    generation.orchestrator.finish(incoming)
    expect(machine.journal.take()).toContain('b.finish 4 ENOMEM')
    healthy()
  })

  test('is EIO for good when a handler throws what is no LuoError', () => {
    machine.journal.failAt('b.retrieve', 1, new TypeError('oops'))
    expect([1, 2].map(() => codeOf(() => retrieve('1')))).toEqual(['EIO', 'EIO'])
  })

  test('gives the file later when only the reference could not be had', () => {
    machine.journal.failAt('duplicate', 1, new LuoError('EMFILE', 'no more descriptors'))
    expect(codeOf(() => retrieve('1'))).toBe('EMFILE')
    expect(taken().references).toBe(1)
    retrieve('1')
    expect(machine.journal.take().filter((call) => call.startsWith('b.retrieve'))).toHaveLength(1)
    expect(taken().references).toBe(2)
  })

  test('closes a file whose identity cannot be known, and that is final', () => {
    generation.a.getId = () => {
      throw new LuoError('EBADF', 'no inode')
    }
    expect([1, 2].map(() => codeOf(() => retrieve('0')))).toEqual(['EBADF', 'EBADF'])
    expect(taken().references).toBe(0)
    healthy()
  })

  test.each(['0', '1'])('keeps what was retrieved from being preserved until it is finished: token %s', (token) => {
    const out = generation.orchestrator.createSession('', 'out')
    const file = retrieve(token)
    expect(codeOf(() => generation.orchestrator.preserve(out, [one('1', file)]))).toBe('EBUSY')
    generation.orchestrator.finish(incoming)
    generation.orchestrator.preserve(out, [one('1', file)])
    generation.orchestrator.release(out)
    expect(taken().references).toBe(0)
    healthy()
  })

  test.each(['0', '1'])('also what was preserved before it came, and let go of since: token %s', (token) => {
    const out = generation.orchestrator.createSession('', 'out')
    const open = machine.memory.files.get((DATA[Number(token)] ?? 0n) % FROZEN)
    if (!open) throw new Error('nothing was handed over')
    generation.orchestrator.preserve(out, [one('1', machine.files.refer(open))])
    const file = retrieve(token)
    generation.orchestrator.unpreserve(out, ['1'])
    expect(codeOf(() => generation.orchestrator.preserve(out, [one('1', file)]))).toBe('EBUSY')
    generation.orchestrator.finish(incoming)
    generation.orchestrator.preserve(out, [one('1', file)])
    expect(codeOf(() => generation.orchestrator.preserve(out, [one('2', machine.files.duplicate(file))]))).toBe('EBUSY')
    healthy()
  })

  test.each(['0', '1'])('and what was preserved before it came stays so when it is finished: token %s', (token) => {
    const out = generation.orchestrator.createSession('', 'out')
    const open = machine.memory.files.get((DATA[Number(token)] ?? 0n) % FROZEN)
    if (!open) throw new Error('nothing was handed over')
    generation.orchestrator.preserve(out, [one('1', machine.files.refer(open))])
    const file = retrieve(token)
    generation.orchestrator.finish(incoming)
    expect(codeOf(() => generation.orchestrator.preserve(out, [one('2', file)]))).toBe('EBUSY')
    generation.orchestrator.unpreserve(out, ['1'])
    generation.orchestrator.preserve(out, [one('2', file)])
    healthy()
  })

  test('finishes all files in reverse order, those that nobody retrieved and those that failed included', () => {
    retrieve('0')
    machine.files.close(retrieve('1'))
    machine.journal.failAt('a.retrieve', 1, new LuoError('ENOMEM', 'no memory'))
    expect(codeOf(() => retrieve('2'))).toBe('ENOMEM')
    machine.journal.take()
    generation.orchestrator.finish(incoming)
    const done = machine.journal.take()
    expect(done.filter((call) => call.includes('canFinish'))).toEqual([
      `a.canFinish a0 ${DATA[0]} yes`,
      `a.canFinish ${DATA[2]} ENOMEM`,
      `a.canFinish ${DATA[4]} no`,
    ])
    expect(done.filter((call) => /\.finish/.test(call))).toEqual([
      ...finishes((at) => ['yes', 'yes', 'ENOMEM', 'no', 'no'][at] ?? ''),
      'y.finish 2 object 2',
      'x.finish 1 object 1',
    ])
    // The one that the test has.
    expect(taken()).toEqual({ references: 1, counts: NO_FLBS })
    expect(machine.memory.files.size).toBe(0)
    healthy()
  })

  test('lets go of FLBs after each file, in reverse, and closes the file then', () => {
    machine.files.close(retrieve('0'))
    machine.journal.take()
    generation.orchestrator.finish(incoming)
    expect(machine.journal.take().slice(-6)).toEqual([
      `a.finish a0 ${DATA[0]} yes`,
      'y.retrieve 2',
      'y.finish 2 object 2',
      'x.retrieve 1',
      'x.finish 1 object 1',
      'close a0',
    ])
  })

  test.each([1, 2, 3])('changes nothing when the %i. file that is asked refuses', (nth) => {
    machine.files.close(retrieve('0'))
    const before = taken()
    let left = nth
    const refusing = generation.a
    const canFinish = refusing.canFinish
    refusing.canFinish = (finishing) => {
      left -= 1
      return (canFinish?.(finishing) ?? true) && left !== 0
    }
    machine.journal.take()
    expect(codeOf(() => generation.orchestrator.finish(incoming))).toBe('EBUSY')
    expect(machine.journal.take().every((call) => call.startsWith('a.canFinish'))).toBe(true)
    expect(taken()).toEqual(before)
    expect([...incoming.files.keys()]).toEqual(TOKENS)
    machine.files.close(retrieve('0'))
    generation.orchestrator.finish(incoming)
    expect(taken()).toEqual({ references: 0, counts: NO_FLBS })
    healthy()
  })

  test.each([new LuoError('ENOMEM', 'no memory'), new TypeError('oops')])(
    'changes nothing when a file cannot say whether it may be finished: %s',
    (error) => {
      machine.journal.failAt('a.canFinish', 2, error)
      expect(codeOf(() => generation.orchestrator.finish(incoming))).toBe(error instanceof LuoError ? 'ENOMEM' : 'EIO')
      expect(machine.journal.take()).toHaveLength(2)
      expect([...incoming.files.keys()]).toEqual(TOKENS)
    },
  )

  test.each(['a.finish', 'b.finish', 'x.finish', 'y.finish', 'close'])(
    'finishes everything else when %s fails, and reports the defect',
    (operation) => {
      for (const token of TOKENS) machine.files.close(retrieve(token))
      machine.journal.take()
      machine.journal.failAt(operation)
      generation.orchestrator.finish(incoming)
      const done = machine.journal.take()
      expect(done.filter((call) => /\.finish/.test(call))).toHaveLength(7)
      expect(done.filter((call) => call.startsWith('close'))).toHaveLength(5)
      expect(machine.defects).toEqual([expect.stringContaining(`${operation} was told to fail`)])
      expect(taken()).toEqual({ references: 0, counts: NO_FLBS })
      expect(incoming.files.size).toBe(0)
    },
  )

  test('does not finish an FLB that cannot be retrieved', () => {
    machine.journal.failAt('x.retrieve')
    generation.orchestrator.finish(incoming)
    expect(machine.journal.take().filter((call) => call.startsWith('x.'))).toEqual(['x.retrieve 1'])
    expect(taken().counts).toEqual(NO_FLBS)
    healthy()
  })

  test('leaves an FLB to its last user', () => {
    const { flbs } = generation.registry
    expect(flbs.getIncoming(generation.x)).toBe('object 1')
    generation.orchestrator.finish(incoming)
    expect(taken().counts).toEqual({ x: [0n, 1n], y: [0n, 0n] })
    expect(machine.journal.take().filter((call) => call.startsWith('x.'))).toEqual(['x.retrieve 1'])
    flbs.putIncoming(generation.x)
    expect(machine.journal.take()).toEqual(['x.finish 1 object 1'])
  })

  test('can be finished again, and has no files then: ENOENT', () => {
    generation.orchestrator.finish(incoming)
    machine.journal.take()
    generation.orchestrator.finish(incoming)
    expect(machine.journal.take()).toEqual([])
    expect(codeOf(() => retrieve('0'))).toBe('ENOENT')
  })
})
