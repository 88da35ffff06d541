/**
 * Varlink's messages: JSON objects, each ended by a NUL. A `Decoder` takes whatever chunks arrive and answers whole
 * messages; what breaks the framing (too long, not JSON, not an object) is LUO_PROTOCOL, and the connection is lost,
 * because nobody can tell where the next message begins.
 */
import { LuoError } from '../errors.js'
import { INTERFACE_NAME } from './interface.js'

/** Room for a thousand files with their descriptions. */
export const MAX_MESSAGE_BYTES = 1024 * 1024
/** No message of ours nests half as deep; one that nests without end would exhaust the stack. */
const MAX_DEPTH = 32
/** The standard's own interface, which every service has. */
export const SERVICE_INTERFACE = 'org.varlink.service'

export interface Request {
  method: string
  parameters: Record<string, unknown>
  more: boolean
  oneway: boolean
}

export interface Reply {
  parameters: Record<string, unknown>
  continues: boolean
  error: string | undefined
}

type Json = Record<string, unknown>

export function encodeMessage(message: object): Uint8Array {
  const bytes = Buffer.from(`${JSON.stringify(message)}\0`)
  if (bytes.length > MAX_MESSAGE_BYTES) throw tooLong(bytes.length)
  return bytes
}

/** Room for a message that comes in pieces; it grows as it has to. */
const FIRST_ROOM_BYTES = 64 * 1024
const NO_ROOM = new Uint8Array(0)

export class Decoder {
  /** One piece of memory, also for a message that comes byte by byte. */
  #room = NO_ROOM
  #length = 0

  /** Bytes of a message that is not whole yet. */
  get pending(): number {
    return this.#length
  }

  /** `sizes` gets the bytes of each message. */
  push(chunk: Uint8Array, sizes: number[] = []): Json[] {
    const messages: Json[] = []
    let start = 0
    for (let end = chunk.indexOf(0); end >= 0; end = chunk.indexOf(0, start)) {
      messages.push(this.#take(chunk.subarray(start, end), sizes))
      start = end + 1
    }
    if (start < chunk.length) this.#add(chunk.subarray(start))
    return messages
  }

  #add(part: Uint8Array): void {
    const length = this.#length + part.length
    if (length > MAX_MESSAGE_BYTES) throw tooLong(length)
    if (length > this.#room.length) {
      const doubled = Math.min(Math.max(2 * this.#room.length, FIRST_ROOM_BYTES), MAX_MESSAGE_BYTES)
      const room = new Uint8Array(Math.max(doubled, length))
      room.set(this.#room.subarray(0, this.#length))
      this.#room = room
    }
    this.#room.set(part, this.#length)
    this.#length = length
  }

  #take(last: Uint8Array, sizes: number[]): Json {
    let whole = last
    if (this.#length > 0) {
      this.#add(last)
      whole = this.#room.subarray(0, this.#length)
      this.#room = NO_ROOM
      this.#length = 0
    } else if (last.length > MAX_MESSAGE_BYTES) throw tooLong(last.length)
    sizes.push(whole.length)
    const text = Buffer.from(whole.buffer, whole.byteOffset, whole.length).toString()
    let message: unknown
    try {
      message = JSON.parse(text)
    } catch (error) {
      throw new LuoError('LUO_PROTOCOL', `read a message of ${text.length} characters: it is not JSON`, {
        cause: error,
      })
    }
    if (typeof message !== 'object' || message === null || Array.isArray(message)) {
      throw new LuoError('LUO_PROTOCOL', 'read a message: it is not an object')
    }
    return message as Json
  }
}

export function parseRequest(message: Json): Request {
  const { method, parameters, more, oneway } = message
  if (typeof method !== 'string') throw new LuoError('LUO_PROTOCOL', 'read a request: it names no method')
  return { method, parameters: parametersOf(message, parameters), more: more === true, oneway: oneway === true }
}

export function parseReply(message: Json): Reply {
  const { parameters, continues, error } = message
  if (error !== undefined && typeof error !== 'string') {
    throw new LuoError('LUO_PROTOCOL', 'read a reply: its error is not a string')
  }
  return { parameters: parametersOf(message, parameters), continues: continues === true, error }
}

function parametersOf(message: Json, parameters: unknown): Json {
  if (parameters === undefined || parameters === null) return {}
  if (typeof parameters === 'object' && !Array.isArray(parameters)) {
    dropNulls(parameters)
    return parameters as Json
  }
  throw new LuoError('LUO_PROTOCOL', `read ${JSON.stringify(message.method ?? 'a reply')}: parameters are no object`)
}

/** Varlink lets null stand for a member that is absent; here there is only absent. */
function dropNulls(value: unknown, depth = 0): void {
  if (typeof value !== 'object' || value === null) return
  if (depth > MAX_DEPTH) throw new LuoError('LUO_PROTOCOL', `read a message: it is nested deeper than ${MAX_DEPTH}`)
  if (Array.isArray(value)) {
    for (const member of value) dropNulls(member, depth + 1)
    return
  }
  const members = value as Json
  for (const name of Object.keys(members)) {
    if (members[name] === null || members[name] === undefined) delete members[name]
    else dropNulls(members[name], depth + 1)
  }
}

/** How many files a message says that it carries. */
export function declaredFds(parameters: Json, max: number): number {
  const { fds } = parameters
  if (fds === undefined || fds === null) return 0
  if (typeof fds === 'number' && Number.isInteger(fds) && fds >= 0 && fds <= max) return fds
  const found = typeof fds === 'number' ? fds : 'no number of'
  throw new LuoError('LUO_PROTOCOL', `read a message: it declares ${found} files, and ${max} are allowed`)
}

/** `Failed` for errors of ours; the standard's own names where it has them. */
export function encodeError(error: LuoError): { error: string; parameters: Json } {
  if (error.code === 'LUO_INVALID_PARAMETER' && typeof error.params.parameter === 'string') {
    return {
      error: `${SERVICE_INTERFACE}.InvalidParameter`,
      parameters: { parameter: error.params.parameter, code: error.code, message: error.message },
    }
  }
  return { error: `${INTERFACE_NAME}.Failed`, parameters: { code: error.code, message: error.message } }
}

/** A reply's error as it was before it was encoded. */
export function decodeError(name: string, parameters: Json): LuoError {
  const { code, message, parameter } = parameters
  if (typeof code === 'string' && typeof message === 'string' && /^(LUO_|E)[A-Z0-9_]+$/.test(code)) {
    return new LuoError(code as `E${string}`, message, parameter === undefined ? {} : { params: { parameter } })
  }
  if (name === `${SERVICE_INTERFACE}.InvalidParameter`) {
    return new LuoError('LUO_INVALID_PARAMETER', `luod does not take the parameter ${JSON.stringify(parameters)}`)
  }
  return new LuoError('LUO_UNSUPPORTED', `luod answered ${name} ${JSON.stringify(parameters)}`)
}

function tooLong(length: number): LuoError {
  return new LuoError('LUO_PROTOCOL', `a message has ${length} bytes or more, and ${MAX_MESSAGE_BYTES} are allowed`)
}
