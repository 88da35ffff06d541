/**
 * What is fuzzed: for each target a generator of inputs and a property. An input is bytes, so that one that fails can be
 * kept in the corpus as a file. A property throws for whatever is neither a value nor a refusal of the kind that belongs.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { decodeCrossing, encodeCrossing } from '../../src/abi/crossing.js'
import { checkCrossed } from '../../src/abi/crossing-verify.js'
import { decodeFdt } from '../../src/abi/fdt.js'
import { decodeKho, readImage } from '../../src/abi/kho.js'
import { decodeLuo, decodeLuoSer, type ReadableMemory } from '../../src/abi/luo.js'
import { decodeMachineAnswer, decodeMachineRequest, encodeMachineRequest } from '../../src/abi/machine.js'
import { type Change, decodeRecords, RECORD_TYPES, type RecordStorage, Records } from '../../src/abi/records.js'
import { verifyRecords } from '../../src/abi/records-verify.js'
import { decodeIoctl, IOCTLS } from '../../src/abi/uapi.js'
import { LuoError } from '../../src/errors.js'
import { recreate } from '../../src/handlers/by-value.js'
import { parseInterface, validate } from '../../src/protocol/idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT } from '../../src/protocol/interface.js'
import { Decoder, declaredFds, encodeMessage, parseReply, parseRequest } from '../../src/protocol/messages.js'

export interface Target {
  inputs: fc.Arbitrary<Uint8Array>
  /** Throws when the input shows a defect. */
  check(input: Uint8Array): void
}

const MAX_INPUT = 4_096
const definition = parseInterface(INTERFACE_TEXT)
const bytes = fc.uint8Array({ maxLength: 512 })

function golden(name: string): Uint8Array {
  return readFileSync(join(process.cwd(), 'test/golden', name))
}

/** Refused with one of these codes, or done; anything else is a defect. */
function only(codes: RegExp, run: () => unknown): void {
  try {
    run()
  } catch (error) {
    if (!(error instanceof LuoError && codes.test(error.code))) throw error
  }
}

/** Good bytes with a few of them changed, cut off, doubled. */
function mutated(...seeds: Uint8Array[]): fc.Arbitrary<Uint8Array> {
  const share = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true })
  const change = fc.oneof(
    fc.record({ at: share, byte: fc.nat(255) }),
    fc.record({ at: share, word: fc.constantFrom(0, 1, 0x7fffffff, 0x80000000, 0xffffffff) }),
    fc.record({ at: share, cut: share }),
    fc.record({ at: share, insert: fc.uint8Array({ minLength: 1, maxLength: 40 }) }),
  )
  return fc
    .tuple(fc.constantFrom(...seeds), fc.array(change, { minLength: 1, maxLength: 5 }))
    .map(([seed, changes]) => {
      let result = Buffer.from(seed)
      for (const one of changes) {
        const at = Math.floor(one.at * result.length)
        if ('byte' in one && at < result.length) result.writeUInt8(one.byte, at)
        else if ('word' in one && at + 4 <= result.length) result.writeUInt32LE(one.word, at)
        else if ('cut' in one)
          result = Buffer.concat([result.subarray(0, at), result.subarray(at + Math.floor(one.cut * 16))])
        else if ('insert' in one) result = Buffer.concat([result.subarray(0, at), one.insert, result.subarray(at)])
      }
      return new Uint8Array(result.subarray(0, Math.max(MAX_INPUT, seed.length)))
    })
}

// --- messages -------------------------------------------------------------------------------------------------------

const message = (method: string, parameters: object) =>
  encodeMessage({ method: `${INTERFACE_NAME}.${method}`, parameters, more: true })
const conversation = Buffer.concat([
  message('Join', { id: '1', workload: 'web', accepts: ['*'], keep_ms: 5, fds: 1 }),
  message('Preserve', { id: '2', session: '1', files: [{ token: '7', fd: 0, format: 'f/1' }], fds: 1 }),
  message('Retrieve', { session: '1', tokens: ['7'] }),
])
const wellFormed = fc
  .record({
    method: fc.constantFrom(...[...definition.methods.keys()].map((name) => `${INTERFACE_NAME}.${name}`), 'a.b', ''),
    parameters: fc.oneof(
      fc.dictionary(fc.constantFrom('id', 'fds', 'files', '__proto__', 'session'), fc.jsonValue()),
      fc.jsonValue(),
    ),
    more: fc.boolean(),
  })
  .map((value) => new Uint8Array(Buffer.from(`${JSON.stringify(value)}\0`)))

function checkMessages(input: Uint8Array): void {
  only(/^LUO_PROTOCOL$/, () => new Decoder().push(input).map(parseReply))
  only(/^LUO_PROTOCOL$/, () => {
    for (const found of new Decoder().push(input)) {
      const request = parseRequest(found)
      const method = definition.methods.get(request.method.slice(INTERFACE_NAME.length + 1))
      if (method) only(/^LUO_INVALID_PARAMETER$/, () => validate(definition, method.input, request.parameters, ''))
      only(/^LUO_PROTOCOL$/, () => declaredFds(request.parameters, 253))
      if (({} as Record<string, unknown>).polluted !== undefined) throw new Error('a prototype was changed')
    }
  })
}

// --- records --------------------------------------------------------------------------------------------------------

