import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { type FileHandler, HandlerRegistry, MAX_COMPATIBLE_BYTES } from './handler.js'
import { FakeFlb, Journal, Memory } from './testing/fakes.js'

const handler = (compatible: string, takes: (file: string) => boolean = () => true): FileHandler<string> => ({
  compatible,
  canPreserve: takes,
  preserve: () => ({ data: 1n }),
  unpreserve: () => {},
  retrieve: () => 'file',
  finish: () => {},
})
const flb = (compatible: string) => new FakeFlb(compatible, new Journal(), new Memory())
const REQUIRED = ['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish'] as const
const OPTIONAL = ['freeze', 'unfreeze', 'canFinish', 'getId'] as const
const BAD_NAMES = ['', 'x'.repeat(MAX_COMPATIBLE_BYTES + 1), 'é'.repeat(24), 'a\0b']

describe('the registry of handlers', () => {
  test('gives a file to the first that takes it, in order of registration', () => {
    const registry = new HandlerRegistry<string>()
    registry.register(handler('b-v1', (file) => file.startsWith('b')))
    registry.register(handler('all-v1'))
    registry.register(handler('a-v1', (file) => file.startsWith('a')))
    expect(registry.find('banana')?.compatible).toBe('b-v1')
    expect(registry.find('apple')?.compatible).toBe('all-v1')
    expect(registry.get('a-v1')?.compatible).toBe('a-v1')
  })

  test('asks no handler after the one that takes it', () => {
    const registry = new HandlerRegistry<string>()
    const asked: string[] = []
    for (const name of ['a', 'b', 'c']) {
      const takes = (file: string) => {
        asked.push(name)
        return file === name
      }
      registry.register(handler(name, takes))
    }
    registry.find('b')
    expect(asked).toEqual(['a', 'b'])
  })

  test('has none for a file that nobody takes, and for a name that nobody has', () => {
    const registry = new HandlerRegistry<string>()
    registry.register(handler('a-v1', () => false))
    expect(registry.find('apple')).toBeUndefined()
    expect(registry.get('b-v1')).toBeUndefined()
  })

  test('refuses a name that is taken, with EEXIST, and keeps the one before', () => {
    const registry = new HandlerRegistry<string>()
    const first = handler('a-v1')
    registry.register(first)
    expect(codeOf(() => registry.register(handler('a-v1')))).toBe('EEXIST')
    expect(codeOf(() => registry.register(first))).toBe('EEXIST')
    expect(registry.get('a-v1')).toBe(first)
  })

  test('takes names of 1 to 47 bytes, and refuses others with EINVAL', () => {
    const registry = new HandlerRegistry<string>()
    registry.register(handler('x'.repeat(MAX_COMPATIBLE_BYTES)))
    registry.register(handler('x'))
    for (const name of BAD_NAMES) {
      expect(codeOf(() => registry.register(handler(name)))).toBe('EINVAL')
      expect(registry.get(name)).toBeUndefined()
    }
  })

  test.each(REQUIRED)('refuses a handler without %s, with EINVAL', (operation) => {
    const registry = new HandlerRegistry<string>()
    const { [operation]: _missing, ...rest } = handler('a-v1')
    expect(codeOf(() => registry.register(rest as FileHandler<string>))).toBe('EINVAL')
    expect(registry.get('a-v1')).toBeUndefined()
  })

  test.each(OPTIONAL)('refuses a handler whose %s is no function, with EINVAL', (operation) => {
    const registry = new HandlerRegistry<string>()
    const broken = { ...handler('a-v1'), [operation]: null } as unknown as FileHandler<string>
    expect(codeOf(() => registry.register(broken))).toBe('EINVAL')
    expect(registry.get('a-v1')).toBeUndefined()
  })

  test('takes nothing when live update is switched off: EOPNOTSUPP', () => {
    const registry = new HandlerRegistry<string>({ enabled: false })
    const first = handler('a-v1')
    expect(codeOf(() => registry.register(first))).toBe('EOPNOTSUPP')
    expect(codeOf(() => registry.registerFlb(first, flb('x')))).toBe('EOPNOTSUPP')
    expect(registry.get('a-v1')).toBeUndefined()
    expect(registry.find('apple')).toBeUndefined()
    expect(registry.flbs.counts()).toEqual([])
  })
})

