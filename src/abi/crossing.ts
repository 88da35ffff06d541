/**
 * What one luod tells the next over a kexec, `luod-crossing/1`: its records, which session of the kernel has which of
 * its files, and when what happened. It is a memory file of fixed size, since preserved memory cannot grow: times that
 * come later are written into room that was left for them.
 *
 *     header, one page   magic "LUODXNG\0" · u32 version · u32 bytes of the JSON and its room · u32 CRC-32 of both
 *                        · u32 CRC-32 of the records · u64 bytes of the records
 *     from 4096          JSON, padded with spaces to whole pages · the bytes of a records file
 *
 * Little-endian. Damage is LUO_RECORDS, another version LUO_RECORDS_VERSION.
 */
import { crc32 } from 'node:zlib'
import { ByteReader, damaged, PAGE_BYTES, unknownVersion } from './bytes.js'

export const CROSSING_VERSION = 1
export const CROSSING_MAGIC = 'LUODXNG\0'
const WHAT = 'what luod handed over'
/** For times that are noted after it was preserved. */
const ROOM_BYTES = PAGE_BYTES
/** With 630,000 files, the most that the kernel takes in a session, it is less than that. */
const MAX_JSON_BYTES = 256 * 2 ** 20

/** A file of luod. By the kernel when it has no description. */
export interface CrossingFile {
  /** Of its record. */
  key: string
  /** Its own, in the kernel's session too. */
  token: string
  description?: unknown
}

export interface CrossingSession {
  /** Its id for luod. */
  session: string
  /** Its name for the kernel; undefined when nothing of it crosses by the kernel. */
  name?: string
  files: CrossingFile[]
}

export interface Crossing {
  /** Version of the luod that wrote it. */
  luod: string
  /** When what happened, of the wall clock in ms, in the words of the timeline. */
  times: Record<string, number>
  sessions: CrossingSession[]
}

/** The whole file. */
export function encodeCrossing(crossing: Crossing, records: Uint8Array): Uint8Array {
  const json = Buffer.from(JSON.stringify(crossing))
  const area = Math.ceil((json.length + ROOM_BYTES) / PAGE_BYTES) * PAGE_BYTES
  const head = headOf(json, area, records)
  return Buffer.concat([head, records])
}

/**
 * What comes before the records, with other times, for the place where it was. Undefined when there is no room for
 * them.
 */
export function encodeTimes(crossing: Crossing, file: Uint8Array): Uint8Array | undefined {
  const { area, records } = partsOf(file)
  const json = Buffer.from(JSON.stringify(crossing))
  return json.length > area ? undefined : headOf(json, area, records)
}

function headOf(json: Uint8Array, area: number, records: Uint8Array): Uint8Array {
  const head = Buffer.alloc(PAGE_BYTES + area, ' ')
  head.fill(0, 0, PAGE_BYTES)
  head.set(json, PAGE_BYTES)
  head.write(CROSSING_MAGIC, 'latin1')
  head.writeUInt32LE(CROSSING_VERSION, 8)
  head.writeUInt32LE(area, 12)
  head.writeUInt32LE(crc32(head.subarray(PAGE_BYTES)), 16)
  head.writeUInt32LE(crc32(records), 20)
  head.writeBigUInt64LE(BigInt(records.length), 24)
  return head
}

export function decodeCrossing(file: Uint8Array): { crossing: Crossing; records: Uint8Array } {
  const { json, records } = partsOf(file)
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(json).toString())
  } catch (error) {
    throw damaged(WHAT, 'it is not JSON', error)
  }
  return { crossing: checkCrossing(value), records }
}

function partsOf(file: Uint8Array): { area: number; json: Uint8Array; records: Uint8Array } {
  const reader = new ByteReader(file, WHAT)
  if (Buffer.from(file.subarray(0, 8)).toString('latin1') !== CROSSING_MAGIC) {
    throw damaged(WHAT, 'it does not begin as such a file does')
  }
  const version = reader.u32(8)
  if (version !== CROSSING_VERSION) throw unknownVersion(WHAT, version, CROSSING_VERSION)
  const area = reader.u32(12)
  const bytes = Number(reader.u64(24))
  const end = PAGE_BYTES + area
  if (area > MAX_JSON_BYTES || bytes > file.length - end)
    throw damaged(WHAT, `it has ${file.length} bytes, and is cut off`)
  const json = file.subarray(PAGE_BYTES, end)
  const records = file.subarray(end, end + bytes)
  if (crc32(json) !== reader.u32(16) || crc32(records) !== reader.u32(20)) throw damaged(WHAT, 'a checksum is wrong')
  return { area, json, records }
}

function checkCrossing(value: unknown): Crossing {
  const wrong = (what: string) => damaged(WHAT, `${what} is not what it should be`)
  const record = (candidate: unknown, what: string) => {
    if (typeof candidate !== 'object' || candidate === null || Array.isArray(candidate)) throw wrong(what)
    return candidate as Record<string, unknown>
  }
  const text = (candidate: unknown, what: string) => {
    if (typeof candidate !== 'string') throw wrong(what)
    return candidate
  }
  const list = (candidate: unknown, what: string) => {
    if (!Array.isArray(candidate)) throw wrong(what)
    return candidate as unknown[]
  }
  const { luod, times, sessions } = record(value, 'the whole')
  for (const [name, time] of Object.entries(record(times, '"times"'))) {
    if (typeof time !== 'number') throw wrong(`the time "${name}"`)
  }
  return {
    luod: text(luod, '"luod"'),
    times: times as Record<string, number>,
    sessions: list(sessions, '"sessions"').map((candidate) => {
      const { session, name, files } = record(candidate, 'a session')
      return {
        session: text(session, 'the id of a session'),
        ...(name === undefined ? {} : { name: text(name, 'the name of a session') }),
        files: list(files, 'the files of a session').map((file) => {
          const { key, token, description } = record(file, 'a file')
          return {
            key: text(key, 'the key of a file'),
            token: text(token, 'the token of a file'),
            ...(description === undefined ? {} : { description }),
          }
        }),
      }
    }),
  }
}
