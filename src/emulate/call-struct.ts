/**
 * The struct of one call of live update, in the memory of the program that makes it: read once, checked in the kernel's
 * order (`uapi.ts`), and written back as far as the caller has it.
 */
import { encodeName } from '../abi/bytes.js'
import type { MachineObject } from '../abi/machine.js'
import {
  checkCommand,
  checkDirection,
  checkSize,
  checkTail,
  decodeIoctl,
  type Ioctl,
  type IoctlValues,
  lookUp,
} from '../abi/uapi.js'
import { LuoError } from '../errors.js'
import { readRemote, readRemotePart, writeRemote } from '../sys/remote.js'
import type { HeldCall } from '../sys/seccomp.js'
import { quoted } from './trace.js'

/** What a caller's struct may have behind the fields known here is looked at in pieces of this, and this many. */
const TAIL_PIECE = 4096
const MAX_TAIL_PIECES = 1024
const SIZE_BYTES = 4
const FD_AT = 4
const NAME_AT = 8
/** What the kernel copies a name by. */
const WORD = 8

export class CallStruct {
  readonly ioctl: Ioctl
  readonly values: IoctlValues
  readonly #tid: number
  readonly #address: bigint
  /** The caller's bytes, as they were read first: it may have changed them since. */
  readonly #size: number
  readonly #bytes: Uint8Array

  /** Throws what the kernel would: EINVAL, EFAULT, ENOTTY, E2BIG. ESRCH when the program is gone. */
  constructor({ tid, args }: HeldCall, object: Exclude<MachineObject, 'none'>) {
    const command = Number(BigInt.asUintN(32, args[1]))
    const address = args[2]
    const ioctl = lookUp(object === 'device' ? 'device' : 'session', command)
    // All at once where all is there; what is not is asked for again in its turn, which decides the errno.
    const whole = readRemotePart(tid, address, ioctl.bytes)
    const start = whole.length < SIZE_BYTES ? readRemote(tid, address, SIZE_BYTES) : whole
    const size = new DataView(start.buffer).getUint32(0, true)
    checkCommand(ioctl, command)
    if (object !== 'device') checkDirection(ioctl, object)
    checkSize(ioctl, size)
    checkRest(ioctl, tid, address, size)
    this.#bytes = whole.length === ioctl.bytes ? whole : readRemote(tid, address, ioctl.bytes)
    this.ioctl = ioctl
    this.values = decodeIoctl(ioctl, this.#bytes)
    this.#size = size
    this.#tid = tid
    this.#address = address
  }

  /** For people: the call's name, and what it is asked with. */
  get text(): string {
    const { fields, name: call } = this.ioctl
    const { fd, token, name } = this.values
    const parts: string[] = [call]
    if (fields.includes('name') && name !== '') parts.push(quoted(name))
    if (fields.includes('token')) parts.push(`token=0x${BigInt(token).toString(16)}`)
    if (fields.includes('token') && fd > 0) parts.push(`fd=${fd}`)
    return parts.join(', ')
  }

  putFd(number: number): void {
    new DataView(this.#bytes.buffer, this.#bytes.byteOffset).setInt32(FD_AT, number, true)
  }

  /** With zeros up to the end of the word that its NUL is in; what the caller had behind it stays, as in the kernel. */
  putName(name: string): void {
    const encoded = encodeName(name)
    this.#bytes.fill(0, NAME_AT + encoded.length, NAME_AT + (Math.floor(encoded.length / WORD) + 1) * WORD)
    this.#bytes.set(encoded, NAME_AT)
  }

  /** Into the program's memory; EFAULT when it cannot be written. */
  write(): void {
    writeRemote(this.#tid, this.#address, this.#bytes.subarray(0, Math.min(this.#size, this.#bytes.length)))
  }
}

/** E2BIG when there is more behind what is known here, and it is not zero. */
function checkRest(ioctl: Ioctl, tid: number, address: bigint, size: number): void {
  const pieces = Math.ceil(Math.max(0, size - ioctl.bytes) / TAIL_PIECE)
  for (let piece = 0; piece < Math.min(pieces, MAX_TAIL_PIECES); piece++) {
    const from = ioctl.bytes + piece * TAIL_PIECE
    checkTail(ioctl, readRemote(tid, address + BigInt(from), Math.min(TAIL_PIECE, size - from)))
  }
  if (pieces > MAX_TAIL_PIECES) throw new LuoError('E2BIG', `${ioctl.name} with a struct of ${size} bytes`)
}