describe('the FLBs of a handler', () => {
  test('are in order of registration, and may be those of another handler too', () => {
    const registry = new HandlerRegistry<string>()
    const [a, b] = [handler('a-v1'), handler('b-v1')]
    const [x, y] = [flb('x'), flb('y')]
    registry.register(a)
    registry.register(b)
    expect(registry.flbsOf(a)).toEqual([])
    registry.registerFlb(a, y)
    registry.registerFlb(a, x)
    registry.registerFlb(b, x)
    expect(registry.flbsOf(a)).toEqual([y, x])
    expect(registry.flbsOf(b)).toEqual([x])
  })

  test('are EEXIST the second time, and when another has the name', () => {
    const registry = new HandlerRegistry<string>()
    const [a, b] = [handler('a-v1'), handler('b-v1')]
    const x = flb('x')
    registry.register(a)
    registry.register(b)
    registry.registerFlb(a, x)
    expect(codeOf(() => registry.registerFlb(a, x))).toBe('EEXIST')
    expect(codeOf(() => registry.registerFlb(a, flb('x')))).toBe('EEXIST')
    expect(codeOf(() => registry.registerFlb(b, flb('x')))).toBe('EEXIST')
    expect(registry.flbsOf(a)).toEqual([x])
    expect(registry.flbsOf(b)).toEqual([])
  })

  test('are ENOENT for a handler that is not registered, also if another of its name is', () => {
    const registry = new HandlerRegistry<string>()
    registry.register(handler('a-v1'))
    expect(codeOf(() => registry.registerFlb(handler('a-v1'), flb('x')))).toBe('ENOENT')
    expect(codeOf(() => registry.registerFlb(handler('b-v1'), flb('x')))).toBe('ENOENT')
    expect(registry.flbs.counts()).toEqual([])
  })

  test('have names of 1 to 47 bytes: EINVAL', () => {
    const registry = new HandlerRegistry<string>()
    const a = handler('a-v1')
    registry.register(a)
    registry.registerFlb(a, flb('x'.repeat(MAX_COMPATIBLE_BYTES)))
    for (const name of BAD_NAMES) expect(codeOf(() => registry.registerFlb(a, flb(name)))).toBe('EINVAL')
    expect(registry.flbsOf(a)).toHaveLength(1)
  })

  test.each(['preserve', 'unpreserve', 'retrieve', 'finish'] as const)('need %s: EINVAL', (operation) => {
    const registry = new HandlerRegistry<string>()
    const a = handler('a-v1')
    registry.register(a)
    const broken = flb('x')
    Object.defineProperty(broken, operation, { value: undefined })
    expect(codeOf(() => registry.registerFlb(a, broken))).toBe('EINVAL')
    expect(registry.flbsOf(a)).toEqual([])
    registry.registerFlb(a, flb('x'))
  })

  test('are 63 at most: ENOSPC; those that are there may still be given to other handlers', () => {
    const registry = new HandlerRegistry<string>()
    const [a, b] = [handler('a-v1'), handler('b-v1')]
    registry.register(a)
    registry.register(b)
    const flbs = Array.from({ length: 63 }, (_, index) => flb(`flb-${index}`))
    for (const one of flbs) registry.registerFlb(a, one)
    expect(codeOf(() => registry.registerFlb(a, flb('one-more')))).toBe('ENOSPC')
    expect(codeOf(() => registry.registerFlb(b, flb('one-more')))).toBe('ENOSPC')
    for (const one of flbs) registry.registerFlb(b, one)
    expect(registry.flbsOf(a)).toEqual(flbs)
    expect(registry.flbsOf(b)).toEqual(flbs)
  })
})
