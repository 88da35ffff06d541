import { beforeEach, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { MAX_SESSIONS } from '../abi/luo.js'
import { LuoError } from '../errors.js'
import { MAX_NAME_BYTES } from './names.js'
import { Orchestrator } from './orchestrator.js'
import { CUSTODY_MOVES, type Custody, type CustodyMove, type OutgoingSession } from './session.js'
import { type FakeFile, FROZEN } from './testing/fakes.js'
import { type Generation, handOver, Machine } from './testing/world.js'

let machine: Machine
let generation: Generation
let session: OutgoingSession<FakeFile, string>
beforeEach(() => {
  machine = new Machine()
  generation = machine.boot()
  session = generation.orchestrator.createSession('', 'web')
})

const NAMES = ['a0', 'b1', 'a2', 'b3', 'a4']
const toPreserve = (token: string, name: string) => ({ token, file: machine.files.open(name), about: '' })
const preserveAll = (into = session, names = NAMES) => {
  generation.orchestrator.preserve(
    into,
    names.map((name, index) => toPreserve(String(index), name)),
  )
  machine.journal.take()
}
/** Calls of one operation of a handler: the names of the files. */
const filesOf = (calls: string[], operation: string) =>
  calls.flatMap((call) => (/^[ab]/.test(call) && call.includes(`.${operation} `) ? [call.split(' ')[1]] : []))
const state = () => ({
  custody: session.custody,
  tokens: [...session.files.keys()],
  data: [...session.files.values()].map(({ kept }) => kept.data),
  files: generation.orchestrator.fileCount,
  references: machine.files.references,
  counts: generation.counts(),
})
const healthy = () => expect([machine.defects, machine.journal.broken]).toEqual([[], []])
const NO_FLBS = { x: [0n, 0n], y: [0n, 0n] }
/** The FLBs took 1 and 2. */
const DATA = [3n, 4n, 5n, 6n, 7n]
const FROZEN_DATA = [FROZEN + 3n, 4n, FROZEN + 5n, 6n, FROZEN + 7n]

describe('sessions', () => {
  test('are found by their id, are outgoing, held and empty, and have ids of their own', () => {
    const other = generation.orchestrator.createSession('', 'other')
    expect(session).toMatchObject({ name: 'web', scope: '', direction: 'outgoing', custody: 'held' })
    expect(session.files.size).toBe(0)
    expect(other.id).not.toBe(session.id)
    expect(generation.orchestrator.session(session.id)).toBe(session)
    expect(generation.orchestrator.session('99')).toBeUndefined()
    expect(generation.orchestrator.sessionCount).toBe(2)
    expect([...generation.orchestrator.outgoing()]).toEqual([session, other])
  })

  test('compete for their names in one scope only: EEXIST', () => {
    expect(codeOf(() => generation.orchestrator.createSession('', 'web'))).toBe('EEXIST')
    generation.orchestrator.createSession('1', 'web')
    expect(generation.orchestrator.sessionCount).toBe(2)
  })

  test('have names of 1 to 63 bytes without NUL: EINVAL; none came in by another name: ENOENT', () => {
    generation.orchestrator.createSession('', 'x'.repeat(MAX_NAME_BYTES))
    for (const name of ['', 'x'.repeat(MAX_NAME_BYTES + 1), 'a\0b']) {
      expect(codeOf(() => generation.orchestrator.createSession('', name))).toBe('EINVAL')
      expect(codeOf(() => generation.orchestrator.retrieveSession('', name))).toBe('ENOENT')
    }
    expect(generation.orchestrator.sessionCount).toBe(2)
  })

  test('are 510,000 at most: ENOSPC', () => {
    expect(MAX_SESSIONS).toBe(510_000)
    // So that the test need not make them.
    const size = vi.spyOn(Map.prototype, 'size', 'get')
    size.mockReturnValue(MAX_SESSIONS)
    const codes = ['one more', 'web'].map((name) => codeOf(() => generation.orchestrator.createSession('', name)))
    size.mockReturnValue(MAX_SESSIONS - 1)
    const last = codeOf(() => generation.orchestrator.createSession('', 'the last'))
    size.mockRestore()
    expect(codes).toEqual(['ENOSPC', 'EEXIST'])
    expect(last).toBeUndefined()
    expect(generation.orchestrator.sessionCount).toBe(2)
  })

  test('leave their names, and never their ids, to others when they end', () => {
    generation.orchestrator.release(session)
    expect(generation.orchestrator.session(session.id)).toBeUndefined()
    expect(generation.orchestrator.createSession('', 'web').id).not.toBe(session.id)
  })

  test('that were released are LUO_WRONG_STATE for whoever still knows them, and take nothing', () => {
    const { orchestrator } = generation
    orchestrator.release(session)
    const again = orchestrator.createSession('', 'web')
    for (const run of [
      () => orchestrator.preserve(session, [toPreserve('0', 'a0')]),
      () => orchestrator.unpreserve(session, []),
      () => orchestrator.reference(session, []),
      () => orchestrator.retrieve(session, '0'),
      () => orchestrator.finish(session),
      () => orchestrator.freeze([again, session]),
      () => orchestrator.orphan(session),
    ]) {
      expect(codeOf(run)).toBe('LUO_WRONG_STATE')
    }
    expect(state()).toMatchObject({ tokens: [], files: 0, custody: 'held' })
    expect(again.custody).toBe('held')
  })

  test('of the wrong direction are EINVAL', () => {
    const { orchestrator } = generation
    expect(codeOf(() => orchestrator.retrieve(session, '0'))).toBe('EINVAL')
    expect(codeOf(() => orchestrator.finish(session))).toBe('EINVAL')
    const next = machine.boot()
    handOver(machine, generation, next)
    const incoming = next.orchestrator.retrieveSession('', 'web')
    expect(codeOf(() => next.orchestrator.preserve(incoming, [toPreserve('0', 'a0')]))).toBe('EINVAL')
    expect(codeOf(() => next.orchestrator.unpreserve(incoming, []))).toBe('EINVAL')
    expect(codeOf(() => next.orchestrator.reference(incoming, []))).toBe('EINVAL')
    expect(next.orchestrator.fileCount).toBe(0)
  })
})

describe('freeze', () => {
  let other: OutgoingSession<FakeFile, string>
  const ALL = [...NAMES, 'b5', 'a6']
  const FREEZING = ['a0', 'a2', 'a4', 'a6']
  beforeEach(() => {
    preserveAll()
    other = generation.orchestrator.createSession('', 'other')
    preserveAll(other, ['b5', 'a6'])
  })

  test('freezes every file of every session, and unfreeze undoes it in reverse', () => {
    generation.orchestrator.freeze([session, other])
    expect(machine.journal.take()).toEqual(FREEZING.map((name) => expect.stringContaining(`a.freeze ${name} `)))
    expect([session.custody, other.custody]).toEqual(['frozen', 'frozen'])
    expect(state().data).toEqual(FROZEN_DATA)
    generation.orchestrator.unfreeze([session, other])
    expect(machine.journal.take()).toEqual(
      FREEZING.toReversed().map((name) => expect.stringContaining(`a.unfreeze ${name} `)),
    )
    expect([session.custody, other.custody]).toEqual(['held', 'held'])
    expect(state().data).toEqual(DATA)
  })

  test.each(FREEZING.map((_, position) => position))(
    'unfreezes in reverse what it had frozen when the handler fails at position %i',
    (position) => {
      const before = state()
      machine.journal.failAt('a.freeze', position + 1, new LuoError('ENOMEM', 'no memory'))
      expect(codeOf(() => generation.orchestrator.freeze([session, other]))).toBe('ENOMEM')
      const calls = machine.journal.take()
      expect(filesOf(calls, 'freeze')).toEqual(FREEZING.slice(0, position + 1))
      expect(filesOf(calls, 'unfreeze')).toEqual(FREEZING.slice(0, position).reverse())
      expect(state()).toEqual(before)
      expect([session.custody, other.custody]).toEqual(['held', 'held'])
      generation.orchestrator.freeze([session, other])
      expect(state().data).toEqual(FROZEN_DATA)
      healthy()
    },
  )

  test('is EIO when a handler throws what is no LuoError', () => {
    machine.journal.failAt('a.freeze', 1, new TypeError('oops'))
    expect(codeOf(() => generation.orchestrator.freeze([session]))).toBe('EIO')
  })

  test.each(['freeze', 'unfreeze'] as const)('unfreezes the others when one cannot be: a failed %s', (how) => {
    if (how === 'freeze') machine.journal.failAt('a.freeze', 4)
    else generation.orchestrator.freeze([session, other])
    machine.journal.failAt('a.unfreeze', 2)
    machine.journal.take()
    if (how === 'freeze') expect(codeOf(() => generation.orchestrator.freeze([session, other]))).toBe('EIO')
    else generation.orchestrator.unfreeze([session, other])
    const frozen = how === 'freeze' ? FREEZING.slice(0, 3) : FREEZING
    expect(filesOf(machine.journal.take(), 'unfreeze')).toEqual(frozen.toReversed())
    expect(machine.defects).toEqual([expect.stringContaining('a.unfreeze was told to fail')])
    expect([session.custody, other.custody]).toEqual(['held', 'held'])
  })

  test('of several does nothing when one of them may not be frozen', () => {
    generation.orchestrator.orphan(other)
    expect(codeOf(() => generation.orchestrator.freeze([session, other]))).toBe('LUO_WRONG_STATE')
    expect([session.custody, other.custody]).toEqual(['held', 'orphaned'])
    expect(machine.journal.take()).toEqual([])
  })

  test.each(['unfreeze', 'commit'] as const)('of one only makes %s of both do nothing', (change) => {
    generation.orchestrator.freeze([session])
    machine.journal.take()
    expect(codeOf(() => generation.orchestrator[change]([session, other]))).toBe('LUO_WRONG_STATE')
    expect([session.custody, other.custody]).toEqual(['frozen', 'held'])
    expect(machine.journal.take()).toEqual([])
  })

  test('keeps preserve and unpreserve out, with EBUSY, and lets reference in', () => {
    const { orchestrator } = generation
    orchestrator.freeze([session])
    expect(codeOf(() => orchestrator.preserve(session, [toPreserve('9', 'a9')]))).toBe('EBUSY')
    expect(codeOf(() => orchestrator.preserve(session, []))).toBe('EBUSY')
    expect(codeOf(() => orchestrator.unpreserve(session, ['0']))).toBe('EBUSY')
    expect(orchestrator.reference(session, ['0']).map(({ file }) => file.open.name)).toEqual(['a0'])
    orchestrator.commit([session])
    orchestrator.preserve(session, [toPreserve('9', 'a9')])
    orchestrator.unpreserve(session, ['0'])
    expect([...session.files.keys()]).toEqual(['1', '2', '3', '4', '9'])
  })

  test('asks handlers only that have something to freeze', () => {
    expect(ALL.length).toBeGreaterThan(FREEZING.length)
    generation.orchestrator.freeze([other])
    generation.orchestrator.commit([other])
    expect(machine.journal.take().map((call) => call.split(' ')[1])).toEqual(['a6', 'a6'])
  })
})

describe('an orphan', () => {
  beforeEach(() => preserveAll())

  test('keeps its files, frozen when it is claimed, and its name', () => {
    const { orchestrator } = generation
    orchestrator.orphan(session)
    expect(machine.journal.take()).toEqual([])
    expect(state()).toMatchObject({ custody: 'orphaned', files: 5, references: 5, data: DATA })
    expect(codeOf(() => orchestrator.createSession('', 'web'))).toBe('EEXIST')
    expect(codeOf(() => orchestrator.preserve(session, [toPreserve('9', 'a9')]))).toBe('EBUSY')
    expect(orchestrator.reference(session, ['1'])).toHaveLength(1)
    orchestrator.claim(session)
    expect(state()).toMatchObject({ custody: 'frozen', files: 5, data: FROZEN_DATA })
    orchestrator.commit([session])
    expect(state()).toMatchObject({ custody: 'held', data: DATA })
  })

  test('of an update is unfrozen in reverse', () => {
    generation.orchestrator.freeze([session])
    machine.journal.take()
    generation.orchestrator.orphan(session)
    expect(filesOf(machine.journal.take(), 'unfreeze')).toEqual(['a4', 'a2', 'a0'])
    expect(state()).toMatchObject({ custody: 'orphaned', data: DATA })
  })

  test.each([1, 2, 3])('stays one when the handler fails at the %i. file of its claim', (nth) => {
    generation.orchestrator.orphan(session)
    machine.journal.failAt('a.freeze', nth, new LuoError('ENOMEM', 'no memory'))
    expect(codeOf(() => generation.orchestrator.claim(session))).toBe('ENOMEM')
    expect(state()).toMatchObject({ custody: 'orphaned', files: 5, references: 5, data: DATA })
    generation.orchestrator.claim(session)
    expect(state()).toMatchObject({ custody: 'frozen', data: FROZEN_DATA })
    healthy()
  })
})

describe('the moves of custody', () => {
  const changes: Record<CustodyMove, () => void> = {
    freeze: () => generation.orchestrator.freeze([session]),
    unfreeze: () => generation.orchestrator.unfreeze([session]),
    commit: () => generation.orchestrator.commit([session]),
    orphan: () => generation.orchestrator.orphan(session),
    claim: () => generation.orchestrator.claim(session),
  }
  const bring: Record<Custody, () => void> = { held: () => {}, frozen: changes.freeze, orphaned: changes.orphan }
  const custodies = Object.keys(bring) as Custody[]
  const moves = Object.keys(changes) as CustodyMove[]

  test.each(custodies.flatMap((custody) => moves.map((change) => [custody, change] as const)))(
    'when it is %s: %s is as the table says, or LUO_WRONG_STATE and nothing',
    (custody, change) => {
      preserveAll()
      bring[custody]()
      machine.journal.take()
      const next = CUSTODY_MOVES[custody][change]
      const before = state()
      if (next === undefined) {
        expect(codeOf(changes[change])).toBe('LUO_WRONG_STATE')
        expect(state()).toEqual(before)
        expect(machine.journal.take()).toEqual([])
      } else {
        changes[change]()
        expect(state()).toEqual({ ...before, custody: next, data: next === 'frozen' ? FROZEN_DATA : DATA })
      }
    },
  )

  test.each(custodies.flatMap((custody) => moves.map((change) => [custody, change] as const)))(
    'during a transition are EBUSY, and nothing is done: %s, %s',
    (custody, change) => {
      preserveAll()
      // What is frozen by an update keeps the transition from starting.
      if (custody !== 'frozen') bring[custody]()
      generation.orchestrator.freezeAll()
      machine.journal.take()
      const before = state()
      expect(codeOf(changes[change])).toBe('EBUSY')
      expect(state()).toEqual(before)
      expect(machine.journal.take()).toEqual([])
    },
  )
})

describe('release of an outgoing session', () => {
  beforeEach(() => preserveAll())

  test.each<[Custody, () => void]>([
    ['held', () => {}],
    ['frozen', () => generation.orchestrator.freeze([session])],
    ['orphaned', () => generation.orchestrator.orphan(session)],
  ])('lets go of everything in reverse, once, also when it is %s', (custody, prepare) => {
    prepare()
    expect(session.custody).toBe(custody)
    machine.journal.take()
    generation.orchestrator.release(session)
    generation.orchestrator.release(session)
    const calls = machine.journal.take()
    expect(filesOf(calls, 'unfreeze')).toEqual(custody === 'frozen' ? ['a4', 'a2', 'a0'] : [])
    expect(calls.filter((call) => !call.includes('unfreeze'))).toEqual([
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
    expect(state()).toMatchObject({ tokens: [], files: 0, references: 0, counts: NO_FLBS })
    expect(generation.orchestrator.sessionCount).toBe(0)
    healthy()
  })

  test('leaves other sessions alone, and FLBs to them', () => {
    const other = generation.orchestrator.createSession('', 'other')
    preserveAll(other, ['a9'])
    generation.orchestrator.release(session)
    expect([...other.files.keys()]).toEqual(['0'])
    expect(state()).toMatchObject({ files: 1, references: 1, counts: { x: [1n, 0n], y: [1n, 0n] } })
  })

  test('leaves an FLB to its last user', () => {
    const { flbs } = generation.registry
    flbs.getOutgoing(generation.x)
    generation.orchestrator.release(session)
    expect(generation.counts()).toEqual({ x: [1n, 0n], y: [0n, 0n] })
    machine.journal.take()
    flbs.putOutgoing(generation.x)
    expect(machine.journal.take()).toEqual(['x.unpreserve 1 object 1'])
  })

  test.each(['a.unfreeze', 'a.unpreserve', 'b.unpreserve', 'y.unpreserve', 'close'])(
    'does everything else when %s fails, and reports the defect',
    (operation) => {
      generation.orchestrator.freeze([session])
      machine.journal.failAt(operation)
      generation.orchestrator.release(session)
      expect(machine.defects).toEqual([expect.stringContaining(`${operation} was told to fail`)])
      expect(state()).toMatchObject({ tokens: [], files: 0, references: 0, counts: NO_FLBS })
      expect(generation.orchestrator.sessionCount).toBe(0)
    },
  )

  test('works without anybody who wants to know of defects', () => {
    const quiet = new Orchestrator<FakeFile, string>({ registry: generation.registry, files: machine.files })
    const only = quiet.createSession('', 'web')
    quiet.preserve(only, [toPreserve('0', 'b9')])
    machine.journal.failAt('b.unpreserve')
    quiet.release(only)
    expect(quiet.sessionCount).toBe(0)
  })
})

describe('incoming sessions', () => {
  let old: Generation
  beforeEach(() => {
    preserveAll()
    preserveAll(generation.orchestrator.createSession('', 'other'), ['b9'])
    old = generation
    generation = machine.boot()
    handOver(machine, old, generation)
  })
  const retrieveSession = (name = 'web') => generation.orchestrator.retrieveSession('', name)

  test('are what was handed over, in order, and have one holder: EINVAL for the next; ENOENT for others', () => {
    expect([...generation.orchestrator.incoming()].map(({ name }) => name)).toEqual(['web', 'other'])
    expect(generation.orchestrator.sessionCount).toBe(2)
    const incoming = retrieveSession()
    expect(incoming).toMatchObject({ direction: 'incoming', name: 'web', scope: '', finished: false })
    expect(generation.orchestrator.session(incoming.id)).toBe(incoming)
    expect(codeOf(() => retrieveSession())).toBe('EINVAL')
    expect(codeOf(() => retrieveSession('none'))).toBe('ENOENT')
    expect(codeOf(() => generation.orchestrator.retrieveSession('1', 'other'))).toBe('ENOENT')
    retrieveSession('other')
  })

  test('have names of their own: an outgoing one may have the same', () => {
    const outgoing = generation.orchestrator.createSession('', 'web')
    const incoming = retrieveSession()
    expect(outgoing.id).not.toBe(incoming.id)
    generation.orchestrator.release(outgoing)
    expect(codeOf(() => retrieveSession())).toBe('EINVAL')
    generation.orchestrator.createSession('', 'web')
    generation.orchestrator.release(incoming)
    expect(codeOf(() => generation.orchestrator.createSession('', 'web'))).toBe('EEXIST')
  })

  test('cannot be used before they are retrieved: EINVAL', () => {
    const [incoming] = generation.orchestrator.incoming()
    if (!incoming) throw new Error('nothing came in')
    expect(codeOf(() => generation.orchestrator.retrieve(incoming, '0'))).toBe('EINVAL')
    expect(codeOf(() => generation.orchestrator.finish(incoming))).toBe('EINVAL')
    expect(codeOf(() => generation.orchestrator.release(incoming))).toBe('EINVAL')
    expect(machine.journal.take()).toEqual([])
    retrieveSession()
  })

  test('that are finished stay EINVAL to retrieve until they are released, and are ENOENT then', () => {
    const incoming = retrieveSession()
    generation.orchestrator.finish(incoming)
    expect(incoming.finished).toBe(true)
    expect(codeOf(() => retrieveSession())).toBe('EINVAL')
    machine.journal.take()
    generation.orchestrator.release(incoming)
    expect(machine.journal.take()).toEqual([])
    expect(codeOf(() => retrieveSession())).toBe('ENOENT')
    expect(generation.orchestrator.session(incoming.id)).toBeUndefined()
    expect(codeOf(() => generation.orchestrator.retrieve(incoming, '0'))).toBe('LUO_WRONG_STATE')
    expect(codeOf(() => generation.orchestrator.finish(incoming))).toBe('LUO_WRONG_STATE')
    generation.orchestrator.release(incoming)
  })

  test('are finished when they are released', () => {
    const incoming = retrieveSession()
    machine.files.close(generation.orchestrator.retrieve(incoming, '0'))
    machine.journal.take()
    generation.orchestrator.release(incoming)
    expect(machine.journal.take().filter((call) => call.includes('.finish'))).toHaveLength(6)
    expect(codeOf(() => retrieveSession())).toBe('ENOENT')
    expect(machine.files.references).toBe(0)
    healthy()
  })

  test.each(['refuses', 'fails'])('stay with their files when a file %s, and cannot be retrieved again', (how) => {
    const incoming = retrieveSession()
    machine.files.close(generation.orchestrator.retrieve(incoming, '0'))
    if (how === 'refuses') generation.a.refusals = 1
    else machine.journal.failAt('a.canFinish')
    machine.journal.take()
    generation.orchestrator.release(incoming)
    expect(machine.journal.take().every((call) => call.startsWith('a.canFinish'))).toBe(true)
    expect([...incoming.files.keys()]).toEqual(['0', '1', '2', '3', '4'])
    expect(incoming.finished).toBe(false)
    expect(codeOf(() => retrieveSession())).toBe('EINVAL')
    expect(generation.orchestrator.session(incoming.id)).toBe(incoming)
    expect(machine.files.references).toBe(1)
    // Its end comes with the generation's.
    generation.orchestrator.end({ handedOver: false })
    expect(machine.files.references).toBe(0)
    healthy()
  })
})

describe('the transition', () => {
  beforeEach(() => preserveAll())

  test('freezes all sessions in order of creation, in each the files in order, and undoes it in reverse', () => {
    const other = generation.orchestrator.createSession('', 'other')
    preserveAll(other, ['a8', 'b9'])
    generation.orchestrator.orphan(other)
    generation.orchestrator.freezeAll()
    expect(filesOf(machine.journal.take(), 'freeze')).toEqual(['a0', 'a2', 'a4', 'a8'])
    expect(state().data).toEqual(FROZEN_DATA)
    generation.orchestrator.unfreezeAll()
    expect(filesOf(machine.journal.take(), 'unfreeze')).toEqual(['a8', 'a4', 'a2', 'a0'])
    expect(state()).toMatchObject({ data: DATA, custody: 'held' })
    expect(other.custody).toBe('orphaned')
    preserveAll(generation.orchestrator.createSession('', 'third'), ['a7'])
  })

  test('keeps every change out: EBUSY', () => {
    const { orchestrator } = generation
    const next = machine.boot()
    handOver(machine, generation, next)
    generation = next
    const incoming = next.orchestrator.retrieveSession('', 'web')
    session = next.orchestrator.createSession('', 'new')
    next.orchestrator.preserve(session, [toPreserve('0', 'a5')])
    next.orchestrator.freezeAll()
    machine.journal.take()
    const before = state()
    for (const run of [
      () => next.orchestrator.createSession('', 'another'),
      () => next.orchestrator.retrieveSession('', 'web'),
      () => next.orchestrator.preserve(session, []),
      () => next.orchestrator.unpreserve(session, ['0']),
      () => next.orchestrator.retrieve(incoming, '0'),
      () => next.orchestrator.finish(incoming),
      () => next.orchestrator.release(incoming),
      () => next.orchestrator.release(session),
      () => next.orchestrator.freezeAll(),
      () => next.orchestrator.receive({ liveupdateNumber: 1n, sessions: [], flbs: [] }),
    ]) {
      expect(codeOf(run)).toBe('EBUSY')
    }
    expect(machine.journal.take()).toEqual([])
    expect(state()).toEqual(before)
    machine.files.close(next.orchestrator.reference(session, ['0'])[0]?.file as FakeFile)
    next.orchestrator.unfreezeAll()
    next.orchestrator.release(session)
    expect(orchestrator.sessionCount).toBe(0)
    healthy()
  })

  test.each([1, 2, 3, 4])('does not begin when the handler fails at the %i. file: everything is as it was', (nth) => {
    preserveAll(generation.orchestrator.createSession('', 'other'), ['b9', 'a8'])
    const before = state()
    machine.journal.failAt('a.freeze', nth, new LuoError('ENOMEM', 'no memory'))
    expect(codeOf(() => generation.orchestrator.freezeAll())).toBe('ENOMEM')
    const calls = machine.journal.take()
    expect(filesOf(calls, 'unfreeze')).toEqual(filesOf(calls, 'freeze').slice(0, -1).reverse())
    expect(filesOf(calls, 'freeze')).toHaveLength(nth)
    expect(state()).toEqual(before)
    expect(codeOf(() => generation.orchestrator.serialize())).toBe('LUO_WRONG_STATE')
    generation.orchestrator.freezeAll()
    healthy()
  })

  test('does not begin while an update has a session frozen: EBUSY', () => {
    preserveAll(generation.orchestrator.createSession('', 'other'), ['a8'])
    generation.orchestrator.freeze([session])
    machine.journal.take()
    expect(codeOf(() => generation.orchestrator.freezeAll())).toBe('EBUSY')
    expect(machine.journal.take()).toEqual([])
    generation.orchestrator.commit([session])
    generation.orchestrator.freezeAll()
  })

  test('is undone, recorded and ended only after it has begun: LUO_WRONG_STATE', () => {
    expect(codeOf(() => generation.orchestrator.unfreezeAll())).toBe('LUO_WRONG_STATE')
    expect(codeOf(() => generation.orchestrator.serialize())).toBe('LUO_WRONG_STATE')
    expect(codeOf(() => generation.orchestrator.end({ handedOver: true }))).toBe('LUO_WRONG_STATE')
    expect(state()).toMatchObject({ files: 5, data: DATA })
  })

  test('records sessions, files with their frozen data, FLBs with their users, and counts', () => {
    preserveAll(generation.orchestrator.createSession('', 'other'), ['b9'])
    generation.orchestrator.createSession('', 'empty')
    generation.registry.flbs.getOutgoing(generation.x)
    generation.orchestrator.freezeAll()
    expect(generation.orchestrator.serialize()).toEqual({
      liveupdateNumber: 1n,
      sessions: [
        {
          name: 'web',
          files: NAMES.map((name, at) => ({ compatible: `${name[0]}-v1`, data: FROZEN_DATA[at], token: String(at) })),
        },
        { name: 'other', files: [{ compatible: 'b-v1', data: 8n, token: '0' }] },
        { name: 'empty', files: [] },
      ],
      flbs: [
        { compatible: 'x', data: 1n, count: 4n },
        { compatible: 'y', data: 2n, count: 6n },
      ],
    })
  })

  test('counts itself, in each generation', () => {
    expect(generation.orchestrator.liveupdateNumber).toBe(0n)
    for (const number of [1n, 2n, 3n]) {
      const next = machine.boot()
      expect(handOver(machine, generation, next).liveupdateNumber).toBe(number)
      expect(next.orchestrator.liveupdateNumber).toBe(number)
      generation = next
    }
  })

  test('hands over what is outgoing; what came in and nobody came for is finished at the end', () => {
    const second = machine.boot()
    handOver(machine, generation, second)
    second.orchestrator.createSession('', 'new')
    const third = machine.boot()
    second.orchestrator.freezeAll()
    third.orchestrator.receive(second.orchestrator.serialize())
    expect(machine.memory.files.size).toBe(5)
    // It has nobody to ask any more.
    second.a.refusals = 1
    second.orchestrator.end({ handedOver: true })
    expect(machine.journal.take().filter((call) => /^[ab].*inish/.test(call))).toHaveLength(5)
    expect(machine.memory.files.size).toBe(0)
    expect([...third.orchestrator.incoming()].map(({ name }) => name)).toEqual(['new'])
    expect(second.counts()).toEqual(NO_FLBS)
    healthy()
  })

  test('closes the references of a generation that handed over, compares none, and calls no handler', () => {
    generation.orchestrator.freezeAll()
    machine.journal.take()
    machine.files.comparisons = 0
    generation.orchestrator.end({ handedOver: true })
    expect(machine.journal.take()).toEqual(NAMES.map((name) => `close ${name}`))
    expect(machine.files.comparisons).toBe(0)
    expect(machine.files.references).toBe(0)
    expect(machine.memory.files.size).toBe(5)
    expect([generation.orchestrator.fileCount, generation.orchestrator.sessionCount]).toEqual([0, 0])
    healthy()
  })

  test.each(['open', 'frozen'])('releases everything when a generation that is %s ends without one', (phase) => {
    const other = generation.orchestrator.createSession('', 'other')
    preserveAll(other, ['a8'])
    generation.orchestrator.orphan(other)
    if (phase === 'frozen') generation.orchestrator.freezeAll()
    else generation.orchestrator.freeze([session])
    machine.journal.take()
    generation.orchestrator.end({ handedOver: false })
    const calls = machine.journal.take()
    expect(filesOf(calls, 'unpreserve')).toEqual(['a8', 'a4', 'b3', 'a2', 'b1', 'a0'])
    expect(filesOf(calls, 'unfreeze')).toEqual([...(phase === 'frozen' ? ['a8'] : []), 'a4', 'a2', 'a0'])
    expect(generation.counts()).toEqual(NO_FLBS)
    expect([machine.files.references, machine.memory.files.size]).toEqual([0, 0])
    healthy()
  })

  test('is the end of a generation: nothing can be done with it', () => {
    const { orchestrator } = generation
    orchestrator.freezeAll()
    const state = orchestrator.serialize()
    orchestrator.end({ handedOver: true })
    machine.journal.take()
    for (const run of [
      () => orchestrator.createSession('', 'new'),
      () => orchestrator.retrieveSession('', 'web'),
      () => orchestrator.preserve(session, []),
      () => orchestrator.unpreserve(session, []),
      () => orchestrator.reference(session, []),
      () => orchestrator.freeze([session]),
      () => orchestrator.orphan(session),
      () => orchestrator.freezeAll(),
      () => orchestrator.unfreezeAll(),
      () => orchestrator.serialize(),
      () => orchestrator.receive(state),
    ]) {
      expect(codeOf(run)).toBe('LUO_WRONG_STATE')
    }
    orchestrator.release(session)
    orchestrator.end({ handedOver: false })
    expect(machine.journal.take()).toEqual([])
  })
})

describe('receive', () => {
  const EMPTY = { liveupdateNumber: 3n, sessions: [], flbs: [] }

  test('is done once, before there are sessions: LUO_WRONG_STATE', () => {
    expect(codeOf(() => generation.orchestrator.receive(EMPTY))).toBe('LUO_WRONG_STATE')
    const next = machine.boot()
    next.orchestrator.receive(EMPTY)
    expect(next.orchestrator.liveupdateNumber).toBe(3n)
    expect(codeOf(() => next.orchestrator.receive({ ...EMPTY, liveupdateNumber: 4n }))).toBe('LUO_WRONG_STATE')
    expect(next.orchestrator.liveupdateNumber).toBe(3n)
  })

  test('puts the sessions into the scope that it is told', () => {
    const next = machine.boot()
    next.orchestrator.receive({ ...EMPTY, sessions: [{ name: 'web', files: [] }] }, '7')
    expect(codeOf(() => next.orchestrator.retrieveSession('', 'web'))).toBe('ENOENT')
    expect(next.orchestrator.retrieveSession('7', 'web').scope).toBe('7')
  })

  test('that fails has let nothing in, and the generation before goes on', () => {
    preserveAll()
    generation.orchestrator.freezeAll()
    const handed = generation.orchestrator.serialize()
    const next = machine.boot({ a: undefined })
    expect(codeOf(() => next.orchestrator.receive(handed))).toBe('ENOENT')
    expect(next.orchestrator.sessionCount).toBe(0)
    expect(next.orchestrator.liveupdateNumber).toBe(0n)
    expect(codeOf(() => next.registry.flbs.getIncoming(next.y))).toBe('ENODATA')
    expect(codeOf(() => next.orchestrator.retrieveSession('', 'web'))).toBe('ENOENT')
    generation.orchestrator.unfreezeAll()
    generation.orchestrator.release(session)
    expect(machine.files.references).toBe(0)
    healthy()
  })

  test('of an FLB twice lets nothing in: EEXIST', () => {
    const next = machine.boot()
    const flb = { compatible: 'x', data: 1n, count: 1n }
    const bad = { ...EMPTY, sessions: [{ name: 'web', files: [] }], flbs: [flb, flb] }
    expect(codeOf(() => next.orchestrator.receive(bad))).toBe('EEXIST')
    expect([next.orchestrator.sessionCount, next.orchestrator.liveupdateNumber]).toEqual([0, 0n])
  })
})
