import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { isLuoError, LuoError } from '../errors.js'
import { type FileHandler, HandlerRegistry } from './handler.js'
import { Orchestrator } from './orchestrator.js'
import { CUSTODY_MOVES, type Custody, type CustodyMove, MAX_NAME_BYTES, type Session } from './session.js'

/** A file that says what was done to it. */
interface Kept {
  file: string
}

/** Keeps files that begin with its letter, writes down what it was asked, and fails where it is told to. */
class FakeHandler implements FileHandler<string, Kept> {
  readonly compatible: string
  readonly #letter: string
  readonly #log: string[]
  /** References that it has: one for each file preserved, one for each retrieved. */
  held = 0
  frozen = new Set<Kept>()
  failOn: string | undefined

  constructor(letter: string, log: string[]) {
    this.compatible = `${letter}-v1`
    this.#letter = letter
    this.#log = log
  }

  #did(operation: string, file: string): void {
    if (this.failOn === `${operation} ${file}`) throw new LuoError('EIO', `${operation} ${file} failed`)
    this.#log.push(`${operation} ${file}`)
  }

  canPreserve(file: string): boolean {
    return file.startsWith(this.#letter)
  }

  preserve(file: string): Kept {
    this.#did('preserve', file)
    this.held += 1
    return { file }
  }

  unpreserve({ file }: Kept): void {
    this.#did('unpreserve', file)
    this.held -= 1
  }

  freeze(data: Kept): void {
    this.#did('freeze', data.file)
    if (this.frozen.has(data)) throw new Error(`${data.file} is frozen twice`)
    this.frozen.add(data)
  }

  unfreeze(data: Kept): void {
    this.#did('unfreeze', data.file)
    if (!this.frozen.delete(data)) throw new Error(`${data.file} is unfrozen and was not frozen`)
  }

  retrieve({ file }: Kept): string {
    this.#did('retrieve', file)
    this.held += 1
    return file
  }

  discard(file: string): void {
    this.#did('discard', file)
    this.held -= 1
  }

  finish({ file }: Kept): void {
    this.#did('finish', file)
    this.held -= 1
  }

  /** `a1` and `a1'` are two references to one file. */
  getId(file: string): string {
    return file.replaceAll("'", '')
  }
}

let log: string[]
let a: FakeHandler
let b: FakeHandler
let orchestrator: Orchestrator<string, Kept>
let session: Session<string, Kept>
const setUp = () => {
  log = []
  a = new FakeHandler('a', log)
  b = new FakeHandler('b', log)
  const registry = new HandlerRegistry<string, Kept>()
  registry.register(a)
  registry.register(b)
  orchestrator = new Orchestrator(registry)
  session = orchestrator.createSession('0', 'web')
}
beforeEach(setUp)

const codeOf = (run: () => unknown): unknown => {
  try {
    run()
    return undefined
  } catch (error) {
    return isLuoError(error) ? error.code : error
  }
}
const toPreserve = (token: string, file: string) => ({ token, file, kind: 'fake', format: undefined })
const FILES = ['a0', 'b1', 'a2', 'b3', 'a4']
const ALL = FILES.map((file, index) => toPreserve(String(index), file))
const preserveAll = () => {
  orchestrator.preserve(session, ALL)
  log.length = 0
}
const state = () => ({
  tokens: [...session.files.keys()],
  custody: session.custody,
  files: orchestrator.fileCount,
  held: a.held + b.held,
  frozen: a.frozen.size + b.frozen.size,
})
const NOTHING = { tokens: [], custody: 'held', files: 0, held: 0, frozen: 0 }

