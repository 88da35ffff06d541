/**
 * Bytes: reading within bounds, u64 values as decimal strings, and the kernel's names, which are bytes and not text.
 *
 * A name becomes a string and the same bytes again, whatever they are: what is not UTF-8 becomes one lone surrogate
 * U+DC80 to U+DCFF for each byte. Whoever reads outside of the bytes gets LUO_RECORDS; a value that has no place in a
 * field is EINVAL.
 */
import { LuoError } from '../errors.js'

/** The unit of memory in all of the kernel's formats. */
export const PAGE_BYTES = 4096
const MAX_U32 = 2 ** 32 - 1
const MAX_U64 = 2n ** 64n - 1n
/** Added to a byte of 0x80 or more that is not UTF-8. */
const ESCAPE = 0xdc00
const LONE_SURROGATE = /\p{Surrogate}/u
/** Those of them that stand for a byte. */
const NO_UTF8 = /[\udc80-\udcff]/gu

const encoder = new TextEncoder()
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Bytes that are not what they should be: LUO_RECORDS, with what was read and what is wrong with it. */
export function damaged(what: string, why: string, cause?: unknown): LuoError {
  return new LuoError('LUO_RECORDS', `read ${what}: ${why}`, { cause })
}

/** A version that this code does not know: LUO_RECORDS_VERSION. */
export function unknownVersion(what: string, found: string | number, known: string | number): LuoError {
  return new LuoError(
    'LUO_RECORDS_VERSION',
    `read ${what}: it is of version ${JSON.stringify(found)}, and ${JSON.stringify(known)} is known`,
    { params: { found, known } },
  )
}

/** An address as people write it. */
export function hex(address: bigint): string {
  return `0x${address.toString(16)}`
}

/** Little-endian unless it says otherwise. Outside of the bytes it throws LUO_RECORDS that names `what`. */
export class ByteReader {
  readonly bytes: Uint8Array
  readonly what: string
  readonly #view: DataView

  constructor(bytes: Uint8Array, what: string) {
    this.bytes = bytes
    this.what = what
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  u16(at: number): number {
    return this.#view.getUint16(this.#within(at, 2), true)
  }

  u32(at: number): number {
    return this.#view.getUint32(this.#within(at, 4), true)
  }

  u32BigEndian(at: number): number {
    return this.#view.getUint32(this.#within(at, 4), false)
  }

  i32(at: number): number {
    return this.#view.getInt32(this.#within(at, 4), true)
  }

  u64(at: number): bigint {
    return this.#view.getBigUint64(this.#within(at, 8), true)
  }

  /** A part of the same memory, not a copy. */
  part(at: number, length: number): Uint8Array {
    this.#within(at, length)
    return this.bytes.subarray(at, at + length)
  }

  /** A name in a field of `length` bytes; LUO_RECORDS when no NUL ends it. What is behind the NUL does not matter. */
  name(at: number, length: number): string {
    const field = this.part(at, length)
    const end = field.indexOf(0)
    if (end === -1) throw this.damaged(`no NUL ends the name at ${at}, in ${length} bytes`)
    return decodeName(field.subarray(0, end))
  }

  damaged(why: string): LuoError {
    return damaged(this.what, why)
  }

  #within(at: number, length: number): number {
    if (Number.isInteger(at) && at >= 0 && length >= 0 && at + length <= this.bytes.length) return at
    throw this.damaged(`${length} bytes at ${at} are not in its ${this.bytes.length} bytes`)
  }
}

/** The view to write into `bytes` by. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

/** Writes a name and its NUL into a field of zeros. EINVAL when it does not fit, or has a NUL in it. */
export function putName(bytes: Uint8Array, at: number, length: number, name: string): void {
  const encoded = encodeName(name)
  if (encoded.length >= length || encoded.includes(0)) {
    throw new LuoError(
      'EINVAL',
      `write the name ${JSON.stringify(name)}: it has ${encoded.length} bytes, and ${length - 1} fit, without a NUL`,
    )
  }
  bytes.set(encoded, at)
}

/** The bytes of a name. EINVAL for a string that `decodeName` never answers: then two strings would be one name. */
export function encodeName(name: string): Uint8Array {
  if (!LONE_SURROGATE.test(name)) return encoder.encode(name)
  const bytes: number[] = []
  for (const character of name) {
    const code = character.codePointAt(0) ?? 0
    if (code >= ESCAPE + 0x80 && code <= ESCAPE + 0xff) bytes.push(code - ESCAPE)
    else bytes.push(...encoder.encode(character))
  }
  const encoded = Uint8Array.from(bytes)
  if (decodeName(encoded) === name) return encoded
  throw new LuoError('EINVAL', `write the name ${JSON.stringify(name)}: it stands for no bytes`)
}

/** The name that these bytes are; `encodeName` makes the same bytes of it. */
export function decodeName(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes)
  } catch {
    // Not UTF-8 as a whole: the parts that are, and each other byte for itself.
  }
  const parts: string[] = []
  /** Where what is UTF-8, and not in `parts` yet, begins. */
  let from = 0
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at)
    if (length === 0) {
      parts.push(utf8.decode(bytes.subarray(from, at)), String.fromCharCode(ESCAPE + (bytes[at] ?? 0)))
      from = at + 1
    }
    at += Math.max(1, length)
  }
  return parts.join('') + utf8.decode(bytes.subarray(from))
}

/** A name for people: each byte that is not UTF-8 as `\xff`. It stands for the name, and is no way to write it. */
export function showBytes(name: string): string {
  return name.replace(NO_UTF8, (character) => `\\x${(character.charCodeAt(0) - ESCAPE).toString(16)}`)
}

/** How many bytes the well-formed UTF-8 sequence at `at` has (Unicode 16, table 3-7); 0 when none begins there. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0
  if (first < 0x80) return 1
  const length = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : 4
  if (first < 0xc2 || first > 0xf4 || at + length > bytes.length) return 0
  for (let i = 1; i < length; i++) {
    // Only the second byte has narrower bounds: no overlong forms, no surrogates, nothing above U+10FFFF.
    const low = i > 1 ? 0x80 : first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80
    const high = i > 1 ? 0xbf : first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf
    const byte = bytes[at + i] ?? 0
    if (byte < low || byte > high) return 0
  }
  return length
}

/** A u64 from the one way to write it in decimal; EINVAL for every other. */
export function parseU64(text: string, what: string): bigint {
  const value = /^(0|[1-9]\d{0,19})$/.test(text) ? BigInt(text) : -1n
  return checkU64(value, `${what} ${JSON.stringify(text)}`)
}

export function checkU64(value: bigint, what: string): bigint {
  if (value >= 0n && value <= MAX_U64) return value
  throw new LuoError('EINVAL', `${what} is not a u64`)
}

export function checkU32(value: number, what: string): number {
  if (Number.isInteger(value) && value >= 0 && value <= MAX_U32) return value
  throw new LuoError('EINVAL', `${what}: ${value} is not a u32`)
}
