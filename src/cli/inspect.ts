/**
 * `luoctl inspect [FILE]`: what is in luod's durable records, of the running luod or from a file, and in the other
 * formats of docs/formats.md: the image of an emulated kexec, a KHO tree and a bare luo_ser, by how the file begins. It
 * only reads; what is damaged or of a newer version ends with LUO_RECORDS or LUO_RECORDS_VERSION and prints nothing.
 */
import { FDT_MAGIC } from '../abi/fdt.js'
import { decodeKho, IMAGE_MAGIC, IMAGE_VERSION, KHO_COMPATIBLE, readImage } from '../abi/kho.js'
import { decodeLuo, decodeLuoSer, LUO_COMPATIBLE } from '../abi/luo.js'
import { decodeRecords, RECORDS_MAGIC } from '../abi/records.js'
import { LuoError } from '../errors.js'
import { FileReader } from '../sys/file-reader.js'
import { fileSize, readAt } from '../sys/memfd.js'
import { type Context, EXIT, withClient } from './context.js'
import { clean, formatBytes, table } from './format.js'

/** No luod writes more; a larger file is something else. An image is not read as a whole. */
const MAX_RECORDS_BYTES = 256 * 2 ** 20
/** Of a file that does not say its size, as in debugfs. */
const UNSIZED_BYTES = 2 * 2 ** 20
const LONGEST_MAGIC = 8

/** One value for --json, and lines for people; the first follows the file's name. */
interface Findings {
  json: unknown
  lines: string[]
}

const FORMATS: readonly { magic: Uint8Array; inspect(reader: FileReader): Findings }[] = [
  { magic: Buffer.from(RECORDS_MAGIC), inspect: (reader) => recordsFindings(wholeFile(reader)) },
  { magic: Buffer.from(IMAGE_MAGIC), inspect: imageFindings },
  { magic: bigEndian(FDT_MAGIC), inspect: (reader) => khoFindings(wholeFile(reader)) },
  { magic: Buffer.from('luo-v'), inspect: (reader) => luoSerFindings(wholeFile(reader)) },
]

export async function inspectCommand(context: Context, file: string | undefined): Promise<number> {
  const { json, lines } = file === undefined ? recordsFindings(await fromDaemon(context)) : fromFile(file)
  if (context.json) {
    context.out(JSON.stringify(json))
    return EXIT.OK
  }
  const source = file ?? `luod at ${context.socket}`
  const [first, ...more] = lines
  context.out(`${clean(source)}: ${first}`)
  for (const line of more) context.out(line)
  return EXIT.OK
}

function recordsFindings(bytes: Uint8Array): Findings {
  const { version, entries } = decodeRecords(bytes)
  const types = [...entries].map(([type, records]) => ({
    type: String(type),
    records: [...records].map(([key, value]) => ({ key: String(key), value: value as unknown })),
  }))
  const lines = [`records version ${version}, ${bytes.length} bytes`]
  for (const { type, records } of types) {
    lines.push('', `${type}: ${records.length}`)
    for (const { key, value } of records) lines.push(`  ${key}  ${clean(JSON.stringify(value))}`)
  }
  return { json: { format: 'luod-records', version, types }, lines }
}