describe('sessions', () => {
  test('are found by their id, are outgoing, held and empty, and have ids of their own', () => {
    const other = orchestrator.createSession('0', 'other')
    expect(session).toMatchObject({ name: 'web', scope: '0', direction: 'outgoing', custody: 'held' })
    expect(session.files.size).toBe(0)
    expect(other.id).not.toBe(session.id)
    expect(orchestrator.session(session.id)).toBe(session)
    expect(orchestrator.session('99')).toBeUndefined()
    expect(orchestrator.sessionCount).toBe(2)
  })

  test('compete for their names in one scope only: EEXIST', () => {
    expect(codeOf(() => orchestrator.createSession('0', 'web'))).toBe('EEXIST')
    orchestrator.createSession('1', 'web')
    expect(orchestrator.sessionCount).toBe(2)
  })

  test('have names of 1 to 63 bytes without NUL: EINVAL', () => {
    orchestrator.createSession('0', 'x'.repeat(MAX_NAME_BYTES))
    for (const name of ['', 'x'.repeat(MAX_NAME_BYTES + 1), 'a\0b']) {
      expect(codeOf(() => orchestrator.createSession('0', name))).toBe('EINVAL')
    }
    expect(orchestrator.sessionCount).toBe(2)
  })

  test('leave their names, and never their ids, to others when they end', () => {
    orchestrator.release(session)
    expect(orchestrator.session(session.id)).toBeUndefined()
    expect(orchestrator.createSession('0', 'web').id).not.toBe(session.id)
  })
})

describe('preserve', () => {
  test('keeps each file under its token, with its kind and format, by the handler that takes it', () => {
    const [first, second] = orchestrator.preserve(session, [
      { token: '7', file: 'b1', kind: 'memfd', format: 'store/1' },
      { token: '18446744073709551615', file: 'a1', kind: 'tcp', format: undefined },
    ])
    expect(first).toMatchObject({ token: '7', handler: b, data: { file: 'b1' }, kind: 'memfd', format: 'store/1' })
    expect(second).toMatchObject({ handler: a, kind: 'tcp', format: undefined })
    expect(session.files.get('7')).toBe(first)
    expect(orchestrator.fileCount).toBe(2)
  })

  test('of no files does nothing', () => {
    expect(orchestrator.preserve(session, [])).toEqual([])
  })

  test.each(ALL.map((_, position) => position))(
    'does all or nothing when the handler fails at position %i',
    (position) => {
      const handler = position % 2 === 0 ? a : b
      handler.failOn = `preserve ${FILES[position]}`
      expect(codeOf(() => orchestrator.preserve(session, ALL))).toBe('EIO')
      expect(state()).toEqual(NOTHING)
      const before = FILES.slice(0, position)
      expect(log).toEqual([
        ...before.map((file) => `preserve ${file}`),
        ...before.reverse().map((file) => `unpreserve ${file}`),
      ])
      handler.failOn = undefined
      orchestrator.preserve(session, ALL)
      expect(state()).toEqual({ ...NOTHING, tokens: ['0', '1', '2', '3', '4'], files: 5, held: 5 })
    },
  )

  test.each([
    ['EEXIST', 'a token that is used in the session', toPreserve('100', 'a9')],
    ['EEXIST', 'a token that is used in the request', toPreserve('0', 'a9')],
    ['EBUSY', 'a file that the session has', toPreserve('9', "a100'")],
    ['EBUSY', 'a file that another session has', toPreserve('9', "b200'")],
    ['EBUSY', 'a file that is in the request twice', toPreserve('9', "a0'")],
    ['ENOENT', 'a file that no handler takes', toPreserve('9', 'c1')],
    ['EINVAL', 'a token that is none', toPreserve('09', 'a9')],
    ['EINVAL', 'a token beyond u64', toPreserve('18446744073709551616', 'a9')],
  ])('is %s for %s, wherever it is in the request, and nothing of it is done', (code, _what, bad) => {
    orchestrator.preserve(session, [toPreserve('100', 'a100')])
    orchestrator.preserve(orchestrator.createSession('1', 'web'), [toPreserve('0', 'b200')])
    const before = state()
    for (let position = bad.token === '0' || bad.file === "a0'" ? 1 : 0; position <= ALL.length; position++) {
      const files = [...ALL.slice(0, position), bad, ...ALL.slice(position)]
      expect(codeOf(() => orchestrator.preserve(session, files))).toBe(code)
      expect(state()).toEqual(before)
    }
    expect([...session.files.values()].map(({ data }) => data.file)).toEqual(['a100'])
  })

  test('takes the same token in another session, and the same name by another handler', () => {
    orchestrator.preserve(session, [toPreserve('1', 'a1')])
    orchestrator.preserve(orchestrator.createSession('0', 'other'), [toPreserve('1', 'b1')])
    expect(orchestrator.fileCount).toBe(2)
  })

  test('takes a file again once it was let go of', () => {
    orchestrator.preserve(session, [toPreserve('1', 'a1')])
    orchestrator.unpreserve(session, ['1'])
    orchestrator.preserve(orchestrator.createSession('0', 'other'), [toPreserve('1', "a1'")])
    expect(a.held).toBe(1)
  })
})

