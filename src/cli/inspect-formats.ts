/**
 * The files that `luoctl inspect` reads: which format it is, by how the file begins, and as much of it as one may have.
 */
import { CROSSING_MAGIC } from '../abi/crossing.js'
import { FDT_MAGIC } from '../abi/fdt.js'
import { IMAGE_MAGIC } from '../abi/kho.js'
import { RECORDS_MAGIC } from '../abi/records.js'
import { LuoError } from '../errors.js'
import type { FileReader } from '../sys/file-reader.js'
import { fileSize, readAt } from '../sys/memfd.js'
import type { ReconnectingClient } from '../wire/reconnecting.js'

/** No luod writes more; a larger file is something else. An image is not read as a whole. */
const MAX_BYTES = 256 * 2 ** 20
/** Of a file that does not say its size, as in debugfs. */
const UNSIZED_BYTES = 2 * 2 ** 20
/** Of records that somebody writes to. */
const READ_ATTEMPTS = 20

const MAGIC = {
  records: Buffer.from(RECORDS_MAGIC),
  crossing: Buffer.from(CROSSING_MAGIC),
  image: Buffer.from(IMAGE_MAGIC),
  tree: bigEndian(FDT_MAGIC),
  luo: Buffer.from('luo-v'),
} as const
export type FormatName = keyof typeof MAGIC
const LONGEST_MAGIC = Math.max(...Object.values(MAGIC).map(({ length }) => length))

/** LUO_RECORDS when it is none of them. */
export function formatOf(reader: FileReader, path: string): FormatName {
  const begin = reader.read(0, LONGEST_MAGIC)
  const isBegin = (magic: Uint8Array) => Buffer.compare(begin.subarray(0, magic.length), magic) === 0
  const known = (Object.keys(MAGIC) as FormatName[]).find((name) => isBegin(MAGIC[name]))
  if (known) return known
  throw new LuoError(
    'LUO_RECORDS',
    `inspect ${path}: it is neither luod's records or what it hands over at a kexec, nor an image, a KHO tree or a luo_ser`,
  )
}

export function wholeFile(reader: FileReader): Uint8Array {
  return reader.read(0, checkSize(reader.size, 'the file') || UNSIZED_BYTES)
}

/**
 * A luod may be writing to it: what is read twice in a row is as it was in between, and nothing half done. EBUSY when
 * it never is.
 */
export function recordsFile(reader: Pick<FileReader, 'size' | 'read'>): Uint8Array {
  const size = checkSize(reader.size, 'the file')
  let before = reader.read(0, size)
  for (let attempt = 1; attempt < READ_ATTEMPTS; attempt++) {
    const bytes = reader.read(0, size)
    if (Buffer.compare(before, bytes) === 0) return bytes
    before = bytes
  }
  throw new LuoError('EBUSY', `read records: they changed ${READ_ATTEMPTS} times; inspect the luod that writes them`)
}

/** Of the luod that answers: a copy that it makes between two of its transactions. */
export async function recordsOf(client: ReconnectingClient): Promise<Uint8Array> {
  const { fds } = await client.call('Inspect', {})
  try {
    const [records] = fds
    if (!records) throw new LuoError('LUO_PROTOCOL', 'inspect luod: it sent no file with its records')
    const bytes = new Uint8Array(checkSize(fileSize(records), 'the copy of the records'))
    return bytes.subarray(0, readAt(records, bytes, 0))
  } finally {
    for (const fd of fds) fd.close()
  }
}

function checkSize(size: number, what: string): number {
  if (size <= MAX_BYTES) return size
  throw new LuoError('LUO_RECORDS', `${what} has ${size} bytes, and ${MAX_BYTES} are the most that luod writes`)
}

function bigEndian(word: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(word)
  return bytes
}
