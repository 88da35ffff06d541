/**
 * Every operation of a plug-in, broken in every way: a typed error for what was asked, or a defect, and nothing leaks.
 */
import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Flb } from '../core/flb.js'
import type { FileHandler } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import { LuoError } from '../errors.js'
import { type HandlerContext, standaloneContext } from '../handlers/context.js'
import { type FileAbout, type HeldFile, heldFiles } from '../handlers/held-file.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { FileSlots, type SlottedFile } from '../handlers/slots.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { createMemfd } from '../sys/memfd.js'
import type { PluginContext } from './index.js'
import { registerPlugin } from './register.js'

type Operations = Record<string, unknown>

const throws = (error: unknown) => () => {
  throw error
}

/** What an operation does in place of what it should, and the code that comes of it. */
const WAYS: [string, () => unknown, string][] = [
  ['throws an error', throws(new Error('broken')), 'EIO'],
  ['throws an errno', throws(Object.assign(new Error('broken'), { code: 'ENOTTY' })), 'ENOTTY'],
  ['throws what Node.js threw', () => readFileSync('/nonexistent'), 'ENOENT'],
  ['throws an error of luod', throws(new LuoError('LUO_LIMIT', 'broken')), 'LUO_LIMIT'],
  ['throws a code of its own', throws(Object.assign(new Error('broken'), { code: 'ERR_MINE' })), 'EIO'],
  ['throws a string', throws('broken'), 'EIO'],
  ['throws nothing', throws(undefined), 'EIO'],
  ['is asynchronous', async () => true, 'EIO'],
]
/** Answers that are wrong for each operation that has an answer. */
const NONSENSE: Record<string, unknown[]> = {
  canPreserve: [undefined, 1],
  getId: [undefined, 7, 'x'.repeat(256)],
  preserve: [undefined, null, {}, { data: 1 }, { data: -1n }, { data: 2n ** 64n }],
  freeze: [null, 1, -1n],
  retrieve: [undefined, {}, { fd: 3 }],
  canFinish: [undefined, 1],
  'flb.preserve': [undefined, { object: {} }],
}

let openBefore: number
let defects: string[]
beforeEach(() => {
  openBefore = countOpenFds()
  defects = []
})
afterEach(() => expect(countOpenFds()).toBe(openBefore))

/** Keeps memory files, in place of luod's own handler; `broken` replaces some of its operations. */
function generation(broken: Operations, received: SlottedFile[] = []) {
  const base = standaloneContext()
  const context: HandlerContext = { ...base, slots: new FileSlots(received) }
  registerPlugin(
    {
      path: '/plugin.js',
      register: (registry, { slots }: PluginContext) => {
        const handler: FileHandler<HeldFile> = {
          compatible: 'memfd-mine-v1',
          canPreserve: ({ info }) => info.kind === 'memfd',
          preserve: (file) => ({ data: slots.add(file) }),
          unpreserve: ({ data }) => slots.drop(data),
          freeze: () => undefined,
          unfreeze: () => {},
          retrieve: (data) => slots.retrieve(data),
          canFinish: () => true,
          finish: ({ data }) => slots.finish(data),
          getId: ({ info }) => `${info.ino}`,
        }
        const flb: Flb = {
          compatible: 'flb-mine-v1',
          preserve: () => ({ data: 1n, object: {} }),
          unpreserve: () => {},
          retrieve: () => ({}),
          finish: () => {},
        }
        for (const [name, operation] of Object.entries(broken)) {
          const [target, key] = name.startsWith('flb.') ? [flb, name.slice(4)] : [handler, name]
          Object.assign(target, { [key]: operation })
        }
        registry.register(handler)
        registry.registerFlb(handler, flb)
      },
    },
    context,
  )
  registerReferenceHandlers(context)
  const orchestrator = new Orchestrator<HeldFile, FileAbout>({
    registry: context.registry,
    files: heldFiles,
    onDefect: (error) => defects.push(`${(error as LuoError).code} ${(error as LuoError).message}`),
  })
  return { context, orchestrator }
}

function toPreserve(fd: Fd) {
  return {
    token: '1',
    file: { fd: fd.dup(), info: fileInfo(fd) },
    about: { kind: 'memfd', format: undefined, bytes: 0 },
  }
}