describe('unpreserve', () => {
  beforeEach(preserveAll)

  test('lets go of the files in reverse order', () => {
    orchestrator.unpreserve(session, ['0', '3', '1'])
    expect(log).toEqual(['unpreserve b1', 'unpreserve b3', 'unpreserve a0'])
    expect(state()).toEqual({ ...NOTHING, tokens: ['2', '4'], files: 2, held: 2 })
  })

  test('lets go of a file once that is named twice', () => {
    orchestrator.unpreserve(session, ['2', '2'])
    expect(log).toEqual(['unpreserve a2'])
  })

  test.each([
    ['ENOENT', '9'],
    ['EINVAL', 'x'],
  ])('is %s for the token %s, and nothing of it is done', (code, token) => {
    const before = state()
    for (const tokens of [[token], ['0', token], [token, '0']]) {
      expect(codeOf(() => orchestrator.unpreserve(session, tokens))).toBe(code)
    }
    expect(state()).toEqual(before)
    expect(log).toEqual([])
  })
})

describe('retrieve', () => {
  beforeEach(preserveAll)

  test('gives new references in the order that was asked for, also twice of one file', () => {
    const found = orchestrator.retrieve(session, ['3', '0', '3'])
    expect(found.map(({ file }) => file)).toEqual(['b3', 'a0', 'b3'])
    expect(found.map(({ preserved }) => preserved.token)).toEqual(['3', '0', '3'])
    expect(state()).toMatchObject({ files: 5, held: 8 })
  })

  test('is ENOENT for a token that is not there, and nothing of it is done', () => {
    expect(codeOf(() => orchestrator.retrieve(session, ['0', '9']))).toBe('ENOENT')
    expect(log).toEqual([])
  })

  test.each(FILES.map((_, position) => position))(
    'keeps no reference when the handler fails at position %i',
    (position) => {
      const handler = position % 2 === 0 ? a : b
      handler.failOn = `retrieve ${FILES[position]}`
      const before = state()
      expect(codeOf(() => orchestrator.retrieve(session, ['0', '1', '2', '3', '4']))).toBe('EIO')
      expect(state()).toEqual(before)
    },
  )
})

