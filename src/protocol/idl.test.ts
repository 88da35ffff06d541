import { describe, expect, test } from 'vitest'
import { isLuoError, type LuoError } from '../errors.js'
import { type Interface, parseInterface, type TypeNode, validate } from './idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT } from './interface.js'

function errorOf(run: () => unknown): LuoError {
  try {
    run()
  } catch (error) {
    if (isLuoError(error)) return error
    throw error
  }
  throw new Error('it did not fail')
}

describe('the interface of luod', () => {
  const parsed = parseInterface(INTERFACE_TEXT)

  test('is parsed as a whole: every keyword of the text is there', () => {
    const named = (keyword: string) =>
      [...INTERFACE_TEXT.matchAll(new RegExp(`^${keyword} ([A-Za-z]+)`, 'gm'))].map(([, name]) => name)
    expect(parsed.name).toBe(INTERFACE_NAME)
    expect([...parsed.types.keys()]).toEqual(named('type'))
    expect([...parsed.methods.keys()]).toEqual(named('method'))
    expect([...parsed.errors.keys()]).toEqual(['Failed'])
    expect(parsed.types.size).toBeGreaterThan(5)
    expect(parsed.methods.size).toBeGreaterThan(15)
  })

  test('names no type that it does not have', () => {
    const check = (type: TypeNode): void => {
      if (type.kind === 'name') expect([...parsed.types.keys()]).toContain(type.name)
      if ('of' in type) check(type.of)
      if (type.kind === 'struct') type.fields.forEach(check)
    }
    for (const type of parsed.types.values()) check(type)
    for (const { input, output } of parsed.methods.values()) [input, output].forEach(check)
  })

  test('has members of the types that the text says', () => {
    expect(parsed.types.get('FileIn')).toEqual({
      kind: 'struct',
      fields: new Map<string, TypeNode>([
        ['token', { kind: 'string' }],
        ['fd', { kind: 'int' }],
        ['format', { kind: 'nullable', of: { kind: 'string' } }],
        ['until', { kind: 'nullable', of: { kind: 'enum', members: ['update'] } }],
      ]),
    })
    expect(parsed.methods.get('List')).toEqual({
      input: { kind: 'struct', fields: new Map() },
      output: {
        kind: 'struct',
        fields: new Map([['workloads', { kind: 'array', of: { kind: 'name', name: 'Workload' } }]]),
      },
    })
    expect(parsed.methods.get('Status')?.output.fields.get('limits')).toEqual({ kind: 'map', of: { kind: 'int' } })
    expect(parsed.methods.get('Commit')?.output.fields.get('released')).toEqual({
      kind: 'enum',
      members: ['word', 'death', 'none'],
    })
  })
})

describe('a text', () => {
  test('may have comments, and its groups may take several lines', () => {
    const text = 'interface a.b # c ( : ,\n# type X ()\ntype T (\n  a: ?[]string, # (\n  b: (x,\n y)\n)\nerror E ()'
    expect(parseInterface(text)).toEqual({
      name: 'a.b',
      types: new Map([
        [
          'T',
          {
            kind: 'struct',
            fields: new Map<string, TypeNode>([
              ['a', { kind: 'nullable', of: { kind: 'array', of: { kind: 'string' } } }],
              ['b', { kind: 'enum', members: ['x', 'y'] }],
            ]),
          },
        ],
      ]),
      methods: new Map(),
      errors: new Map([['E', { kind: 'struct', fields: new Map() }]]),
    })
  })

  test.each([
    ['', 'its end, where "interface" belongs'],
    ['# interface a.b', 'its end, where "interface" belongs'],
    ['interface', 'its end'],
    ['type T (a: int)', '"type" in line 1, where "interface" belongs'],
    ['interface a.b\n\nthing T (a: int)', '"thing" in line 3'],
    ['interface a.b\ntype', 'its end'],
    ['interface a.b\ntype T a: int', '"a" in line 2, where "(" belongs'],
    ['interface a.b\ntype T (a int)', '"int" in line 2, where "," belongs'],
    ['interface a.b\ntype T (a: int b: int)', '"b" in line 2, where "," belongs'],
    ['interface a.b\n# one\n# two\ntype T (\n  a: integer\n)', '"integer" in line 5'],
    ['interface a.b\ntype T (a: [5]int)', '"[" in line 2'],
    ['interface a.b\ntype T (a: int', 'its end, where "," belongs'],
    ['interface a.b\ntype T (a: ', 'its end'],
    ['interface a.b\ntype T (a: int,\n  b)', '"b" in line 3'],
    ['interface a.b\ntype T (a,\n  b: int)', '"b" in line 3'],
    ['interface a.b\nmethod M(a: int)\nmethod N() -> ()', '"method" in line 3, where "->" belongs'],
    ['interface a.b\nmethod M(one, two) -> ()', '"(" in line 2'],
    ['interface a.b\nmethod M() ->\n\n(one, two)', '"(" in line 4'],
    ['interface a.b\nerror E (one)', '"(" in line 2'],
  ])('that is no interface is LUO_PROTOCOL, with its line: %j', (text, message) => {
    const error = errorOf(() => parseInterface(text))
    expect(error.code).toBe('LUO_PROTOCOL')
    expect(error.message).toBe(`parse an interface: ${message}`)
  })
})

