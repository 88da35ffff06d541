/**
 * The kernel's ioctl interface to live update, byte for byte: commands, structs, and the order in which the kernel
 * checks a call. Type 0xBA, encoded without a size. Little-endian, in natural alignment:
 *
 *     0x00 create session     72 bytes   u32 size · s32 fd (out) · u8 name[64]
 *     0x01 retrieve session   72 bytes   u32 size · s32 fd (out) · u8 name[64]
 *     0x40 preserve fd        16 bytes   u32 size · s32 fd · u64 token
 *     0x41 retrieve fd        16 bytes   u32 size · s32 fd (out) · u64 token
 *     0x42 finish              8 bytes   u32 size · u32 reserved
 *     0x43 get name           72 bytes   u32 size · u32 reserved · u8 name[64] (out)
 *
 * A call is checked so: `lookUp` (EINVAL) · the caller's size is read (EFAULT) · `checkCommand` (ENOTTY) ·
 * `checkDirection` (EINVAL) · `checkSize` (EINVAL) · `checkTail` (E2BIG) on what is behind the bytes known here. The
 * numbers of files here are those of the calling process, not of this one.
 */
import { LuoError } from '../errors.js'
import { ByteReader, checkU32, decodeName, encodeName, parseU64, putName, viewOf } from './bytes.js'
import { SESSION_NAME_BYTES } from './luo.js'

export type IoctlName = 'createSession' | 'retrieveSession' | 'preserveFd' | 'retrieveFd' | 'finish' | 'getName'
/** Where a call is made: on the device, or on a session's descriptor. */
export type IoctlTarget = 'device' | 'session'
export type SessionDirection = 'outgoing' | 'incoming'
type Field = keyof typeof FIELDS

export interface Ioctl {
  readonly name: IoctlName
  readonly target: IoctlTarget
  /** Of the session; undefined when any will do. */
  readonly direction: SessionDirection | undefined
  /** Second argument of ioctl(2). */
  readonly command: number
  readonly fields: readonly Field[]
  /** Bytes of the struct as it is known here. */
  readonly bytes: number
  /** The end of the last field that every caller knows: no size may be smaller. */
  readonly minimumBytes: number
}

export interface IoctlValues {
  /** The caller's bytes of the struct. */
  size: number
  fd: number
  reserved: number
  /** A u64 in decimal. */
  token: string
  /** Up to its NUL, or all 64 bytes when there is none: then it is no name that a session could have. */
  name: string
}

const TYPE = 0xba
const NUMBER_MASK = 0xff
/** Offset and bytes; a field is at the same place in every struct that has it. */
const FIELDS = {
  size: [0, 4],
  fd: [4, 4],
  reserved: [4, 4],
  token: [8, 8],
  name: [8, SESSION_NAME_BYTES],
} as const

export const IOCTLS: Readonly<Record<IoctlName, Ioctl>> = {
  createSession: ioctl('createSession', 0x00, 'device', undefined, ['size', 'fd', 'name']),
  retrieveSession: ioctl('retrieveSession', 0x01, 'device', undefined, ['size', 'fd', 'name']),
  preserveFd: ioctl('preserveFd', 0x40, 'session', 'outgoing', ['size', 'fd', 'token']),
  retrieveFd: ioctl('retrieveFd', 0x41, 'session', 'incoming', ['size', 'fd', 'token']),
  finish: ioctl('finish', 0x42, 'session', 'incoming', ['size', 'reserved']),
  getName: ioctl('getName', 0x43, 'session', undefined, ['size', 'reserved', 'name']),
}

/** By its number alone, as the kernel does; EINVAL when there is none of this number here. */
export function lookUp(target: IoctlTarget, command: number): Ioctl {
  const found = Object.values(IOCTLS).find(
    (each) => each.target === target && (each.command & NUMBER_MASK) === (command & NUMBER_MASK),
  )
  if (found) return found
  throw new LuoError('EINVAL', `ioctl ${hexOf(command)} on a ${target}: there is none of this number`)
}

