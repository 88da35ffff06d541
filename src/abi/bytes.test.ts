import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { ByteReader, checkU64, decodeName, encodeName, parseU64, putName } from './bytes.js'

const hex = (text: string) => Uint8Array.from(Buffer.from(text, 'hex'))

describe('a name', () => {
  test('of any bytes is the same bytes again', () => {
    // Bytes as they come, and such as are nearly UTF-8.
    const nearly = fc
      .array(
        fc.constantFrom(0x41, 0x80, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xa0, 0xed, 0x9f, 0xef, 0xf0, 0x90, 0xf4, 0x8f, 0xf5),
      )
      .map((list) => Uint8Array.from(list))
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 64 }), nearly), (bytes) => {
        expect(encodeName(decodeName(bytes))).toEqual(bytes)
      }),
      { numRuns: 2000 },
    )
  })

  test('of any text is its UTF-8, and the same text again', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (name) => {
        expect(Buffer.from(encodeName(name)).toString()).toBe(name)
        expect(decodeName(encodeName(name))).toBe(name)
      }),
    )
  })

  test('of any string is a name that comes back, or EINVAL', () => {
    const unit = fc.constantFrom(
      'a',
      'é',
      '\u{1f600}',
      '\udc80',
      '\udcc3',
      '\udca9',
      '\udcff',
      '\ud83d',
      '\ude00',
      '\udc7f',
    )
    fc.assert(
      fc.property(fc.array(unit), (units) => {
        const name = units.join('')
        const code = codeOf(() => encodeName(name))
        if (code === undefined) expect(decodeName(encodeName(name))).toBe(name)
        else expect(code).toBe('EINVAL')
      }),
      { numRuns: 1000 },
    )
  })

  test.each([
    ['616263', 'abc'],
    ['', ''],
    ['efbbbf61', '\ufeffa'],
    ['ff', '\udcff'],
    ['61ff62', 'a\udcffb'],
    ['c3a9c3', 'é\udcc3'],
    // Overlong, a surrogate, above U+10FFFF, and the last that is not.
    ['c080', '\udcc0\udc80'],
    ['e08080', '\udce0\udc80\udc80'],
    ['eda080', '\udced\udca0\udc80'],
    ['f4908080', '\udcf4\udc90\udc80\udc80'],
    ['fff48fbfbf', '\udcff\u{10ffff}'],
    ['fff09f9880', '\udcff\u{1f600}'],
  ])('of the bytes %s is as it is with surrogateescape in Python', (bytes, name) => {
    expect(decodeName(hex(bytes))).toBe(name)
    expect(encodeName(name)).toEqual(hex(bytes))
  })

  test('that would be another one when it is read again is EINVAL', () => {
    // The escapes of the two bytes of é, and surrogates that stand for no byte.
    for (const name of ['\udcc3\udca9', '\ud800', '\udc7f', 'a\udd00']) {
      expect(codeOf(() => encodeName(name))).toBe('EINVAL')
    }
  })

  test('fits into its field with its NUL, or is EINVAL', () => {
    const bytes = new Uint8Array(6)
    putName(bytes, 1, 4, 'é\udcff')
    expect(bytes).toEqual(hex('00c3a9ff0000'))
    for (const name of ['abcd', 'ééé', 'a\0']) expect(codeOf(() => putName(bytes, 1, 4, name))).toBe('EINVAL')
  })
})

describe('a reader', () => {
  const reader = new ByteReader(hex('ffff0102030405060708ff').subarray(2, 10), 'a thing')

  test('reads little-endian, and big-endian where it says so', () => {
    expect(reader.u16(0)).toBe(0x0201)
    expect(reader.u32(1)).toBe(0x05040302)
    expect(reader.u32BigEndian(4)).toBe(0x05060708)
    expect(reader.u64(0)).toBe(0x0807060504030201n)
    expect(new ByteReader(hex('feffffff'), 'a').i32(0)).toBe(-2)
    expect(reader.part(2, 2)).toEqual(hex('0304'))
  })

  test('reads nothing outside of its bytes, and says so', () => {
    const outside: [string, () => unknown][] = [
      ['u16', () => reader.u16(7)],
      ['u32', () => reader.u32(5)],
      ['u32BigEndian', () => reader.u32BigEndian(-1)],
      ['i32', () => reader.i32(8)],
      ['u64', () => reader.u64(1)],
      ['part', () => reader.part(4, 5)],
      ['part of less than nothing', () => reader.part(4, -1)],
      ['name', () => reader.name(6, 3)],
      ['half a byte', () => reader.u16(0.5)],
      ['nowhere', () => reader.u16(Number.NaN)],
    ]
    for (const [what, read] of outside) expect(codeOf(read), what).toBe('LUO_RECORDS')
    expect(() => reader.u64(1)).toThrow('read a thing: 8 bytes at 1 are not in its 8 bytes')
  })

  test('reads a name up to its NUL, and none without', () => {
    const names = new ByteReader(hex('61620063640000'), 'names')
    expect([names.name(0, 3), names.name(0, 7), names.name(2, 1), names.name(3, 4)]).toEqual(['ab', 'ab', '', 'cd'])
    expect(codeOf(() => names.name(0, 2))).toBe('LUO_RECORDS')
    expect(codeOf(() => names.name(0, 0))).toBe('LUO_RECORDS')
  })
})

test('a u64 has one way to be written in decimal', () => {
  for (const text of ['0', '1', '18446744073709551615']) expect(String(parseU64(text, 'it'))).toBe(text)
  for (const text of [
    '',
    '-1',
    '+1',
    '01',
    '1.0',
    '1e3',
    ' 1',
    '0x1',
    '18446744073709551616',
    '99999999999999999999',
  ]) {
    expect(
      codeOf(() => parseU64(text, 'it')),
      text,
    ).toBe('EINVAL')
  }
  expect(codeOf(() => checkU64(-1n, 'it'))).toBe('EINVAL')
})
