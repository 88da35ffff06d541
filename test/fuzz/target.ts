/**
 * What a target of the fuzzer is, and what several of them need. An input is bytes, so that one that fails can be kept in
 * the corpus as a file.
 */
import fc from 'fast-check'
import { LuoError } from '../../src/errors.js'

export interface Target {
  inputs: fc.Arbitrary<Uint8Array>
  /** Throws when the input shows a defect. */
  check(input: Uint8Array): void
}

/** One that needs something that runs, such as a luod; it is begun anew after each failure. */
export interface LiveTarget extends AsyncDisposable {
  inputs: fc.Arbitrary<Uint8Array>
  check(input: Uint8Array): Promise<void>
  /** Throws when all inputs so far have left something. */
  settle?(): Promise<void>
}

const MAX_INPUT = 4_096

/** Refused with one of these codes, or done; anything else is a defect. */
export function only(codes: RegExp, run: () => unknown): void {
  try {
    run()
  } catch (error) {
    if (!(error instanceof LuoError && codes.test(error.code))) throw error
  }
}

/** Of something, by where it is: 0 at its beginning, 1 at its end. */
export const share = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true })

export const byteChange = fc.oneof(
  fc.record({ at: share, byte: fc.nat(255) }),
  fc.record({ at: share, word: fc.constantFrom(0, 1, 0x7fffffff, 0x80000000, 0xffffffff) }),
  fc.record({ at: share, cut: share }),
  fc.record({ at: share, insert: fc.array(fc.nat(255), { minLength: 1, maxLength: 40 }) }),
)
export type ByteChange = typeof byteChange extends fc.Arbitrary<infer T> ? T : never

export function changeBytes(bytes: Uint8Array, one: ByteChange): Uint8Array {
  const result = Buffer.from(bytes)
  const at = Math.floor(one.at * result.length)
  if ('byte' in one && at < result.length) result.writeUInt8(one.byte, at)
  else if ('word' in one && at + 4 <= result.length) result.writeUInt32LE(one.word, at)
  else if ('cut' in one) return Buffer.concat([result.subarray(0, at), result.subarray(at + Math.floor(one.cut * 16))])
  else if ('insert' in one) return Buffer.concat([result.subarray(0, at), Buffer.from(one.insert), result.subarray(at)])
  return result
}

/** Good bytes with a few of them changed, cut off, doubled. */
export function mutated(...seeds: Uint8Array[]): fc.Arbitrary<Uint8Array> {
  return fc
    .tuple(fc.constantFrom(...seeds), fc.array(byteChange, { minLength: 1, maxLength: 5 }))
    .map(([seed, changes]) =>
      new Uint8Array(changes.reduce(changeBytes, seed)).subarray(0, Math.max(MAX_INPUT, seed.length)),
    )
}

/** What a field may be that somebody else has written: of every type, and at every limit. */
export const BAD_VALUES = [
  ...[null, true, false, 0, 1, -1, 1.5, 254, 2 ** 31, 2 ** 53, 1e308, '', '0', '1', '-1', 'x', 'NaN', '\0', '\u{d83d}'],
  ...['18446744073709551615', '18446744073709551616', 'x'.repeat(300), '__proto__', 'update', '../../etc'],
  ...[[], {}, [[]], [null], [{}], { length: 3 }, ['a', 'a']],
]
export const badValue = fc.constantFrom(...BAD_VALUES)

/** `value` with one of its fields, at whatever depth, replaced, or taken out by undefined. */
export function changeField(value: unknown, at: number, to: unknown): unknown {
  const copy = structuredClone(value)
  const places: [object: Record<string, unknown>, key: string][] = []
  const visit = (within: unknown) => {
    if (typeof within !== 'object' || within === null) return
    for (const key of Object.keys(within)) {
      places.push([within as Record<string, unknown>, key])
      visit((within as Record<string, unknown>)[key])
    }
  }
  visit(copy)
  const [object, key] = places[Math.floor(at * places.length)] ?? []
  if (!object || key === undefined) return to
  if (to === undefined) delete object[key]
  else object[key] = structuredClone(to)
  return copy
}
