/**
 * `luoctl inspect [FILE]`: decodes luod's durable records, of the running luod or from a file. It only reads; damaged
 * records or ones of a newer version end with LUO_RECORDS or LUO_RECORDS_VERSION and print nothing.
 */
import { readFileSync, statSync } from 'node:fs'
import { decodeRecords } from '../abi/records.js'
import { asLuoError, LuoError } from '../errors.js'
import { fileSize, readAt } from '../sys/memfd.js'
import { type Context, EXIT, withClient } from './context.js'
import { clean } from './format.js'

/** No luod writes more; a larger file is something else. */
const MAX_RECORDS_BYTES = 256 * 2 ** 20

export async function inspectCommand(context: Context, file: string | undefined): Promise<number> {
  const bytes = file === undefined ? await fromDaemon(context) : fromFile(file)
  const { version, entries } = decodeRecords(bytes)
  const types = [...entries].map(([type, records]) => ({
    type: String(type),
    records: [...records].map(([key, value]) => ({ key: String(key), value: value as unknown })),
  }))
  if (context.json) {
    context.out(JSON.stringify({ version, types }))
    return EXIT.OK
  }
  const source = file ?? `luod at ${context.socket}`
  context.out(`${clean(source)}: records version ${version}, ${bytes.length} bytes`)
  for (const { type, records } of types) {
    context.out(`\n${type}: ${records.length}`)
    for (const { key, value } of records) context.out(`  ${key}  ${clean(JSON.stringify(value))}`)
  }
  return EXIT.OK
}

function fromDaemon(context: Context): Promise<Uint8Array> {
  return withClient(context, async (client) => {
    const { fds } = await client.call('Inspect', {})
    try {
      const [records] = fds
      if (!records) throw new LuoError('LUO_PROTOCOL', 'inspect luod: it sent no file with its records')
      const size = checkSize(Number(fileSize(records)), 'the records of luod')
      const bytes = new Uint8Array(size)
      let read = 0
      while (read < size) {
        const got = readAt(records, bytes.subarray(read), read)
        if (got === 0) break
        read += got
      }
      return bytes.subarray(0, read)
    } finally {
      for (const fd of fds) fd.close()
    }
  })
}

function fromFile(path: string): Uint8Array {
  try {
    checkSize(statSync(path).size, path)
    return readFileSync(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw asLuoError(error, code?.startsWith('E') ? (code as `E${string}`) : 'LUO_RECORDS', `read ${path}`)
  }
}

function checkSize(size: number, what: string): number {
  if (size <= MAX_RECORDS_BYTES) return size
  throw new LuoError('LUO_RECORDS', `${what} has ${size} bytes, and records have ${MAX_RECORDS_BYTES} at most`)
}