function imageFindings(reader: FileReader): Findings {
  const { memory, luo } = readImage(reader)
  const { liveupdateNumber, sessions, flbs } = decodeLuo(memory, luo)
  const files = sessions.reduce((sum, session) => sum + session.files.length, 0)
  const lines = [
    `image of an emulated kexec, version ${IMAGE_VERSION}, ${formatBytes(reader.size)}`,
    `  live update  ${liveupdateNumber}`,
    `  holds        ${sessions.length} sessions, ${files} files, ${flbs.length} FLBs`,
    `  memory       ${formatBytes(memory.bytes)} in ${memory.allocations} allocations`,
  ]
  for (const session of sessions) {
    lines.push('', `  session ${clean(session.name)}: ${session.files.length} files`)
    const rows = session.files.map(({ token, compatible, data }) => [token, clean(compatible), String(data)])
    if (rows.length > 0) lines.push(...indented(table(['TOKEN', 'COMPATIBLE', 'DATA'], rows)))
  }
  if (flbs.length > 0) {
    const rows = flbs.map(({ compatible, count, data }) => [clean(compatible), String(count), String(data)])
    lines.push('', '  FLBs', ...indented(table(['COMPATIBLE', 'COUNT', 'DATA'], rows)))
  }
  const json = {
    format: IMAGE_MAGIC,
    version: IMAGE_VERSION,
    liveupdate_number: String(liveupdateNumber),
    sessions: sessions.map(({ name, files }) => ({
      name,
      files: files.map(({ token, compatible, data }) => ({ token, compatible, data: String(data) })),
    })),
    flbs: flbs.map(({ compatible, data, count }) => ({ compatible, data: String(data), count: String(count) })),
    allocations: memory.allocations,
    bytes: memory.bytes,
  }
  return { json, lines }
}

function khoFindings(bytes: Uint8Array): Findings {
  const { memoryMap, subtrees } = decodeKho(bytes)
  const list = [...subtrees].map(([name, { address, size }]) => ({
    name,
    address: String(address),
    size: String(size),
  }))
  const rows = list.map(({ name, address, size }) => [clean(name), address, size])
  return {
    json: { format: KHO_COMPATIBLE, memory_map: String(memoryMap), subtrees: list },
    lines: [
      `KHO tree, ${KHO_COMPATIBLE}, ${bytes.length} bytes`,
      `  memory map at ${memoryMap}`,
      ...indented(table(['SUBTREE', 'ADDRESS', 'BYTES'], rows)),
    ],
  }
}

function luoSerFindings(bytes: Uint8Array): Findings {
  const { liveupdateNumber, sessions, flbs } = decodeLuoSer(bytes)
  const at = (address: bigint) => (address === 0n ? 'none' : `at ${address}`)
  return {
    json: {
      format: LUO_COMPATIBLE,
      liveupdate_number: String(liveupdateNumber),
      sessions: String(sessions),
      flbs: String(flbs),
    },
    lines: [
      `luo_ser, ${LUO_COMPATIBLE}`,
      `  live update  ${liveupdateNumber}`,
      `  sessions     ${at(sessions)}`,
      `  FLBs         ${at(flbs)}`,
    ],
  }
}

function fromDaemon(context: Context): Promise<Uint8Array> {
  return withClient(context, async (client) => {
    const { fds } = await client.call('Inspect', {})
    try {
      const [records] = fds
      if (!records) throw new LuoError('LUO_PROTOCOL', 'inspect luod: it sent no file with its records')
      const size = checkSize(Number(fileSize(records)), 'the records of luod')
      const bytes = new Uint8Array(size)
      return bytes.subarray(0, readAt(records, bytes, 0))
    } finally {
      for (const fd of fds) fd.close()
    }
  })
}

function fromFile(path: string): Findings {
  using reader = FileReader.open(path)
  const begin = reader.read(0, LONGEST_MAGIC)
  const format = FORMATS.find(({ magic }) => Buffer.compare(begin.subarray(0, magic.length), magic) === 0)
  if (format) return format.inspect(reader)
  throw new LuoError(
    'LUO_RECORDS',
    `inspect ${path}: it is neither luod's records nor an image of a kexec, a KHO tree or a luo_ser`,
  )
}

function wholeFile(reader: FileReader): Uint8Array {
  return reader.read(0, checkSize(reader.size, 'the file') || UNSIZED_BYTES)
}

function checkSize(size: number, what: string): number {
  if (size <= MAX_RECORDS_BYTES) return size
  throw new LuoError('LUO_RECORDS', `${what} has ${size} bytes, and records have ${MAX_RECORDS_BYTES} at most`)
}

function indented(lines: readonly string[]): string[] {
  return lines.map((line) => `    ${line}`)
}

function bigEndian(word: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(word)
  return bytes
}
