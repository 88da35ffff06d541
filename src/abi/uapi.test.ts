import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import {
  checkCommand,
  checkDirection,
  checkSize,
  checkTail,
  decodeIoctl,
  encodeIoctl,
  IOCTLS,
  type IoctlName,
  lookUp,
} from './uapi.js'

const calls = Object.values(IOCTLS)

test.each<[IoctlName, number, number, string, string | undefined]>([
  ['createSession', 0xba00, 72, 'device', undefined],
  ['retrieveSession', 0xba01, 72, 'device', undefined],
  ['preserveFd', 0xba40, 16, 'session', 'outgoing'],
  ['retrieveFd', 0xba41, 16, 'session', 'incoming'],
  ['finish', 0xba42, 8, 'session', 'incoming'],
  ['getName', 0xba43, 72, 'session', undefined],
])('%s is 0x%x, with %i bytes, on a %s', (name, command, bytes, target, direction) => {
  expect(IOCTLS[name]).toMatchObject({ name, command, bytes, minimumBytes: bytes, target, direction })
  expect(calls).toHaveLength(6)
})

const NAME = `c3a9ff${'00'.repeat(61)}`
test.each<[IoctlName, object, string]>([
  ['createSession', { size: 72, fd: -1, name: 'é\udcff' }, `48000000ffffffff${NAME}`],
  ['retrieveSession', { size: 72, fd: 0x01020304, name: 'é\udcff' }, `4800000004030201${NAME}`],
  ['preserveFd', { size: 16, fd: 5, token: '18446744073709551615' }, '1000000005000000ffffffffffffffff'],
  ['retrieveFd', { size: 16, fd: 5, token: '258' }, '10000000050000000201000000000000'],
  ['finish', { size: 8, reserved: 0xfffffffe }, '08000000feffffff'],
  ['getName', { size: 72, reserved: 1, name: 'é\udcff' }, `4800000001000000${NAME}`],
])('the struct of %s is of these bytes', (name, values, bytes) => {
  expect(Buffer.from(encodeIoctl(IOCTLS[name], values)).toString('hex')).toBe(bytes)
  expect(decodeIoctl(IOCTLS[name], Buffer.from(bytes, 'hex'))).toMatchObject(values)
})

test('what is left out of a struct is zero, but for its size', () => {
  expect(Buffer.from(encodeIoctl(IOCTLS.preserveFd, {})).toString('hex')).toBe('10000000000000000000000000000000')
})

test('a name ends at its NUL, or with its field', () => {
  const bytes = Buffer.alloc(72, 'x')
  expect(decodeIoctl(IOCTLS.createSession, bytes).name).toBe('x'.repeat(64))
  expect(encodeIoctl(IOCTLS.createSession, { name: 'x'.repeat(64) }).subarray(8)).toEqual(
    Uint8Array.from(bytes.subarray(8)),
  )
  bytes[10] = 0
  expect(decodeIoctl(IOCTLS.createSession, bytes).name).toBe('xx')
  bytes[8] = 0
  expect(decodeIoctl(IOCTLS.createSession, bytes).name).toBe('')
})

test.each([
  ['a name of 65 bytes', 'createSession', { name: 'x'.repeat(65) }],
  ['a NUL in a name', 'createSession', { name: 'a\0' }],
  ['a token of another writing', 'preserveFd', { token: '0x1' }],
  ['a number that is too large', 'preserveFd', { fd: 2 ** 31 }],
  ['half a number', 'preserveFd', { fd: 1.5 }],
  ['a negative size', 'finish', { size: -1 }],
  ['a reserved field that is too large', 'finish', { reserved: 2 ** 32 }],
] as const)('%s is EINVAL', (_what, name, values) => {
  expect(codeOf(() => encodeIoctl(IOCTLS[name], values))).toBe('EINVAL')
})

test('any bytes are values, and the same struct again', () => {
  fc.assert(
    fc.property(fc.constantFrom(...calls), fc.uint8Array({ minLength: 72, maxLength: 100 }), (call, bytes) => {
      const values = decodeIoctl(call, bytes)
      // Without an end the name is none.
      if (bytes.subarray(8, 72).includes(0) || !call.fields.includes('name')) {
        expect(decodeIoctl(call, encodeIoctl(call, values))).toEqual(values)
      }
    }),
  )
})

test('a struct that is too short for its fields is LUO_RECORDS', () => {
  for (const call of calls) {
    for (const length of [0, 4, call.bytes - 1]) {
      expect(codeOf(() => decodeIoctl(call, new Uint8Array(length)))).toBe('LUO_RECORDS')
    }
  }
})

describe('the checks of a call', () => {
  test('find it by its number alone, where it may be made', () => {
    for (const call of calls) {
      expect(lookUp(call.target, call.command)).toBe(call)
      // Other bits come later, with another answer.
      expect(lookUp(call.target, call.command & 0xff)).toBe(call)
      expect(lookUp(call.target, call.command | 0x40480000)).toBe(call)
      expect(codeOf(() => lookUp(call.target === 'device' ? 'session' : 'device', call.command))).toBe('EINVAL')
    }
    for (const command of [0xba02, 0xba3f, 0xba44, 0xbaff, 0xffffffff, -1]) {
      for (const target of ['device', 'session'] as const) {
        expect(codeOf(() => lookUp(target, command))).toBe('EINVAL')
      }
    }
  })

  test('answer ENOTTY for its number with other bits', () => {
    for (const call of calls) {
      expect(codeOf(() => checkCommand(call, call.command))).toBeUndefined()
      for (const bits of [0x100, 0x40480000, 0x80000000, -0x80000000]) {
        expect(codeOf(() => checkCommand(call, call.command ^ bits))).toBe('ENOTTY')
      }
    }
  })

  test('answer EINVAL for a session of the other direction', () => {
    const directions = (name: IoctlName) =>
      (['outgoing', 'incoming'] as const).filter((direction) => {
        const code = codeOf(() => checkDirection(IOCTLS[name], direction))
        if (code !== undefined) expect(code).toBe('EINVAL')
        return code === undefined
      })
    expect(directions('preserveFd')).toEqual(['outgoing'])
    expect(directions('retrieveFd')).toEqual(['incoming'])
    expect(directions('finish')).toEqual(['incoming'])
    expect(directions('getName')).toEqual(['outgoing', 'incoming'])
  })

  test('answer EINVAL below the size of the fields, and E2BIG for more that is not zero', () => {
    for (const call of calls) {
      expect(codeOf(() => checkSize(call, call.bytes - 1))).toBe('EINVAL')
      expect(codeOf(() => checkSize(call, 0))).toBe('EINVAL')
      expect(codeOf(() => checkSize(call, call.bytes))).toBeUndefined()
      expect(codeOf(() => checkSize(call, 2 ** 32 - 1))).toBeUndefined()
      expect(codeOf(() => checkTail(call, new Uint8Array(0)))).toBeUndefined()
      expect(codeOf(() => checkTail(call, new Uint8Array(28)))).toBeUndefined()
      expect(codeOf(() => checkTail(call, Uint8Array.of(0, 0, 1)))).toBe('E2BIG')
    }
  })
})
