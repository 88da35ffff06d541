/**
 * What the notifier of an emulated machine and luod say to each other, `luo-machine/1`: one packet a request, one an
 * answer, in order, over a SOCK_SEQPACKET that luod gave out. JSON would cost more than the call that is emulated.
 * Little-endian.
 *
 *     request, 88 bytes   u32 operation · u32 flags · u64 inode · u64 token · name[64]; with a file for preserve
 *     answer, 88 bytes    u32 errno number, 0 for none · u32 object · u64 inode · u64 0 · name[64]; maybe with a file
 *
 * An object is a device or a session; the inode of the descriptor that the program has names it. What does not fit is
 * LUO_PROTOCOL.
 */
import { LuoError } from '../errors.js'
import { decodeName, encodeName, viewOf } from './bytes.js'
import { SESSION_NAME_BYTES } from './luo.js'

export const MACHINE_MESSAGE_BYTES = 88
const NAME_AT = 24

export const MACHINE_OPERATIONS = [
  /** What the inode is; object 0 for what is nothing of this machine. */
  'describe',
  'open',
  'createSession',
  'retrieveSession',
  /** Undo, when the program could not be given the descriptor. */
  'giveBackSession',
  'preserve',
  'retrieve',
  'finish',
  'getName',
  'kexec',
] as const
export type MachineOperation = (typeof MACHINE_OPERATIONS)[number]

export const MACHINE_OBJECTS = ['none', 'device', 'outgoing', 'incoming'] as const
export type MachineObject = (typeof MACHINE_OBJECTS)[number]

/** Preserve: the program has no such descriptor; luod still says what it would say first. */
export const FLAG_NO_FILE = 1

export interface MachineRequest {
  operation: MachineOperation
  flags: number
  inode: bigint
  token: bigint
  /** At most 64 bytes; a name that fills all of them has no NUL behind it, and is no good name. */
  name: string
}

export interface MachineAnswer {
  /** 0: done. */
  errno: number
  object: MachineObject
  inode: bigint
  name: string
}

export function encodeMachineRequest({ operation, flags, inode, token, name }: MachineRequest): Uint8Array {
  const bytes = new Uint8Array(MACHINE_MESSAGE_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, MACHINE_OPERATIONS.indexOf(operation), true)
  view.setUint32(4, flags, true)
  view.setBigUint64(8, inode, true)
  view.setBigUint64(16, token, true)
  bytes.set(nameField(name), NAME_AT)
  return bytes
}

export function decodeMachineRequest(bytes: Uint8Array): MachineRequest {
  const view = checked(bytes)
  const operation = MACHINE_OPERATIONS[view.getUint32(0, true)]
  if (!operation)
    throw new LuoError('LUO_PROTOCOL', `read a request of a machine: operation ${view.getUint32(0, true)}`)
  return {
    operation,
    flags: view.getUint32(4, true),
    inode: view.getBigUint64(8, true),
    token: view.getBigUint64(16, true),
    name: nameOf(bytes),
  }
}

export function encodeMachineAnswer({ errno, object, inode, name }: MachineAnswer): Uint8Array {
  const bytes = new Uint8Array(MACHINE_MESSAGE_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, errno, true)
  view.setUint32(4, MACHINE_OBJECTS.indexOf(object), true)
  view.setBigUint64(8, inode, true)
  bytes.set(nameField(name), NAME_AT)
  return bytes
}

export function decodeMachineAnswer(bytes: Uint8Array): MachineAnswer {
  const view = checked(bytes)
  const object = MACHINE_OBJECTS[view.getUint32(4, true)]
  if (!object) throw new LuoError('LUO_PROTOCOL', `read an answer of a machine: object ${view.getUint32(4, true)}`)
  return { errno: view.getUint32(0, true), object, inode: view.getBigUint64(8, true), name: nameOf(bytes) }
}

function checked(bytes: Uint8Array): DataView {
  if (bytes.length === MACHINE_MESSAGE_BYTES) return viewOf(bytes)
  throw new LuoError('LUO_PROTOCOL', `read a message of a machine: ${bytes.length} bytes, not ${MACHINE_MESSAGE_BYTES}`)
}

function nameField(name: string): Uint8Array {
  const bytes = encodeName(name)
  if (bytes.length <= SESSION_NAME_BYTES) return bytes
  throw new LuoError('EINVAL', `write the name ${JSON.stringify(name)}: it has ${bytes.length} bytes`)
}

function nameOf(bytes: Uint8Array): string {
  const field = bytes.subarray(NAME_AT, NAME_AT + SESSION_NAME_BYTES)
  const end = field.indexOf(0)
  return decodeName(end === -1 ? field : field.subarray(0, end))
}
