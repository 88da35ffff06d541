/**
 * What is fuzzed without anything that runs beside it: for each target a generator of inputs and a property, which throws
 * for whatever is neither a value nor a refusal of the kind that belongs. `live-targets.ts` has the others.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
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
import { recreate } from '../../src/handlers/by-value.js'
import { OPTION_NAMES } from '../../src/handlers/value/options.js'
import { parseInterface, validate } from '../../src/protocol/idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT } from '../../src/protocol/interface.js'
import { Decoder, declaredFds, encodeMessage, parseReply, parseRequest } from '../../src/protocol/messages.js'
import { countOpenFds } from '../../src/sys/fd.js'
import { BAD_VALUES, changeField, mutated, only, share, type Target } from './target.js'

const MAX_INPUT = 4_096
const definition = parseInterface(INTERFACE_TEXT)
const bytes = fc.uint8Array({ maxLength: 512 })

function golden(name: string): Uint8Array {
  return readFileSync(join(process.cwd(), 'test/golden', name))
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

// --- descriptions of sockets that crossed by value --------------------------------------------------------------------

/** Sockets are made, in a folder of its own and on this machine alone. */
const SOCKETS = mkdtempSync(join(tmpdir(), 'luo-fuzz-sockets-'))
process.once('exit', () => rmSync(SOCKETS, { recursive: true, force: true }))
writeFileSync(join(SOCKETS, 'file'), '')

const address = { family: 'ipv4', address: '127.0.0.1', port: 47_319 }
const OPTIONS = [
  { option: 'SO_REUSEADDR', value: '01000000' },
  { option: 'SO_KEEPALIVE', value: '01000000' },
  { option: 'SO_RCVTIMEO', value: '00'.repeat(16) },
]
const common = { version: 1, nonblock: true, options: OPTIONS, buffers: [{ buffer: 'SO_RCVBUF', bytes: 8_192 }] }
const lo = { family: 'ipv4', group: '239.77.1.1', interface: 'lo' }
const socketFile = { path: join(SOCKETS, 'socket'), mode: 0o600, uid: process.getuid?.() ?? 0, gid: 0 }
/** As luod itself writes them. */
const SOCKET_DESCRIPTIONS = [
  { kind: 'tcp', ...common, address, backlog: 5 },
  { kind: 'tcp', ...common, address: { family: 'ipv6', address: '::1', port: 47_319, flowInfo: 1 }, backlog: 0 },
  { kind: 'mptcp', ...common, address, backlog: 5 },
  { kind: 'udp', ...common, address, peer: { ...address, port: 9 }, memberships: [lo] },
  { kind: 'unix', ...common, type: 'stream', abstract: '66757a7a', backlog: 5 },
  { kind: 'unix', ...common, type: 'packets', file: socketFile, backlog: 5 },
  { kind: 'unix', ...common, type: 'datagram', file: socketFile },
]

/** Only such values as lead to no other place than that folder, and no other address than those of `lo`. */
const socketValue = fc.oneof(
  fc.constantFrom(...BAD_VALUES),
  fc.constantFrom<unknown>('tcp', 'udp', 'unix', 'ipv6', '::ffff:127.0.0.1', '0:0', '::1', 'stream', 'IPV6_V6ONLY'),
  fc.constantFrom<unknown>(join(SOCKETS, 'file'), join(SOCKETS, 'no/socket'), '/proc/self/fd/0', `/${'x'.repeat(107)}`),
  fc.constantFrom<unknown>('lo', 'lo\u00e9', 'TCP_CONGESTION', '6e6f6e65', 'SO_SNDBUF', 'SO_LINGER', 'ff'.repeat(8)),
  fc.constantFrom<unknown>(2 ** 31 - 1, 2 ** 32 - 1, 2 ** 32 - 2, 65_535, 65_536, 0o7777),
)
const socketDescriptions = fc
  .tuple(
    fc.constantFrom(...SOCKET_DESCRIPTIONS),
    fc.array(fc.tuple(share, fc.option(socketValue, { nil: undefined })), { maxLength: 3 }),
    fc.array(fc.constantFrom(...OPTION_NAMES), { maxLength: 3 }),
  )
  .map(([description, changes, names]) => {
    const options = [...OPTIONS, ...names.map((option) => ({ option, value: '01000000' }))]
    const all = changes.reduce<unknown>((value, [at, to]) => changeField(value, at, to), { ...description, options })
    return new Uint8Array(Buffer.from(JSON.stringify(all)))
  })

/** Made, and then it is the caller's; or refused, and nothing is left. */
function checkSocket(input: Uint8Array): void {
  const before = countOpenFds()
  only(/^(LUO_RECORDS|LUO_RECORDS_VERSION|LUO_CHANGED|LUO_UNSUPPORTED|E[A-Z0-9]+)$/, () => {
    using made = recreate(JSON.parse(Buffer.from(input).toString()))
    if (countOpenFds() !== before + 1) throw new Error(`beside ${made.number} another descriptor is open`)
  })
  rmSync(socketFile.path, { force: true })
  if (countOpenFds() !== before) throw new Error('a descriptor is left')
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
  socket: { inputs: socketDescriptions, check: checkSocket },
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
