/**
 * `luoctl inspect [FILE]`: what is in luod's durable records, of the running luod or from a file, and in the other
 * formats of docs/formats.md: what luod hands over at a kexec, the image of an emulated one, a KHO tree and a bare
 * luo_ser, by how the file begins. It only reads; what is damaged or of a newer version ends with LUO_RECORDS or
 * LUO_RECORDS_VERSION and prints nothing. What of it is sound is `inspect-verify.ts`'s to say.
 */
import { CROSSING_VERSION, decodeCrossing } from '../abi/crossing.js'
import { decodeKho, IMAGE_MAGIC, IMAGE_VERSION, KHO_COMPATIBLE, readImage } from '../abi/kho.js'
import { decodeLuo, decodeLuoSer, LUO_COMPATIBLE } from '../abi/luo.js'
import { decodeRecords } from '../abi/records.js'
import { FileReader } from '../sys/file-reader.js'
import { type Context, EXIT, withClient } from './context.js'
import { addTable, clean, formatBytes } from './format.js'
import { type FormatName, formatOf, recordsFile, recordsOf, wholeFile } from './inspect-formats.js'

/** One value for --json, and lines for people; the first follows the file's name. */
interface Findings {
  json: unknown
  lines: string[]
}

const FORMATS: Readonly<Record<FormatName, (reader: FileReader) => Findings>> = {
  records: (reader) => recordsFindings(recordsFile(reader)),
  crossing: (reader) => crossingFindings(wholeFile(reader)),
  image: imageFindings,
  tree: (reader) => khoFindings(wholeFile(reader)),
  luo: (reader) => luoSerFindings(wholeFile(reader)),
}

export async function inspectCommand(context: Context, file: string | undefined): Promise<number> {
  const { json, lines } = file === undefined ? recordsFindings(await withClient(context, recordsOf)) : fromFile(file)
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

function crossingFindings(bytes: Uint8Array): Findings {
  const { crossing, records } = decodeCrossing(bytes)
  const { luod, times, sessions } = crossing
  const content = recordsFindings(records)
  const lines = [`what luod ${clean(luod)} hands over, version ${CROSSING_VERSION}, ${bytes.length} bytes`]
  for (const [name, time] of Object.entries(times)) lines.push(`  ${clean(name)}  ${timeText(time)}`)
  for (const { session, name, files } of sessions) {
    lines.push('', `  session ${clean(session)}: ${files.length} files${name === undefined ? '' : `, ${clean(name)}`}`)
    const rows = files.map(({ key, token, description }) => {
      return [
        clean(key),
        clean(token),
        description === undefined ? 'by the kernel' : clean(JSON.stringify(description)),
      ]
    })
    if (rows.length > 0) addTable(lines, ['KEY', 'TOKEN', 'CROSSES'], rows)
  }
  return {
    json: { format: 'luod-crossing', version: CROSSING_VERSION, ...crossing, records: content.json },
    lines: [...lines, '', ...content.lines],
  }
}

/** Any number may be there. */
function timeText(ms: number): string {
  const date = new Date(ms)
  return Number.isNaN(date.getTime()) ? String(ms) : date.toISOString()
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
    if (rows.length > 0) addTable(lines, ['TOKEN', 'COMPATIBLE', 'DATA'], rows)
  }
  if (flbs.length > 0) {
    const rows = flbs.map(({ compatible, count, data }) => [clean(compatible), String(count), String(data)])
    lines.push('', '  FLBs')
    addTable(lines, ['COMPATIBLE', 'COUNT', 'DATA'], rows)
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
  const lines = [`KHO tree, ${KHO_COMPATIBLE}, ${bytes.length} bytes`, `  memory map at ${memoryMap}`]
  addTable(lines, ['SUBTREE', 'ADDRESS', 'BYTES'], rows)
  return { json: { format: KHO_COMPATIBLE, memory_map: String(memoryMap), subtrees: list }, lines }
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

function fromFile(path: string): Findings {
  using reader = FileReader.open(path)
  return FORMATS[formatOf(reader, path)](reader)
}
