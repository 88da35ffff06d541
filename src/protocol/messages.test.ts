import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { LUO_CODES, type LuoCode, LuoError } from '../errors.js'
import { INTERFACE_NAME, MAX_FDS } from './interface.js'
import {
  Decoder,
  declaredFds,
  decodeError,
  encodeError,
  encodeMessage,
  MAX_MESSAGE_BYTES,
  parseReply,
  parseRequest,
} from './messages.js'

const bytesOf = (text: string): Uint8Array => Buffer.from(text)
const nested = (depth: number): string => `${'['.repeat(depth)}${']'.repeat(depth)}`

describe('encodeMessage', () => {
  test('writes JSON and a NUL', () => {
    expect(Buffer.from(encodeMessage({ a: '\0é' })).toString()).toBe('{"a":"\\u0000é"}\0')
  })

  test('takes a message of the greatest length, and refuses one more byte', () => {
    const room = MAX_MESSAGE_BYTES - '{"a":""}\0'.length
    const largest = encodeMessage({ a: 'x'.repeat(room) })
    expect(largest.length).toBe(MAX_MESSAGE_BYTES)
    expect(new Decoder().push(largest)).toHaveLength(1)
    expect(codeOf(() => encodeMessage({ a: 'x'.repeat(room + 1) }))).toBe('LUO_PROTOCOL')
  })
})

describe('the decoder', () => {
  const messages = [{ method: 'a.B', parameters: { text: 'é€😀"\\\0' } }, {}, { list: [1, null, { a: [] }] }]
  const stream = Buffer.concat(messages.map(encodeMessage))

  test('finds the messages wherever the chunks are cut in two', () => {
    for (let cut = 0; cut <= stream.length; cut++) {
      const decoder = new Decoder()
      const found = [...decoder.push(stream.subarray(0, cut)), ...decoder.push(stream.subarray(cut))]
      expect(found).toEqual(messages)
      expect(decoder.pending).toBe(0)
    }
  })

  test('finds them in single bytes, and says how much of the next one is there', () => {
    const decoder = new Decoder()
    const found: unknown[] = []
    let pending = 0
    for (const byte of stream) {
      found.push(...decoder.push(Uint8Array.of(byte)))
      pending = byte === 0 ? 0 : pending + 1
      expect(decoder.pending).toBe(pending)
    }
    expect(found).toEqual(messages)
  })

  test('finds several in one chunk, and keeps what is not whole', () => {
    const decoder = new Decoder()
    expect(decoder.push(Buffer.concat([stream, stream, bytesOf('{"a"')]))).toEqual([...messages, ...messages])
    expect(decoder.pending).toBe(4)
    expect(decoder.push(bytesOf(':1}\0'))).toEqual([{ a: 1 }])
  })

  test('finds nothing in nothing', () => {
    expect(new Decoder().push(new Uint8Array(0))).toEqual([])
  })

  test('finds any messages in any chunks', () => {
    const message = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue())
    fc.assert(
      fc.property(fc.array(message, { maxLength: 5 }), fc.array(fc.nat(40), { maxLength: 50 }), (sent, sizes) => {
        const expected = sent.map((value): unknown => JSON.parse(JSON.stringify(value)))
        let rest: Uint8Array = Buffer.concat(sent.map(encodeMessage))
        const decoder = new Decoder()
        const found: unknown[] = []
        for (const size of sizes) {
          found.push(...decoder.push(rest.subarray(0, size)))
          rest = rest.subarray(size)
        }
        found.push(...decoder.push(rest))
        expect(found).toEqual(expected)
      }),
      { numRuns: 200 },
    )
  })

  test.each([
    ['nothing', ''],
    ['text', 'hello'],
    ['half an object', '{"a":1'],
    ['two objects', '{}{}'],
    ['a line break in a text', '"\n"'],
    ['an array', '[]'],
    ['an array of messages', '[{"method":"a"}]'],
    ['a text', '"a"'],
    ['a number', '1'],
    ['null', 'null'],
  ])('refuses %s as a message', (_what, text) => {
    expect(codeOf(() => new Decoder().push(bytesOf(`${text}\0`)))).toBe('LUO_PROTOCOL')
  })

  test('refuses a message that is too long before its end is there, in one chunk and in many', () => {
    expect(codeOf(() => new Decoder().push(new Uint8Array(MAX_MESSAGE_BYTES + 1).fill(32)))).toBe('LUO_PROTOCOL')
    const decoder = new Decoder()
    for (let sent = 0; sent < MAX_MESSAGE_BYTES; sent += 65_536) decoder.push(new Uint8Array(65_536).fill(32))
    expect(decoder.pending).toBe(MAX_MESSAGE_BYTES)
    expect(codeOf(() => decoder.push(bytesOf(' ')))).toBe('LUO_PROTOCOL')
  })

  test('counts each message for itself', () => {
    const large = encodeMessage({ a: 'x'.repeat(MAX_MESSAGE_BYTES - 100) })
    const decoder = new Decoder()
    for (let turn = 0; turn < 3; turn++) expect(decoder.push(large)).toHaveLength(1)
  })

  test('survives a message that is nested as deep as its length allows', () => {
    const deep = `{"parameters":{"a":${nested(MAX_MESSAGE_BYTES / 2 - 20)}}}\0`
    const [message = {}] = new Decoder().push(bytesOf(deep))
    expect(codeOf(() => parseRequest({ ...message, method: 'a.B' }))).toBe('LUO_PROTOCOL')
    expect(codeOf(() => parseReply(message))).toBe('LUO_PROTOCOL')
  })
})

