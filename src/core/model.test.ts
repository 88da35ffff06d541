/**
 * Whatever is done to the orchestrator, in any order, with failures anywhere: it answers what the model answers, calls
 * the same operations in the same order, and holds the same files; and when all is released, nothing is left.
 *
 * LUO_FUZZ_RUNS: how many sequences, 1000 by default. LUO_FUZZ_SEED: the seed that a failure printed.
 */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { HandoverMemory } from '../abi/handover-memory.js'
import { decodeLuo, encodeLuo } from '../abi/luo.js'
import { LuoError } from '../errors.js'
import type { OutgoingSession, Session } from './session.js'
import type { FakeFile, OpenFile } from './testing/fakes.js'
import { Model, type ModelSession, Refused } from './testing/model.js'
import { FILES, type Side, type Step } from './testing/steps.js'
import { type Generation, Machine } from './testing/world.js'

const RUNS = Number(process.env.LUO_FUZZ_RUNS ?? 1000)
const SEED = process.env.LUO_FUZZ_SEED
const MAX_STEPS = 120
const MS_PER_RUN = 50
const LEAST_MS = 60_000

const OPERATIONS = [
  ...['canPreserve', 'preserve', 'unpreserve', 'freeze', 'unfreeze', 'retrieve', 'canFinish', 'finish'].map(
    (one) => `a.${one}`,
  ),
  ...['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish'].map((one) => `b.${one}`),
  ...['preserve', 'unpreserve', 'retrieve', 'finish'].flatMap((one) => [`x.${one}`, `y.${one}`]),
  'duplicate',
  'close',
]

const name = fc.oneof({ weight: 20, arbitrary: fc.constantFrom('p', 'q') }, { weight: 1, arbitrary: fc.constant('') })
// Two of them are one as a double; the last two are none.
const TOKENS = ['0', '9007199254740992', '9007199254740993', '18446744073709551615', '01', '18446744073709551616']
const token = fc.oneof(
  { weight: 30, arbitrary: fc.constantFrom(...TOKENS.slice(0, 4)) },
  { weight: 1, arbitrary: fc.constantFrom(...TOKENS) },
)
/** The first so many mean one that the session has, if it has any; the others, one of TOKENS. */
const PRESENT = 30
const place = fc.nat({ max: PRESENT + TOKENS.length - 1 })
const places = fc.array(place, { maxLength: 3 })
const file = fc.constantFrom(...FILES.map((one) => one.name))
type OfSession = Extract<Step, { session: number } | { sessions: number[] }>['do']
/** Which sessions each call is for. */
const FOR: Record<OfSession, { side?: Side; custody?: string; files?: true }> = {
  preserve: { side: 'outgoing', custody: 'held' },
  unpreserve: { side: 'outgoing', custody: 'held', files: true },
  reference: { side: 'outgoing', files: true },
  retrieve: { side: 'incoming', files: true },
  finish: { side: 'incoming' },
  release: {},
  freeze: { custody: 'held' },
  unfreeze: { custody: 'frozen' },
  commit: { custody: 'frozen' },
  orphan: { side: 'outgoing' },
  claim: { custody: 'orphaned' },
}
const CUSTODY_CALLS = { freeze: 0, unfreeze: 0, commit: 0, orphan: 0, claim: 0 }
/** The first so many mean one for which the call is, if there is one; the others, any. */
const FITTING = 12
const session = fc.nat({ max: FITTING + 1 })
const sessions = fc.uniqueArray(session, { minLength: 1, maxLength: 3 })
const nameOfA = fc.oneof(
  { weight: 6, arbitrary: fc.constant('a-v1') },
  { weight: 1, arbitrary: fc.constantFrom('a-v2', undefined) },
)
const is = <T extends string>(...what: T[]) => fc.constantFrom(...what)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: is('create'), name }) },
  { weight: 6, arbitrary: fc.record({ do: is('retrieveSession'), name }) },
  {
    weight: 20,
    arbitrary: fc.record({
      do: is('preserve'),
      session,
      files: fc.array(fc.record({ token, file }), { minLength: 1, maxLength: 3, size: 'small' }),
    }),
  },
  { weight: 8, arbitrary: fc.record({ do: is('unpreserve', 'reference'), session, places }) },
  { weight: 16, arbitrary: fc.record({ do: is('retrieve'), session, place }) },
  { weight: 2, arbitrary: fc.record({ do: is('finish'), session }) },
  { weight: 1, arbitrary: fc.record({ do: is('release'), session }) },
  { weight: 3, arbitrary: fc.record({ do: is('orphan', 'claim', 'claim'), session }) },
  { weight: 6, arbitrary: fc.record({ do: is('freeze', 'unfreeze', 'commit', 'commit'), sessions }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: is('freezeAll', 'unfreezeAll', 'unfreezeAll', 'unfreezeAll', 'unfreezeAll', 'serialize'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: is('transition'), a: nameOfA }) },
  { weight: 8, arbitrary: fc.record({ do: is('get', 'put'), side: is('outgoing', 'incoming'), flb: is('x', 'y') }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: is('fail'),
      operation: is(...OPERATIONS),
      nth: fc.integer({ min: 1, max: 3 }),
      code: is('ENOMEM', 'EIO'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: is('refuse'), times: fc.integer({ min: 1, max: 2 }) }) },
)

