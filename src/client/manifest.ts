/**
 * The manifest: what the tokens of a workload's session are called, `luo-manifest/1`, in a memory file at token 0. Two
 * slots, written in turn; the one with the higher number and a good checksum counts, so that a writer that dies in the
 * middle leaves the one before.
 *
 *     slot   u32 number · u32 bytes · u32 CRC-32 of the JSON · u32 0 · JSON {"version":1,"resources":[…]}
 */
import { crc32 } from 'node:zlib'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { createMemfd, readAt, writeAt } from '../sys/memfd.js'
import { isToken } from './token.js'

export const MANIFEST_TOKEN = '0'
export const MANIFEST_FORMAT_VERSION = 1
const SLOT_BYTES = 8 * 1024 * 1024
const HEADER_BYTES = 16

export interface Resource {
  name: string
  token: string
  kind: 'memory' | 'listener' | 'connection' | 'file'
  /** Memory: how far it may grow, in bytes. */
  max?: number
  format?: string
  /** A connection: the name of its listener. */
  of?: string
}

export class Manifest {
  readonly fd: Fd
  #number: number

  static create(): Manifest {
    return new Manifest(createMemfd('luo-manifest', { size: 2 * SLOT_BYTES, overKexec: true }), 0)
  }

  /** Owns `fd`. Answers what is in it too; LUO_RECORDS when neither slot is good. */
  static open(fd: Fd): { manifest: Manifest; resources: Resource[] } {
    const slots = [readSlot(fd, 0), readSlot(fd, 1)].filter((slot) => slot !== undefined)
    const latest = slots.sort((a, b) => b.number - a.number)[0]
    if (!latest) throw damaged()
    return { manifest: new Manifest(fd, latest.number), resources: parse(latest.json) }
  }

  private constructor(fd: Fd, number: number) {
    this.fd = fd
    this.#number = number
  }

  write(resources: readonly Resource[]): void {
    const json = Buffer.from(JSON.stringify({ version: MANIFEST_FORMAT_VERSION, resources }))
    if (json.length > SLOT_BYTES - HEADER_BYTES) {
      throw new LuoError('LUO_LIMIT', `write a manifest of ${resources.length} resources: it has ${json.length} bytes`)
    }
    this.#number += 1
    const bytes = Buffer.alloc(HEADER_BYTES + json.length)
    bytes.writeUInt32LE(this.#number, 0)
    bytes.writeUInt32LE(json.length, 4)
    bytes.writeUInt32LE(crc32(json), 8)
    json.copy(bytes, HEADER_BYTES)
    writeAt(this.fd, bytes, (this.#number % 2) * SLOT_BYTES)
  }
}

function readSlot(fd: Fd, slot: number): { number: number; json: Buffer } | undefined {
  const header = Buffer.alloc(HEADER_BYTES)
  if (readAt(fd, header, slot * SLOT_BYTES) !== HEADER_BYTES) return undefined
  const length = header.readUInt32LE(4)
  if (length === 0 || length > SLOT_BYTES - HEADER_BYTES) return undefined
  const json = Buffer.alloc(length)
  if (readAt(fd, json, slot * SLOT_BYTES + HEADER_BYTES) !== length) return undefined
  return crc32(json) === header.readUInt32LE(8) ? { number: header.readUInt32LE(0), json } : undefined
}

function parse(json: Buffer): Resource[] {
  const { version, resources } = fieldsOf(json)
  if (version === MANIFEST_FORMAT_VERSION && Array.isArray(resources) && resources.every(isResource)) return resources
  if (version === MANIFEST_FORMAT_VERSION) throw damaged()
  throw new LuoError(
    'LUO_STATE_VERSION',
    `read the manifest of the workload: it is of version ${version}, and ${MANIFEST_FORMAT_VERSION} is known`,
  )
}

function fieldsOf(json: Buffer): { version?: unknown; resources?: unknown } {
  try {
    return Object(JSON.parse(json.toString()))
  } catch (error) {
    throw damaged(error)
  }
}

/** Of kinds that are not known here, too: those stay with luod. */
function isResource(value: unknown): value is Resource {
  const { name, token, kind, max, format, of } = Object(value) as Record<string, unknown>
  const optional = (text: unknown) => text === undefined || typeof text === 'string'
  return (
    typeof name === 'string' &&
    typeof kind === 'string' &&
    typeof token === 'string' &&
    isToken(token) &&
    (max === undefined || (Number.isSafeInteger(max) && Number(max) >= 0)) &&
    optional(format) &&
    optional(of)
  )
}

function damaged(cause?: unknown): LuoError {
  const why = 'it is damaged, or another program wrote it'
  return new LuoError('LUO_RECORDS', `read the manifest of the workload: ${why}`, { cause })
}