function recordsOf(transactions: readonly (readonly Change[])[]): Uint8Array {
  let file = new Uint8Array()
  const storage: RecordStorage = {
    size: () => file.length,
    read: (offset, length) => file.subarray(offset, offset + length),
    write: (written, offset) => file.set(written, offset),
    resize: (size) => {
      const resized = new Uint8Array(size)
      resized.set(file.subarray(0, size))
      file = resized
    },
  }
  const records = Records.create(storage)
  for (const changes of transactions) records.transaction(changes)
  // The rest of the file is zero.
  return file.subarray(0, MAX_INPUT)
}

const someRecords = recordsOf([
  RECORD_TYPES.map((type, index) => ({ type, key: String(index), value: { name: type, uid: index } })),
  [{ type: RECORD_TYPES[0], key: '0', value: undefined }],
])

const someCrossing = encodeCrossing(
  { luod: '1', times: { frozen: 1 }, sessions: [{ session: '1', name: 'k', files: [{ key: '1', token: '7' }] }] },
  someRecords.subarray(0, 512),
)

// --- descriptions of files that crossed by value ----------------------------------------------------------------------

/** What must not be opened, and what is there to be asked for: nothing here is made or changed. */
const PATHS = ['/dev/tty', '/proc/self/fd/0', '/proc/self/exe', '/etc/passwd', '/', '/nowhere', 'relative', '\0', '']
const digits = fc.constantFrom('0', '1', '2', '18446744073709551615')
const hex = fc.constantFrom('0x0', '0x1021994', '0xef53', '0x9fa0')
const whole = {
  version: fc.constant(1),
  path: fc.constantFrom(...PATHS.filter((path) => path.startsWith('/'))),
  access: fc.constantFrom('read', 'write', 'read-write'),
  flags: fc.constant([]),
  boot: fc.constant('0'.repeat(36)),
  identity: fc.record({ dev: digits, ino: digits, fsType: hex, fsId: hex, handle: fc.constant(''), born: digits }),
  state: fc.record({ size: digits, mtime: digits, ctime: digits }),
  hash: fc.constant(''),
  position: digits,
}
const kind = fc.constantFrom('file', 'directory', 'eventfd')
const anything = fc.oneof(fc.jsonValue(), fc.string())
const descriptions = fc
  .oneof(
    fc.record({ kind, ...whole }),
    // Each field may be missing, or be anything.
    fc.record(
      {
        kind,
        ...(Object.fromEntries(Object.entries(whole).map(([name, good]) => [name, fc.oneof(good, anything)])) as Record<
          keyof typeof whole,
          fc.Arbitrary<unknown>
        >),
        counter: fc.constantFrom('0', '5', '18446744073709551615', '99999999999999999999', 'x'),
        semaphore: fc.boolean(),
        nonblock: fc.boolean(),
      },
      { requiredKeys: ['kind'] },
    ),
  )
  .map((description) => new Uint8Array(Buffer.from(JSON.stringify(description))))

function checkDescription(input: Uint8Array): void {
  const description = JSON.parse(Buffer.from(input).toString()) as { kind?: unknown }
  only(/^(LUO_RECORDS|LUO_RECORDS_VERSION|LUO_CHANGED|E[A-Z0-9]+)$/, () => {
    using made = recreate(description)
    // Without the right inode nothing but a counter can have come back.
    if (description.kind !== 'eventfd') throw new Error(`${made.number} was opened`)
  })
}

// --- all ------------------------------------------------------------------------------------------------------------

const RECORDS = /^LUO_RECORDS(_VERSION)?$/

export const TARGETS: Readonly<Record<string, Target>> = {
  messages: { inputs: fc.oneof(bytes, wellFormed, mutated(conversation)), check: checkMessages },
  records: {
    inputs: fc.oneof(bytes, mutated(someRecords)),
    check: (input) => {
      only(RECORDS, () => decodeRecords(input))
      only(/^LUO_RECORDS_VERSION$/, () => verifyRecords(input))
    },
  },
  crossing: {
    inputs: fc.oneof(bytes, mutated(someCrossing)),
    check: (input) =>
      only(RECORDS, () => {
        const { crossing, records } = decodeCrossing(input)
        checkCrossed(crossing, verifyRecords(records).entries)
      }),
  },
  description: { inputs: descriptions, check: checkDescription },
  kho: {
    inputs: fc.oneof(bytes, mutated(golden('kho-in.bin'), golden('kho-out-cut.bin'))),
    check: (input) => {
      only(RECORDS, () => decodeFdt(input))
      only(RECORDS, () => decodeKho(input))
      const reader = { size: input.length, read: (at: number, length: number) => input.subarray(at, at + length) }
      only(RECORDS, () => readImage(reader))
    },
  },
  luo: {
    inputs: fc.oneof(bytes, mutated(golden('luo-ser.bin'), golden('luo-ser-freed.bin'))),
    check: (input) => {
      const memory: ReadableMemory = {
        read: (address: bigint, length: number) => {
          const at = Number(address % 4_096n)
          const found = new Uint8Array(length)
          found.set(input.subarray(at, at + length))
          return found
        },
      }
      only(RECORDS, () => decodeLuoSer(input))
      only(RECORDS, () => decodeLuo(memory, 4_096n))
    },
  },
  machine: {
    inputs: fc.oneof(
      bytes,
      mutated(encodeMachineRequest({ operation: 'preserve', flags: 0, inode: 1n, token: 2n, name: 'name' })),
    ),
    check: (input) => {
      only(/^(LUO_PROTOCOL|EINVAL)$/, () => decodeMachineRequest(input))
      only(/^(LUO_PROTOCOL|EINVAL)$/, () => decodeMachineAnswer(input))
      for (const known of Object.values(IOCTLS)) only(/^(E[A-Z0-9]+|LUO_RECORDS)$/, () => decodeIoctl(known, input))
    },
  },
}
