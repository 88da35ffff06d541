import { describe, expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { type FileHandler, HandlerRegistry, MAX_COMPATIBLE_BYTES } from './handler.js'

const handler = (compatible: string, takes: (file: string) => boolean = () => true): FileHandler<string, string> => ({
  compatible,
  canPreserve: takes,
  preserve: (file) => file,
  unpreserve: () => {},
  retrieve: (data) => data,
  finish: () => {},
  getId: (file) => file,
})
const codeOf = (run: () => unknown): unknown => {
  try {
    run()
    return undefined
  } catch (error) {
    return isLuoError(error) ? error.code : error
  }
}

describe('the registry of handlers', () => {
  test('gives a file to the first that takes it, in the order of registration', () => {
    const registry = new HandlerRegistry<string, string>()
    registry.register(handler('b-v1', (file) => file.startsWith('b')))
    registry.register(handler('all-v1'))
    registry.register(handler('a-v1', (file) => file.startsWith('a')))
    expect(registry.find('banana')?.compatible).toBe('b-v1')
    expect(registry.find('apple')?.compatible).toBe('all-v1')
    expect(registry.get('a-v1')?.compatible).toBe('a-v1')
  })

  test('has none for a file that nobody takes, and for a name that nobody has', () => {
    const registry = new HandlerRegistry<string, string>()
    registry.register(handler('a-v1', () => false))
    expect(registry.find('apple')).toBeUndefined()
    expect(registry.get('b-v1')).toBeUndefined()
  })

  test('refuses a name that is taken, with EEXIST, and keeps the one before', () => {
    const registry = new HandlerRegistry<string, string>()
    const first = handler('a-v1')
    registry.register(first)
    expect(codeOf(() => registry.register(handler('a-v1')))).toBe('EEXIST')
    expect(registry.get('a-v1')).toBe(first)
  })

  test('takes names of 1 to 47 bytes, and refuses others with EINVAL', () => {
    const registry = new HandlerRegistry<string, string>()
    registry.register(handler('x'.repeat(MAX_COMPATIBLE_BYTES)))
    registry.register(handler('x'))
    for (const name of ['', 'x'.repeat(MAX_COMPATIBLE_BYTES + 1), 'é'.repeat(24)]) {
      expect(codeOf(() => registry.register(handler(name)))).toBe('EINVAL')
      expect(registry.get(name)).toBeUndefined()
    }
  })

  test.each(['canPreserve', 'preserve', 'unpreserve', 'retrieve', 'finish', 'getId'] as const)(
    'refuses a handler without %s, with EINVAL',
    (operation) => {
      const registry = new HandlerRegistry<string, string>()
      const { [operation]: _missing, ...rest } = handler('a-v1')
      expect(codeOf(() => registry.register(rest as FileHandler<string, string>))).toBe('EINVAL')
      expect(registry.get('a-v1')).toBeUndefined()
    },
  )
})
