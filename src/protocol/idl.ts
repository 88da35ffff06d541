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
  let line = 1
  for (const [token] of text.matchAll(/\n|#.*|->|\[string\]|\[\]|[A-Za-z][A-Za-z0-9_.-]*|\S/g)) {
    if (token === '\n') line += 1
    else if (!token.startsWith('#')) tokens.push({ text: token, line })
  }
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
export function validate(definition: Interface, type: TypeNode, value: unknown, what: string): void {
  check({ definition, later: false }, type, value, what)
}

/**
 * The same of whoever may be of a later version: members that the interface does not name are let through, and words.
 */
export function validateLater(definition: Interface, type: TypeNode, value: unknown, what: string): void {
  check({ definition, later: true }, type, value, what)
}

interface Rules {
  definition: Interface
  later: boolean
}

function check(rules: Rules, type: TypeNode, value: unknown, what: string): void {
  const problem = problemOf(rules, type, value, 0)
  if (problem) throw invalid(`${what}${problem.path}`.replace(/^\./, ''), problem.why)
}

/** `path` is put together on the way out: what fits, which is nearly everything, costs nothing for it. */
interface Problem {
  path: string
  why: string
}

function problemOf(rules: Rules, type: TypeNode, value: unknown, depth: number): Problem | undefined {
  if (depth > MAX_DEPTH) return because(`is nested deeper than ${MAX_DEPTH}`)
  switch (type.kind) {
    case 'nullable':
      return value === null || value === undefined ? undefined : problemOf(rules, type.of, value, depth + 1)
    case 'name': {
      const named = rules.definition.types.get(type.name)
      if (!named) throw new LuoError('LUO_PROTOCOL', `the interface has no type ${type.name}`)
      return problemOf(rules, named, value, depth + 1)
    }
    case 'bool':
      return typeof value === 'boolean' ? undefined : because('must be true or false')
    case 'int':
      return Number.isSafeInteger(value) ? undefined : because('must be an integer')
    case 'float':
      return typeof value === 'number' ? undefined : because('must be a number')
    case 'string':
      return typeof value === 'string' ? undefined : because('must be a string')
    case 'object':
      return undefined
    case 'enum':
      if (rules.later && typeof value === 'string') return undefined
      return type.members.includes(value as string) ? undefined : because(`must be one of ${type.members.join(', ')}`)
    case 'array': {
      if (!Array.isArray(value)) return because('must be an array')
      for (let index = 0; index < value.length; index++) {
        const problem = problemOf(rules, type.of, value[index], depth + 1)
        if (problem) return { path: `[${index}]${problem.path}`, why: problem.why }
      }
      return undefined
    }
    case 'map':
      if (!isObject(value)) return because('must be an object')
      for (const [key, member] of Object.entries(value)) {
        const problem = problemOf(rules, type.of, member, depth + 1)
        if (problem) return { path: `.${key}${problem.path}`, why: problem.why }
      }
      return undefined
    case 'struct':
      return problemOfStruct(rules, type, value, depth)
  }
}

function problemOfStruct(rules: Rules, { fields }: StructNode, value: unknown, depth: number): Problem | undefined {
  if (!isObject(value)) return because('must be an object')
  for (const name of rules.later ? [] : Object.keys(value)) {
    if (!fields.has(name)) return { path: `.${name}`, why: 'is not known' }
  }
  for (const [name, field] of fields) {
    const problem = problemOf(rules, field, value[name], depth + 1)
    if (problem) return { path: `.${name}${problem.path}`, why: problem.why }
  }
  return undefined
}

function because(why: string): Problem {
  return { path: '', why }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(what: string, why: string): LuoError {
  const parameter = what === '' ? 'parameters' : what
  return new LuoError('LUO_INVALID_PARAMETER', `${parameter} ${why}`, { params: { parameter } })
}