describe('a request', () => {
  test('is its method and its parameters, and by default wants one reply', () => {
    expect(parseRequest({ method: 'a.B', parameters: { x: 1 } })).toEqual({
      method: 'a.B',
      parameters: { x: 1 },
      more: false,
      oneway: false,
    })
    expect(parseRequest({ method: 'a.B', parameters: null, more: true, oneway: true })).toEqual({
      method: 'a.B',
      parameters: {},
      more: true,
      oneway: true,
    })
    expect(parseRequest({ method: 'a.B', more: 1, oneway: 'true' })).toMatchObject({ more: false, oneway: false })
  })

  test('has no nulls any more, at any depth, but in arrays', () => {
    const parameters = { a: null, b: { c: null, d: [null, { e: null, f: 0 }] }, g: false, h: '' }
    expect(parseRequest({ method: 'a.B', parameters }).parameters).toStrictEqual({
      b: { d: [null, { f: 0 }] },
      g: false,
      h: '',
    })
  })

  test('keeps a member named __proto__ as a member', () => {
    const message = JSON.parse('{"method":"a.B","parameters":{"__proto__":{"polluted":1}}}')
    const { parameters } = parseRequest(message)
    expect(Object.keys(parameters)).toEqual(['__proto__'])
    expect(parameters.polluted).toBeUndefined()
  })

  test.each([
    [{}],
    [{ parameters: {} }],
    [{ method: 5 }],
    [{ method: null }],
    [{ method: 'a.B', parameters: [] }],
    [{ method: 'a.B', parameters: 'x' }],
    [{ method: 'a.B', parameters: 0 }],
  ])('without a method, or with parameters that are no object, is LUO_PROTOCOL: %j', (message) => {
    expect(codeOf(() => parseRequest(message))).toBe('LUO_PROTOCOL')
  })
})

describe('a reply', () => {
  test('is its parameters, whether more follow, and its error', () => {
    expect(parseReply({})).toEqual({ parameters: {}, continues: false, error: undefined })
    expect(parseReply({ parameters: { a: null, b: 1 }, continues: true })).toStrictEqual({
      parameters: { b: 1 },
      continues: true,
      error: undefined,
    })
    expect(parseReply({ error: 'a.B' })).toMatchObject({ error: 'a.B' })
  })

  test.each([[{ error: 5 }], [{ error: {} }], [{ parameters: [] }], [{ parameters: 'x' }]])(
    'that is none is LUO_PROTOCOL: %j',
    (message) => {
      expect(codeOf(() => parseReply(message))).toBe('LUO_PROTOCOL')
    },
  )
})

describe('the number of files', () => {
  test('is what the message declares, and none when it says nothing', () => {
    expect(declaredFds({}, MAX_FDS)).toBe(0)
    expect(declaredFds({ fds: null }, MAX_FDS)).toBe(0)
    expect(declaredFds({ fds: 0 }, MAX_FDS)).toBe(0)
    expect(declaredFds({ fds: MAX_FDS }, MAX_FDS)).toBe(253)
  })

  test.each([[-1], [1.5], [MAX_FDS + 1], [1e300], ['1'], [[1]], [{}], [true], [JSON.parse(nested(400_000))]])(
    'is refused when it is no number of files (%#)',
    (fds) => {
      expect(codeOf(() => declaredFds({ fds }, MAX_FDS))).toBe('LUO_PROTOCOL')
    },
  )
})

describe('an error', () => {
  const codes = [...(Object.keys(LUO_CODES) as LuoCode[]), 'ENOENT', 'EBUSY', 'E2BIG', 'EIO'] as const

  test.each(codes)('%s is the same after it was sent', (code) => {
    const { error, parameters } = encodeError(new LuoError(code, 'what was "tried"', { params: { value: 5 } }))
    const decoded = decodeError(error, JSON.parse(JSON.stringify(parameters)))
    expect(error).toBe(`${INTERFACE_NAME}.Failed`)
    expect([decoded.code, decoded.message]).toEqual([code, 'what was "tried"'])
  })

  test('of a parameter has the name of the standard, and is the same after it was sent', () => {
    const sent = new LuoError('LUO_INVALID_PARAMETER', 'a.b must be a string', { params: { parameter: 'a.b' } })
    const { error, parameters } = encodeError(sent)
    expect(error).toBe('org.varlink.service.InvalidParameter')
    expect(parameters).toMatchObject({ parameter: 'a.b' })
    const decoded = decodeError(error, parameters)
    expect([decoded.code, decoded.message, decoded.params]).toEqual([sent.code, sent.message, sent.params])
  })

  test.each([
    ['org.varlink.service.InvalidParameter', { parameter: 'a' }, 'LUO_INVALID_PARAMETER'],
    ['org.varlink.service.MethodNotFound', { method: 'a.B' }, 'LUO_UNSUPPORTED'],
    ['org.example.Failed', {}, 'LUO_UNSUPPORTED'],
    [`${INTERFACE_NAME}.Failed`, { code: 'nonsense', message: 'x' }, 'LUO_UNSUPPORTED'],
    [`${INTERFACE_NAME}.Failed`, { code: 'ENOENT' }, 'LUO_UNSUPPORTED'],
    [`${INTERFACE_NAME}.Failed`, { code: 'ENOENT\nx', message: 'x' }, 'LUO_UNSUPPORTED'],
    [`${INTERFACE_NAME}.Failed`, { code: 5, message: 'x' }, 'LUO_UNSUPPORTED'],
  ])('of another kind says what was answered: %s %j', (name, parameters, code) => {
    const error = decodeError(name, parameters)
    expect(error.code).toBe(code)
    expect(error.message).toContain(JSON.stringify(parameters))
  })
})