/** Everything that is done with a file, in this generation and the next one; answers the first error. */
function wholeLife(broken: Operations): LuoError | undefined {
  using fd = createMemfd('store')
  const { context, orchestrator } = generation(broken)
  const file = toPreserve(fd)
  let received: SlottedFile[] = []
  let error: LuoError | undefined
  const attempt = (run: () => void) => {
    try {
      run()
      return true
    } catch (thrown) {
      error ??= thrown as LuoError
      return false
    }
  }
  const session = orchestrator.createSession('0', 'web')
  if (!attempt(() => orchestrator.preserve(session, [file]))) {
    // It is the caller's still.
    file.file.fd.close()
    orchestrator.end({ handedOver: false })
    return error
  }
  // An update that is rolled back, and then another session, and then the transition.
  if (attempt(() => orchestrator.freeze([session]))) orchestrator.unfreeze([session])
  orchestrator.unpreserve(session, ['1'])
  orchestrator.preserve(session, [toPreserve(fd)])
  if (!attempt(() => orchestrator.freezeAll())) {
    orchestrator.end({ handedOver: false })
    return error
  }
  const state = orchestrator.serialize()
  received = context.slots.take()
  orchestrator.end({ handedOver: true })
  const next = generation(broken, received)
  next.orchestrator.receive(state)
  const incoming = next.orchestrator.retrieveSession('', 'web')
  attempt(() => next.orchestrator.retrieve(incoming, '1').fd.close())
  attempt(() => next.orchestrator.finish(incoming))
  next.orchestrator.end({ handedOver: false })
  next.context.slots.close()
  return error
}

const ANSWERING = ['canPreserve', 'getId', 'preserve', 'freeze', 'retrieve', 'canFinish', 'flb.preserve']
const MUST_NOT_FAIL = ['unpreserve', 'unfreeze', 'finish', 'flb.unpreserve', 'flb.finish']
const named = (operation: string) =>
  operation.startsWith('flb.')
    ? `plug-in /plugin.js, FLB flb-mine-v1, ${operation.slice(4)}: `
    : `plug-in /plugin.js, handler memfd-mine-v1, ${operation}: `

test('one that is not broken has no error and no defect', () => {
  expect(wholeLife({})).toBeUndefined()
  expect(defects).toEqual([])
})

describe.each(ANSWERING)('%s', (operation) => {
  test.each(WAYS)('that %s is an error of that request', (_, way, code) => {
    const error = wholeLife({ [operation]: way })
    expect(error).toBeInstanceOf(LuoError)
    expect(error).toMatchObject({ code, message: expect.stringContaining(named(operation)) })
    expect(defects).toEqual([])
  })

  test.each(NONSENSE[operation] ?? [])('that answers %o is an error of that request', (answer) => {
    const error = wholeLife({ [operation]: () => answer })
    expect(error).toMatchObject({ code: 'EIO', message: expect.stringContaining(`${named(operation)}it must answer`) })
    expect(defects).toEqual([])
  })
})

describe.each(MUST_NOT_FAIL)('%s, which must not fail,', (operation) => {
  test.each(WAYS)('and %s is a defect, and everything else is done', (_, way, code) => {
    expect(wholeLife({ [operation]: way })).toBeUndefined()
    expect(defects.length).toBeGreaterThan(0)
    for (const defect of defects) expect(defect).toMatch(new RegExp(`^${code} .*${operation.replace('flb.', '')}`))
  })
})

test('what lacks an operation, or has one that cannot run, is refused with what it lacks', () => {
  expect(() => generation({ finish: undefined })).toThrow(/no finish/)
  expect(() => generation({ getId: 'inode' })).toThrow(/getId cannot run/)
  expect(() => generation({ 'flb.finish': undefined })).toThrow(/no finish/)
})

test("one of luod's own files is asked of no plug-in", () => {
  const context = standaloneContext()
  const asked: unknown[] = []
  const handler = { compatible: 'all-v1', preserve: () => ({ data: 1n }), unpreserve: () => {}, finish: () => {} }
  const canPreserve = (file: HeldFile) => asked.push(file) > 0
  registerPlugin(
    {
      path: '/plugin.js',
      register: (registry) => registry.register({ ...handler, canPreserve, retrieve: () => ({}) as HeldFile }),
    },
    context,
    { isOwn: ({ info }) => info.kind === 'unix' },
  )
  using fd = createMemfd('store')
  const info = fileInfo(fd)
  expect(context.registry.find({ fd, info: { ...info, kind: 'unix' } })).toBeUndefined()
  expect(asked).toEqual([])
  expect(context.registry.find({ fd, info })?.compatible).toBe('all-v1')
})