/** What was answered: a value, or a code. */
type Answer = { value: unknown } | { code: unknown }

class Comparison {
  readonly #machine: Machine
  readonly #model = new Model()
  readonly #open: OpenFile[]
  #generation: Generation
  /** The same sessions on both sides, also those that have ended. */
  #known: { core: Session<FakeFile, string>; model: ModelSession }[] = []
  /** How often the user has each FLB. */
  #users = new Map<string, number>()

  constructor(ordered: boolean) {
    this.#machine = new Machine({ ordered })
    this.#open = FILES.map((one) => this.#machine.files.open(one.name, one.inode).open)
    this.#generation = this.#machine.boot()
  }

  do(step: Step): void {
    const [core, model] = this.#both(step) ?? []
    if (!core || !model) return
    const expected = answerOf(model, Refused)
    same(answerOf(core, LuoError), expected)
    this.#compare()
  }

  /** Releases everything, and looks for what is left. */
  finish(): void {
    this.#machine.journal.heal()
    this.#model.faults = []
    this.#generation.a.refusals = this.#model.refusals = 0
    if (this.#model.phase === 'frozen') this.do({ do: 'unfreezeAll' })
    for (const [key, count] of this.#users) {
      const [side, flb] = key.split(' ')
      for (let left = count; left > 0; left--) this.do({ do: 'put', side: side as Side, flb: flb ?? '' })
    }
    for (const { name } of this.#model.all('incoming')) this.do({ do: 'retrieveSession', name })
    while (this.#known.some(({ model }) => !model.gone)) this.do({ do: 'release', session: 0 })
    expect(this.#generation.orchestrator.sessionCount).toBe(0)
    expect(this.#generation.orchestrator.fileCount).toBe(0)
    expect(this.#machine.files.references).toBe(FILES.length)
    expect(Object.values(this.#generation.counts()).map(([outgoing]) => outgoing)).not.toContain(1n)
  }

  // --- the same, on both sides ---------------------------------------------------------------------------------------

  #both(step: Step): [() => unknown, () => unknown] | undefined {
    const { orchestrator, registry, a } = this.#generation
    const model = this.#model
    const { journal } = this.#machine
    switch (step.do) {
      case 'create':
      case 'retrieveSession': {
        const call = step.do === 'create' ? 'createSession' : 'retrieveSession'
        return [() => this.#know(orchestrator[call]('', step.name)), () => this.#knowModel(model[step.do](step.name))]
      }
      case 'freezeAll':
      case 'unfreezeAll':
      case 'serialize':
        return [() => orchestrator[step.do](), () => model[step.do]()]
      case 'transition': {
        const isFrozen = model.phase === 'frozen'
        return [() => this.#transition(step.a, isFrozen), () => model.transition(step.a)]
      }
      case 'end':
        return [() => orchestrator.end({ handedOver: false }), () => model.end()]
      case 'get':
      case 'put':
        return this.#flb(step.do, step.side, step.flb as 'x' | 'y', registry.flbs)
      case 'fail': {
        const error = step.code === 'EIO' ? new TypeError('told to') : new LuoError(step.code, 'told to')
        return [
          () => journal.failAt(step.operation, step.nth, error),
          () => model.fail(step.operation, step.nth, step.code),
        ]
      }
      case 'refuse':
        a.refusals = model.refusals = step.times
        return undefined
      case 'freeze':
      case 'unfreeze':
      case 'commit': {
        const some = step.sessions.flatMap((index) => this.#session(index, step.do) ?? [])
        const distinct = [...new Set(some)]
        if (distinct.length === 0) return undefined
        return [
          () => orchestrator[step.do](distinct.map(({ core }) => core as OutgoingSession<FakeFile, string>)),
          () =>
            model.change(
              distinct.map((one) => one.model),
              step.do,
            ),
        ]
      }
      default:
        return this.#ofSession(step)
    }
  }

  #ofSession(step: Extract<Step, { session: number }>): [() => unknown, () => unknown] | undefined {
    const { orchestrator } = this.#generation
    const model = this.#model
    const known = this.#session(step.session, step.do)
    if (!known) return undefined
    const { core } = known
    const present = known.model.files.map((one) => one.token)
    const tokens = (some: number[]) =>
      some.map(
        (one) =>
          (one < PRESENT ? present[one % Math.max(1, present.length)] : undefined) ?? TOKENS[one % TOKENS.length] ?? '',
      )
    switch (step.do) {
      case 'preserve':
        return [() => this.#preserve(core, step.files), () => model.preserve(known.model, step.files)]
      case 'unpreserve':
        return [
          () => orchestrator.unpreserve(core, tokens(step.places)),
          () => model.unpreserve(known.model, tokens(step.places)),
        ]
      case 'reference':
        return [
          () => orchestrator.reference(core, tokens(step.places)).map(({ file }) => this.#nameOf(file)),
          () => model.reference(known.model, tokens(step.places)),
        ]
      case 'retrieve': {
        const [wanted = ''] = tokens([step.place])
        return [() => this.#nameOf(orchestrator.retrieve(core, wanted)), () => model.retrieve(known.model, wanted)]
      }
      case 'finish':
      case 'release':
        return [() => orchestrator[step.do](core), () => model[step.do](known.model)]
      default:
        return [
          () => orchestrator[step.do](core as OutgoingSession<FakeFile, string>),
          () => model.change([known.model], step.do),
        ]
    }
  }

  #preserve(core: Session<FakeFile, string>, files: { token: string; file: string }[]): void {
    const { files: access } = this.#machine
    const request = files.map(({ token, file }) => {
      const open = this.#open.find((one) => one.name === file) as OpenFile
      return { token, file: access.refer(open), about: file }
    })
    try {
      this.#generation.orchestrator.preserve(core, request)
    } catch (error) {
      // They stay the caller's.
      for (const { file } of request) access.letGo(file)
      throw error
    }
  }

  #flb(call: 'get' | 'put', side: Side, flb: 'x' | 'y', flbs: Generation['registry']['flbs']) {
    const key = `${side} ${flb}`
    const has = this.#users.get(key) ?? 0
    // A user that puts what it has not got is not the orchestrator's matter, as long as somebody has it.
    if (call === 'put' && has === 0 && this.#model.count(side, flb) > 0n) return undefined
    const method = `${call}${side === 'outgoing' ? 'Outgoing' : 'Incoming'}` as const
    const run = (): unknown => {
      if (call === 'put') this.#users.set(key, Math.max(0, has - 1))
      const object = flbs[method](this.#generation[flb])
      if (call === 'get') this.#users.set(key, has + 1)
      return object
    }
    return [run, () => this.#model[call](side, flb)] satisfies [() => unknown, () => unknown]
  }

  #transition(nameOfA: string | undefined, isFrozen: boolean): void {
    const { orchestrator } = this.#generation
    if (!isFrozen) orchestrator.freezeAll()
    const state = orchestrator.serialize()
    const memory = new HandoverMemory()
    const decoded = decodeLuo(memory, encodeLuo(memory, state))
    expect(decoded).toEqual(state)
    const next = this.#machine.boot({ a: nameOfA })
    try {
      next.orchestrator.receive(decoded)
    } catch (error) {
      expect(next.orchestrator.sessionCount).toBe(0)
      orchestrator.unfreezeAll()
      throw error
    }
    orchestrator.end({ handedOver: true })
    this.#generation = next
    this.#users.clear()
    this.#known = [...next.orchestrator.incoming()].map((core, index) => ({
      core,
      model: this.#model.sessions[index] as ModelSession,
    }))
  }

  // --- sessions ------------------------------------------------------------------------------------------------------

  #session(index: number, call: OfSession) {
    const { side, custody, files } = FOR[call]
    // Custody is no word of incoming sessions.
    const possible = this.#known.filter(({ model }) => model.side === 'outgoing' || !(call in CUSTODY_CALLS))
    const fitting = this.#known.filter(
      ({ model }) =>
        !model.gone &&
        (side === undefined || model.side === side) &&
        (model.side === 'outgoing' || model.retrieved) &&
        (custody === undefined || model.custody === custody) &&
        (files === undefined || model.files.length > 0),
    )
    const some = index < FITTING ? fitting : possible
    return some[index % Math.max(1, some.length)]
  }

  /** The place of the session among those that are known. */
  #know(core: Session<FakeFile, string>): number {
    const index = this.#known.findIndex((one) => one.core === core)
    if (index >= 0) return index
    const model = this.#model.sessions.at(-1) as ModelSession
    this.#known.push({ core, model })
    return this.#known.length - 1
  }

  #knowModel(session: ModelSession): number {
    const index = this.#known.findIndex(({ model }) => model === session)
    return index >= 0 ? index : this.#known.length
  }

  #nameOf(file: FakeFile): string {
    this.#machine.files.letGo(file)
    return file.open.name
  }

  // --- what can be seen ----------------------------------------------------------------------------------------------

  #compare(): void {
    const { orchestrator } = this.#generation
    const { journal, files, memory, defects } = this.#machine
    const model = this.#model
    same(journal.take(), model.calls.splice(0))
    same(journal.broken, [])
    const [outgoing, incoming] = [model.all('outgoing'), model.all('incoming')]
    const seen = {
      outgoing: [...orchestrator.outgoing()].map((one) => ({
        name: one.name,
        custody: one.custody,
        files: [...one.files.values()].map(({ token, file, kept, about }) => [token, file.open.name, kept.data, about]),
      })),
      incoming: [...orchestrator.incoming()].map((one) => ({
        name: one.name,
        retrieved: one.retrieved,
        finished: one.finished,
        files: [...one.files.values()].map(({ token, data, retrieved }) => [
          token,
          data,
          retrieved && 'file' in retrieved ? retrieved.file.open.name : retrieved?.error.code,
        ]),
      })),
      sessions: orchestrator.sessionCount,
      files: orchestrator.fileCount,
      number: orchestrator.liveupdateNumber,
      flbs: ['x', 'y'].map((flb) => this.#generation.counts()[flb] ?? [0n, 0n]),
      references: files.references,
      memory: [...memory.files.keys()],
      defects: defects.length,
    }
    same(seen, {
      outgoing: outgoing.map((one) => ({
        name: one.name,
        custody: one.custody,
        files: one.files.map(({ token, name, data }) => [token, name, data, name]),
      })),
      incoming: incoming.map((one) => ({
        name: one.name,
        retrieved: one.retrieved,
        finished: one.finished,
        files: one.files.map(({ token, data, name, failure }) => [token, data, name ?? failure]),
      })),
      sessions: outgoing.length + incoming.length,
      files: outgoing.flatMap((one) => one.files).length,
      number: model.number,
      flbs: ['x', 'y'].map((flb) => [model.count('outgoing', flb), model.count('incoming', flb)]),
      references: FILES.length + model.references(),
      memory: model.memory.map(({ data }) => data),
      defects: model.defects,
    })
  }
}

/** As `expect` has it, which takes long to find that all is well. */
function same(seen: unknown, expected: unknown): void {
  if (!isDeepStrictEqual(seen, expected)) expect(seen).toEqual(expected)
}

function answerOf(run: () => unknown, refusal: typeof LuoError | typeof Refused): Answer {
  try {
    return { value: run() }
  } catch (error) {
    if (error instanceof refusal) return { code: error.code }
    throw error
  }
}

test(
  'whatever is done, the orchestrator is what the model is, and nothing is left in the end',
  () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 1, maxLength: MAX_STEPS, size: 'max' }),
        fc.boolean(),
        fc.boolean(),
        (steps, ordered, ends) => {
          const comparison = new Comparison(ordered)
          for (const one of steps) comparison.do(one)
          if (ends) comparison.do({ do: 'end' })
          else comparison.finish()
        },
      ),
      { numRuns: RUNS, ...(SEED === undefined ? {} : { seed: Number(SEED) }) },
    )
  },
  Math.max(LEAST_MS, RUNS * MS_PER_RUN),
)