describe('freeze', () => {
  let other: Session<string, Kept>
  const frozenFiles = ['a0', 'b1', 'a2', 'b3', 'a4', 'b5', 'a6']
  beforeEach(() => {
    preserveAll()
    other = orchestrator.createSession('0', 'other')
    orchestrator.preserve(other, [toPreserve('0', 'b5'), toPreserve('1', 'a6')])
    log.length = 0
  })

  test('freezes every file of every session, and unfreeze undoes it in reverse', () => {
    orchestrator.freeze([session, other])
    expect(log.splice(0)).toEqual(frozenFiles.map((file) => `freeze ${file}`))
    expect([session.custody, other.custody]).toEqual(['frozen', 'frozen'])
    orchestrator.unfreeze([session, other])
    expect(log).toEqual(frozenFiles.toReversed().map((file) => `unfreeze ${file}`))
    expect([session.custody, other.custody]).toEqual(['held', 'held'])
    expect(state().frozen).toBe(0)
  })

  test.each(frozenFiles.map((_, position) => position))(
    'unfreezes in reverse what it had frozen when the handler fails at position %i',
    (position) => {
      const file = frozenFiles[position] ?? ''
      const handler = file.startsWith('a') ? a : b
      handler.failOn = `freeze ${file}`
      const before = state()
      expect(codeOf(() => orchestrator.freeze([session, other]))).toBe('EIO')
      const done = frozenFiles.slice(0, position)
      expect(log).toEqual([
        ...done.map((name) => `freeze ${name}`),
        ...done.reverse().map((name) => `unfreeze ${name}`),
      ])
      expect(state()).toEqual(before)
      expect([session.custody, other.custody]).toEqual(['held', 'held'])
    },
  )

  test('of several does nothing when one of them may not be frozen', () => {
    orchestrator.orphan(other)
    expect(codeOf(() => orchestrator.freeze([session, other]))).toBe('LUO_WRONG_STATE')
    expect([session.custody, other.custody]).toEqual(['held', 'orphaned'])
    expect(log).toEqual([])
  })

  test.each(['unfreeze', 'commit'] as const)('of one only makes %s of both do nothing', (change) => {
    orchestrator.freeze([session])
    expect(codeOf(() => orchestrator[change]([session, other]))).toBe('LUO_WRONG_STATE')
    expect([session.custody, other.custody]).toEqual(['frozen', 'held'])
    expect(state().frozen).toBe(5)
  })

  test('keeps preserve and unpreserve out, with EBUSY, and lets retrieve in', () => {
    orchestrator.freeze([session])
    expect(codeOf(() => orchestrator.preserve(session, [toPreserve('9', 'a9')]))).toBe('EBUSY')
    expect(codeOf(() => orchestrator.preserve(session, []))).toBe('EBUSY')
    expect(codeOf(() => orchestrator.unpreserve(session, ['0']))).toBe('EBUSY')
    expect(orchestrator.retrieve(session, ['0']).map(({ file }) => file)).toEqual(['a0'])
    orchestrator.commit([session])
    orchestrator.preserve(session, [toPreserve('9', 'a9')])
    orchestrator.unpreserve(session, ['0'])
    expect([...session.files.keys()]).toEqual(['1', '2', '3', '4', '9'])
  })

  test('works with handlers that have nothing to freeze', () => {
    const registry = new HandlerRegistry<string, Kept>()
    const { compatible } = a
    registry.register({
      compatible,
      canPreserve: () => true,
      preserve: (file) => ({ file }),
      unpreserve: () => {},
      retrieve: ({ file }) => file,
      finish: () => {},
      getId: (file) => file,
    })
    const plain = new Orchestrator(registry)
    const only = plain.createSession('0', 'web')
    plain.preserve(only, ALL)
    plain.freeze([only])
    plain.commit([only])
    plain.orphan(only)
    plain.claim(only)
    expect(only.custody).toBe('frozen')
  })
})

describe('an orphan', () => {
  beforeEach(preserveAll)

  test('keeps its files, frozen when it is claimed, and its name', () => {
    orchestrator.orphan(session)
    expect(state()).toMatchObject({ custody: 'orphaned', files: 5, held: 5, frozen: 0 })
    expect(codeOf(() => orchestrator.createSession('0', 'web'))).toBe('EEXIST')
    expect(codeOf(() => orchestrator.preserve(session, [toPreserve('9', 'a9')]))).toBe('EBUSY')
    orchestrator.claim(session)
    expect(state()).toMatchObject({ custody: 'frozen', files: 5, frozen: 5 })
    orchestrator.commit([session])
    expect(state()).toMatchObject({ custody: 'held', frozen: 0 })
  })

  test('of an update is unfrozen in reverse', () => {
    orchestrator.freeze([session])
    log.length = 0
    orchestrator.orphan(session)
    expect(log).toEqual(FILES.toReversed().map((file) => `unfreeze ${file}`))
    expect(state()).toMatchObject({ custody: 'orphaned', frozen: 0 })
  })

  test.each(FILES.map((_, position) => position))(
    'stays one when the handler fails at position %i of its claim',
    (position) => {
      orchestrator.orphan(session)
      const handler = position % 2 === 0 ? a : b
      handler.failOn = `freeze ${FILES[position]}`
      expect(codeOf(() => orchestrator.claim(session))).toBe('EIO')
      const done = FILES.slice(0, position)
      expect(log).toEqual([
        ...done.map((file) => `freeze ${file}`),
        ...done.reverse().map((file) => `unfreeze ${file}`),
      ])
      expect(state()).toMatchObject({ custody: 'orphaned', files: 5, held: 5, frozen: 0 })
      handler.failOn = undefined
      orchestrator.claim(session)
      expect(state()).toMatchObject({ custody: 'frozen', frozen: 5 })
    },
  )
})