/** ENOTTY when the command has the number of this call, and other bits. */
export function checkCommand(call: Ioctl, command: number): void {
  if (command >>> 0 === call.command) return
  throw new LuoError('ENOTTY', `ioctl ${hexOf(command)}: ${call.name} is ${hexOf(call.command)}`)
}

/** EINVAL on a session of the other direction. */
export function checkDirection(call: Ioctl, direction: SessionDirection): void {
  if (call.direction === undefined || call.direction === direction) return
  throw new LuoError('EINVAL', `${call.name} on an ${direction} session: it is for ${call.direction} ones`)
}

/** EINVAL when the caller's struct ends before the last field. */
export function checkSize(call: Ioctl, size: number): void {
  if (size >= call.minimumBytes) return
  throw new LuoError('EINVAL', `${call.name} with a struct of ${size} bytes: ${call.minimumBytes} is the least`)
}

/** E2BIG when a caller that knows more fields uses one. `tail`: what it has behind `call.bytes`, whole or in pieces. */
export function checkTail(call: Ioctl, tail: Uint8Array): void {
  if (tail.every((byte) => byte === 0)) return
  throw new LuoError('E2BIG', `${call.name}: the struct has more than is known here, and it is not all zero`)
}

/**
 * The struct with these values, of the fields that it has; what is left out is zero, but for the size. EINVAL when a
 * field cannot hold its value. An answer is the request's values and those that go out, up to the caller's size.
 */
export function encodeIoctl(call: Ioctl, values: Partial<IoctlValues>): Uint8Array {
  const bytes = new Uint8Array(call.bytes)
  const view = viewOf(bytes)
  const { size = call.bytes, fd = 0, reserved = 0, token = '0', name = '' } = values
  const put: Record<Field, () => void> = {
    size: () => view.setUint32(FIELDS.size[0], checkU32(size, 'the size'), true),
    fd: () => view.setInt32(FIELDS.fd[0], checkS32(fd, 'the fd'), true),
    reserved: () => view.setUint32(FIELDS.reserved[0], checkU32(reserved, 'the reserved field'), true),
    token: () => view.setBigUint64(FIELDS.token[0], parseU64(token, 'the token'), true),
    name: () => putNameOrAll(bytes, name),
  }
  for (const field of call.fields) put[field]()
  return bytes
}

/** A name that fills its field has no NUL: no session has it, and what that means is the kernel's to say. */
function putNameOrAll(bytes: Uint8Array, name: string): void {
  const [at, length] = FIELDS.name
  const encoded = encodeName(name)
  if (encoded.length === length && !encoded.includes(0)) bytes.set(encoded, at)
  else putName(bytes, at, length, name)
}

/** The values of the struct's fields; others are zero or empty. `bytes` may be longer. */
export function decodeIoctl(call: Ioctl, bytes: Uint8Array): IoctlValues {
  const reader = new ByteReader(bytes, `the struct of ${call.name}`)
  const has = (field: Field) => call.fields.includes(field)
  return {
    size: reader.u32(FIELDS.size[0]),
    fd: has('fd') ? reader.i32(FIELDS.fd[0]) : 0,
    reserved: has('reserved') ? reader.u32(FIELDS.reserved[0]) : 0,
    token: has('token') ? String(reader.u64(FIELDS.token[0])) : '0',
    name: has('name') ? nameIn(reader.part(...FIELDS.name)) : '',
  }
}

function nameIn(field: Uint8Array): string {
  const end = field.indexOf(0)
  return decodeName(end === -1 ? field : field.subarray(0, end))
}

function ioctl(
  name: IoctlName,
  number: number,
  target: IoctlTarget,
  direction: SessionDirection | undefined,
  fields: readonly Field[],
): Ioctl {
  const bytes = Math.max(...fields.map((field) => FIELDS[field][0] + FIELDS[field][1]))
  return { name, target, direction, command: (TYPE << 8) | number, fields, bytes, minimumBytes: bytes }
}

function checkS32(value: number, what: string): number {
  if ((value | 0) === value) return value
  throw new LuoError('EINVAL', `${what}: ${value} is not an s32`)
}

function hexOf(command: number): string {
  return `0x${(command >>> 0).toString(16)}`
}