describe('a value', () => {
  const own: Interface = parseInterface(`interface a.b
    type File (token: string, fd: int)
    type Tree (children: []Tree, value: ?object)
    type Wrong (it: Missing)
    type All (
      bool: ?bool, int: ?int, float: ?float, string: ?string, enum: ?(one, two), object: ?object,
      array: ?[]int, map: ?[string]int, file: ?File, files: ?[]File, maps: ?[string][]File
    )`)
  const check = (value: unknown, type = 'All', what = '') => validate(own, { kind: 'name', name: type }, value, what)

  test.each([
    [{}],
    [{ bool: false, int: -5, float: 1.5, string: '', enum: 'two', object: [1, { a: null }] }],
    [{ bool: null, int: null, float: null, string: null, enum: null, object: null, array: null, file: undefined }],
    [{ int: Number.MAX_SAFE_INTEGER, float: 3, array: [], map: {}, files: [] }],
    [{ array: [1, 2], map: { a: 1, 'b c': 2 }, file: { token: '1', fd: 0 } }],
    [{ files: [{ token: '1', fd: 0 }], maps: { a: [{ token: '1', fd: 0 }] } }],
  ])('that fits is accepted: %j', (value) => {
    check(value)
  })

  test.each<[unknown, string, string]>([
    [{ unknown: 1 }, 'unknown', 'is not known'],
    [JSON.parse('{"__proto__": {"string": "x"}}'), '__proto__', 'is not known'],
    [{ constructor: 1 }, 'constructor', 'is not known'],
    [{ bool: 0 }, 'bool', 'must be true or false'],
    [{ bool: 'true' }, 'bool', 'must be true or false'],
    [{ int: 1.5 }, 'int', 'must be an integer'],
    [{ int: '1' }, 'int', 'must be an integer'],
    [{ int: 2 ** 53 }, 'int', 'must be an integer'],
    [{ float: '1.5' }, 'float', 'must be a number'],
    [{ string: 1 }, 'string', 'must be a string'],
    [{ string: ['a'] }, 'string', 'must be a string'],
    [{ enum: 'three' }, 'enum', 'must be one of one, two'],
    [{ enum: ['one'] }, 'enum', 'must be one of one, two'],
    [{ array: { 0: 1 } }, 'array', 'must be an array'],
    [{ array: [1, 2, 'x'] }, 'array[2]', 'must be an integer'],
    [{ array: [null] }, 'array[0]', 'must be an integer'],
    [{ map: [1] }, 'map', 'must be an object'],
    [{ map: { a: 1, b: true } }, 'map.b', 'must be an integer'],
    [{ file: 'x' }, 'file', 'must be an object'],
    [{ file: [] }, 'file', 'must be an object'],
    [{ file: {} }, 'file.token', 'must be a string'],
    [{ file: { token: '1' } }, 'file.fd', 'must be an integer'],
    [{ file: { token: '1', fd: 0, mode: 1 } }, 'file.mode', 'is not known'],
    [
      {
        files: [
          { token: '1', fd: 0 },
          { token: '2', fd: 1 },
          { token: 3, fd: 2 },
        ],
      },
      'files[2].token',
      'must be a string',
    ],
    [{ maps: { a: [{ token: '1', fd: 'x' }] } }, 'maps.a[0].fd', 'must be an integer'],
    [[], 'parameters', 'must be an object'],
    [null, 'parameters', 'must be an object'],
    ['x', 'parameters', 'must be an object'],
  ])('that does not fit is refused with its path: %j', (value, parameter, why) => {
    const error = errorOf(() => check(value))
    expect(error.code).toBe('LUO_INVALID_PARAMETER')
    expect(error.message).toBe(`${parameter} ${why}`)
    expect(error.params).toEqual({ parameter })
  })

  test('has a path that begins with what the caller calls it', () => {
    expect(errorOf(() => check({ file: { fd: 1 } }, 'All', 'manifest')).message).toBe(
      'manifest.file.token must be a string',
    )
  })

  test('may nest, and not without end', () => {
    let value: object = { children: [] }
    for (let depth = 0; depth < 3; depth++) value = { children: [value] }
    check(value, 'Tree')
    for (let depth = 0; depth < 100_000; depth++) value = { children: [value] }
    const error = errorOf(() => check(value, 'Tree'))
    expect(error.code).toBe('LUO_INVALID_PARAMETER')
    expect(error.message).toMatch(/^children\[0\]\..* is nested deeper than 16$/)
  })

  test('of a type that the interface names and does not have is a defect of the interface', () => {
    expect(errorOf(() => check({ it: 1 }, 'Wrong')).code).toBe('LUO_PROTOCOL')
  })

  test('of a request of luod is checked the same way', () => {
    const parsed = parseInterface(INTERFACE_TEXT)
    const input = parsed.methods.get('Preserve')?.input ?? { kind: 'bool' }
    const request = { id: 'a', session: '1', files: [{ token: '0', fd: 0, format: 'store/1' }], fds: 1 }
    validate(parsed, input, request, '')
    expect(errorOf(() => validate(parsed, input, { ...request, files: [{ token: '0' }] }, '')).message).toBe(
      'files[0].fd must be an integer',
    )
    expect(errorOf(() => validate(parsed, input, { ...request, sesion: '1' }, '')).message).toBe('sesion is not known')
  })
})
