/**
 * Varlink's interface language: parsing it, and checking values against it. The interface of luod (`interface.ts`) is
 * text; this turns it into what the daemon validates every request with and the types are generated from.
 *
 * Errors: LUO_PROTOCOL with the line for text that is not an interface, LUO_INVALID_PARAMETER with the path of the
 * member (`files[2].token`) for a value that does not fit. Members that the interface does not name are refused in
 * requests, so that a misspelt option is not silently ignored.
 */
import { LuoError } from '../errors.js'

export type TypeNode =
  | { kind: 'bool' | 'int' | 'float' | 'string' | 'object' }
  | { kind: 'name'; name: string }
  | { kind: 'enum'; members: string[] }
  | StructNode
  | { kind: 'array' | 'map' | 'nullable'; of: TypeNode }

export interface StructNode {
  kind: 'struct'
  fields: Map<string, TypeNode>
}

export interface MethodNode {
  input: StructNode
  output: StructNode
}

export interface Interface {
  name: string
  types: Map<string, TypeNode>
  methods: Map<string, MethodNode>
  errors: Map<string, StructNode>
}

/** No value of ours nests deeper. */
const MAX_DEPTH = 16

type Token = { text: string; line: number }

export function parseInterface(text: string): Interface {
  return new Parser(tokenize(text)).parse()
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = []
  text.split('\n').forEach((source, index) => {
    const code = source.replace(/#.*/, '')
    for (const [token] of code.matchAll(/->|\[string\]|\[\]|[A-Za-z][A-Za-z0-9_.-]*|\S/g)) {
      tokens.push({ text: token, line: index + 1 })
    }
  })
  return tokens
}

class Parser {
  readonly #tokens: Token[]
  #at = 0

  constructor(tokens: Token[]) {
    this.#tokens = tokens
  }

  parse(): Interface {
    this.#expect('interface')
    const found: Interface = { name: this.#next().text, types: new Map(), methods: new Map(), errors: new Map() }
    while (this.#at < this.#tokens.length) {
      const keyword = this.#next()
      const name = this.#next().text
      if (keyword.text === 'type') found.types.set(name, this.#group())
      else if (keyword.text === 'error') found.errors.set(name, this.#struct())
      else if (keyword.text === 'method') {
        const input = this.#struct()
        this.#expect('->')
        found.methods.set(name, { input, output: this.#struct() })
      } else throw this.#unexpected(keyword)
    }
    return found
  }

  #struct(): StructNode {
    const token = this.#tokens[this.#at]
    const group = this.#group()
    if (group.kind !== 'struct') throw this.#unexpected(token)
    return group
  }

  /** `(a: int, b: string)` or `(one, two)`. */
  #group(): StructNode | { kind: 'enum'; members: string[] } {
    this.#expect('(')
    const fields = new Map<string, TypeNode>()
    const members: string[] = []
    while (this.#peek() !== ')') {
      const name = this.#next()
      if (this.#peek() === ':') {
        this.#next()
        fields.set(name.text, this.#type())
      } else members.push(name.text)
      if (fields.size > 0 && members.length > 0) throw this.#unexpected(name)
      if (this.#peek() !== ')') this.#expect(',')
    }
    this.#expect(')')
    return members.length > 0 ? { kind: 'enum', members } : { kind: 'struct', fields }
  }

  #type(): TypeNode {
    const token = this.#next()
    switch (token.text) {
      case '?':
        return { kind: 'nullable', of: this.#type() }
      case '[]':
        return { kind: 'array', of: this.#type() }
      case '[string]':
        return { kind: 'map', of: this.#type() }
      case '(':
        this.#at -= 1
        return this.#group()
      case 'bool':
      case 'int':
      case 'float':
      case 'string':
      case 'object':
        return { kind: token.text }
      default:
        if (!/^[A-Z]/.test(token.text)) throw this.#unexpected(token)
        return { kind: 'name', name: token.text }
    }
  }

  #peek(): string | undefined {
    return this.#tokens[this.#at]?.text
  }

  #next(): Token {
    const token = this.#tokens[this.#at++]
    if (!token) throw this.#unexpected(undefined)
    return token
  }

  #expect(text: string): void {
    const token = this.#tokens[this.#at++]
    if (token?.text !== text) throw this.#unexpected(token, text)
  }

  #unexpected(token: Token | undefined, wanted?: string): LuoError {
    const found = token ? `"${token.text}" in line ${token.line}` : 'its end'
    return new LuoError('LUO_PROTOCOL', `parse an interface: ${found}${wanted ? `, where "${wanted}" belongs` : ''}`)
  }
}

/** Checks `value` against `type`. `what` begins the path that an error names. */
export function validate(definition: Interface, type: TypeNode, value: unknown, what: string, depth = 0): void {
  if (depth > MAX_DEPTH) throw invalid(what, `is nested deeper than ${MAX_DEPTH}`)
  switch (type.kind) {
    case 'nullable':
      if (value !== null && value !== undefined) validate(definition, type.of, value, what, depth + 1)
      return
    case 'name': {
      const named = definition.types.get(type.name)
      if (!named) throw new LuoError('LUO_PROTOCOL', `the interface has no type ${type.name}`)
      return validate(definition, named, value, what, depth + 1)
    }
    case 'bool':
      if (typeof value !== 'boolean') throw invalid(what, 'must be true or false')
      return
    case 'int':
      if (!Number.isSafeInteger(value)) throw invalid(what, 'must be an integer')
      return
    case 'float':
      if (typeof value !== 'number') throw invalid(what, 'must be a number')
      return
    case 'string':
      if (typeof value !== 'string') throw invalid(what, 'must be a string')
      return
    case 'object':
      return
    case 'enum':
      if (!type.members.includes(value as string)) throw invalid(what, `must be one of ${type.members.join(', ')}`)
      return
    case 'array':
      if (!Array.isArray(value)) throw invalid(what, 'must be an array')
      value.forEach((member, index) => {
        validate(definition, type.of, member, `${what}[${index}]`, depth + 1)
      })
      return
    case 'map':
      for (const [key, member] of Object.entries(object(value, what))) {
        validate(definition, type.of, member, `${what}.${key}`, depth + 1)
      }
      return
    case 'struct': {
      const members = object(value, what)
      for (const name of Object.keys(members)) {
        if (!type.fields.has(name)) throw invalid(what === '' ? name : `${what}.${name}`, 'is not known')
      }
      for (const [name, field] of type.fields) {
        validate(definition, field, members[name], what === '' ? name : `${what}.${name}`, depth + 1)
      }
    }
  }
}

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw invalid(what, 'must be an object')
}

function invalid(what: string, why: string): LuoError {
  const parameter = what === '' ? 'parameters' : what
  return new LuoError('LUO_INVALID_PARAMETER', `${parameter} ${why}`, { params: { parameter } })
}
