/**
 * Reading a description, which came from memory: everything is looked at before it is used, and what is not as it has
 * to be is LUO_RECORDS, with the name of the field. Fields that are not known are left alone.
 */
import { LuoError } from '../../errors.js'

/** No field of a description is longer. */
const MAX_TEXT = 8192

export class Check {
  readonly #fields: Readonly<Record<string, unknown>>
  readonly what: string

  constructor(value: unknown, what: string) {
    this.what = what
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.wrong('it is no object')
    this.#fields = value as Readonly<Record<string, unknown>>
  }

  wrong(why: string): LuoError {
    return new LuoError('LUO_RECORDS', `${this.what}: ${why}`)
  }

  #value(key: string): unknown {
    return Object.hasOwn(this.#fields, key) ? this.#fields[key] : undefined
  }

  has(key: string): boolean {
    return this.#value(key) !== undefined
  }

  text(key: string, pattern?: RegExp): string {
    const value = this.#value(key)
    if (
      typeof value !== 'string' ||
      value.length > MAX_TEXT ||
      value.includes('\0') ||
      pattern?.test(value) === false
    ) {
      throw this.wrong(`"${key}" is no such text as it has to be`)
    }
    return value
  }

  integer(key: string, low: number, high: number): number {
    const value = this.#value(key)
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < low || value > high) {
      throw this.wrong(`"${key}" is no integer from ${low} to ${high}`)
    }
    return value
  }

  flag(key: string): boolean {
    const value = this.#value(key)
    if (typeof value !== 'boolean') throw this.wrong(`"${key}" is neither true nor false`)
    return value
  }

  oneOf<T extends string>(key: string, names: readonly T[]): T {
    return this.#known(key, this.#value(key), names)
  }

  /** Each of them at most once. */
  someOf<T extends string>(key: string, names: readonly T[]): T[] {
    const values = this.#list(key, names.length)
    const known = values.map((value) => this.#known(key, value, names))
    if (new Set(known).size !== known.length) throw this.wrong(`"${key}" has something twice`)
    return known
  }

  within(key: string): Check {
    return new Check(this.#value(key), `${this.what}: "${key}"`)
  }

  list(key: string, max: number): Check[] {
    return this.#list(key, max).map((value) => new Check(value, `${this.what}: "${key}"`))
  }

  #list(key: string, max: number): readonly unknown[] {
    const value = this.#value(key)
    if (!Array.isArray(value) || value.length > max) throw this.wrong(`"${key}" is no list of ${max} at most`)
    return value
  }

  #known<T extends string>(key: string, value: unknown, names: readonly T[]): T {
    const name = names.find((known) => known === value)
    if (name === undefined) throw this.wrong(`"${key}" is none of ${names.join(', ')}`)
    return name
  }
}