describe('release', () => {
  beforeEach(preserveAll)

  test.each<[Custody, () => void]>([
    ['held', () => {}],
    ['frozen', () => orchestrator.freeze([session])],
    ['orphaned', () => orchestrator.orphan(session)],
  ])('lets go of everything in reverse, once, also when it is %s', (custody, prepare) => {
    prepare()
    expect(session.custody).toBe(custody)
    log.length = 0
    const reverse = FILES.toReversed()
    orchestrator.release(session)
    orchestrator.release(session)
    expect(log).toEqual([
      ...(custody === 'frozen' ? reverse.map((file) => `unfreeze ${file}`) : []),
      ...reverse.map((file) => `unpreserve ${file}`),
    ])
    expect(state()).toMatchObject({ tokens: [], files: 0, held: 0, frozen: 0 })
    expect(orchestrator.sessionCount).toBe(0)
  })

  test('leaves other sessions alone', () => {
    const other = orchestrator.createSession('0', 'other')
    orchestrator.preserve(other, [toPreserve('0', 'a9')])
    orchestrator.release(session)
    expect([...other.files.keys()]).toEqual(['0'])
    expect(orchestrator.fileCount).toBe(1)
  })
})

describe('the moves of custody', () => {
  const changes: Record<CustodyMove, () => void> = {
    freeze: () => orchestrator.freeze([session]),
    unfreeze: () => orchestrator.unfreeze([session]),
    commit: () => orchestrator.commit([session]),
    orphan: () => orchestrator.orphan(session),
    claim: () => orchestrator.claim(session),
  }
  const bring: Record<Custody, () => void> = {
    held: () => {},
    frozen: changes.freeze,
    orphaned: changes.orphan,
  }
  const custodies = Object.keys(bring) as Custody[]
  const moves = Object.keys(changes) as CustodyMove[]

  test.each(custodies.flatMap((custody) => moves.map((change) => [custody, change] as const)))(
    'when it is %s: %s is as the table says, or LUO_WRONG_STATE and nothing',
    (custody, change) => {
      preserveAll()
      bring[custody]()
      log.length = 0
      const next = CUSTODY_MOVES[custody][change]
      const before = state()
      if (next === undefined) {
        expect(codeOf(changes[change])).toBe('LUO_WRONG_STATE')
        expect(state()).toEqual(before)
        expect(log).toEqual([])
      } else {
        changes[change]()
        expect(state()).toEqual({ ...before, custody: next, frozen: next === 'frozen' ? 5 : 0 })
      }
    },
  )

  test('and everything else in any order leak no reference', () => {
    const token = fc.constantFrom('0', '1', '2', '3')
    const file = fc.constantFrom('a0', "a0'", 'a1', 'b0', 'b1', 'c0')
    const fail = fc.constantFrom(undefined, 'preserve a1', 'freeze a0', 'freeze b1', 'retrieve b0')
    const step = fc.oneof(
      fc.record({ do: fc.constant('preserve' as const), files: fc.array(fc.tuple(token, file), { maxLength: 4 }) }),
      fc.record({ do: fc.constantFrom('unpreserve' as const, 'retrieve' as const), tokens: fc.array(token) }),
      fc.record({ do: fc.constantFrom(...moves) }),
      fc.record({ do: fc.constant('fail' as const), at: fail }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        setUp()
        let given = 0
        for (const what of steps) {
          const before = state()
          const code = codeOf(() => {
            if (what.do === 'preserve')
              orchestrator.preserve(
                session,
                what.files.map((pair) => toPreserve(...pair)),
              )
            else if (what.do === 'unpreserve') orchestrator.unpreserve(session, what.tokens)
            else if (what.do === 'retrieve') given += orchestrator.retrieve(session, what.tokens).length
            else if (what.do === 'fail') a.failOn = b.failOn = what.at
            else changes[what.do]()
          })
          // What is refused has done nothing; what was done is all of it.
          if (code !== undefined) expect(state()).toEqual(before)
          const { tokens, files, held, frozen, custody } = state()
          expect([files, held - given]).toEqual([tokens.length, tokens.length])
          expect(frozen).toBe(custody === 'frozen' ? tokens.length : 0)
        }
        orchestrator.release(session)
        expect(state()).toMatchObject({ files: 0, held: given, frozen: 0 })
      }),
      { numRuns: 300 },
    )
  })
})
