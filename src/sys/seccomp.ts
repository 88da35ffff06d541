/**
 * Seccomp with user notification: chosen system calls of a process and all that it starts are held by the kernel until
 * this process has answered them. No privileges are needed: the filter sets no_new_privs.
 *
 * A request is copied out whole, once. Whoever acts on memory that it read from the target asks `valid` afterwards: the
 * target may have been killed, and its number given to another. What is not answered hangs the target; when the last
 * copy of the listener is closed, held calls fail with ENOSYS.
 *
 * linux/seccomp.h, linux/filter.h and linux/audit.h have the numbers; they are checked by a test against a real target.
 */
import type { ErrnoName } from '../errors.js'
import { LuoError } from '../errors.js'
import type { Fd } from './fd.js'
import { errno, errnoNumber, failure, libc } from './ffi.js'
import { scratch } from './mapping.js'

const NOTIF_RECV = 0xc0502100
const NOTIF_SEND = 0xc0182101
const NOTIF_ID_VALID = 0x40082102
const NOTIF_ADDFD = 0x40182103
const NOTIF_SET_FLAGS = 0x40082104
/** Wakes the target on the processor that answers: a held call costs half of what it does without. Since Linux 6.6. */
const SYNC_WAKE_UP = 1n
const NOTIF_BYTES = 80
const FLAG_CONTINUE = 1
const O_CLOEXEC = 0o2000000

/** A held call. Pointers are addresses in the target. */
export interface HeldCall {
  readonly id: bigint
  /** The thread that made the call, as this process sees it. */
  readonly tid: number
  readonly arch: number
  readonly number: number
  readonly args: readonly [bigint, bigint, bigint, bigint, bigint, bigint]
}

export const AUDIT_ARCH_X86_64 = 0xc000003e
export const AUDIT_ARCH_AARCH64 = 0xc00000b7

export class HeldCalls {
  readonly #listener: Fd
  readonly #area = scratch(256)
  readonly #view = new DataView(this.#area.buffer)
  readonly #notification = new Uint8Array(this.#area.buffer, 0, NOTIF_BYTES)

  /** `listener` stays the caller's. */
  constructor(listener: Fd) {
    this.#listener = listener
    // Older kernels do not know it, and work without.
    libc('ioctl', listener.number, NOTIF_SET_FLAGS, SYNC_WAKE_UP)
  }

  /** The next call; only when the listener is readable. Undefined when its thread was killed meanwhile. */
  receive(): HeldCall | undefined {
    const view = this.#view
    // The kernel insists on zeros.
    this.#notification.fill(0)
    if (libc('ioctl', this.#listener.number, NOTIF_RECV, this.#area.address) === -1) {
      const code = errno()
      if (code === 'ENOENT' || code === 'EINTR') return undefined
      throw failure('receive a held system call', code)
    }
    const arg = (index: number) => view.getBigUint64(32 + index * 8, true)
    return {
      id: view.getBigUint64(0, true),
      tid: view.getUint32(8, true),
      number: view.getInt32(16, true),
      arch: view.getUint32(20, true),
      args: [arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)],
    }
  }

  /** False when the target is gone; then nothing that was read of it counts. */
  valid(id: bigint): boolean {
    this.#view.setBigUint64(0, id, true)
    return libc('ioctl', this.#listener.number, NOTIF_ID_VALID, this.#area.address) === 0
  }

  /** The call answers `value`. */
  answer(id: bigint, value: bigint): void {
    this.#send(id, value, 0, 0)
  }

  /** The call fails with this errno. */
  fail(id: bigint, code: ErrnoName): void {
    this.#send(id, 0n, -errnoNumber(code), 0)
  }

  /** The kernel does the call as if nobody had looked. Not a decision about security: its arguments may change. */
  letPass(id: bigint): void {
    this.#send(id, 0n, 0, FLAG_CONTINUE)
  }

  /**
   * A copy of `fd` in the target; answers its number there. ESRCH when the target is gone, EMFILE when it may open no
   * more. The kernel can answer the call in the same step (SECCOMP_ADDFD_FLAG_SEND), but a signal to this process in
   * the middle of that makes it answer 0 with nothing added: descriptor 0, for an open.
   */
  addFd(id: bigint, fd: Fd, options: { cloexec: boolean }): number {
    const view = this.#view
    view.setBigUint64(0, id, true)
    view.setUint32(8, 0, true)
    view.setUint32(12, fd.number, true)
    view.setUint32(16, 0, true)
    view.setUint32(20, options.cloexec ? O_CLOEXEC : 0, true)
    let number: number
    let code: ErrnoName
    do {
      number = libc('ioctl', this.#listener.number, NOTIF_ADDFD, this.#area.address)
      if (number >= 0) return number
      code = errno()
    } while (code === 'EINTR')
    throw failure('give a descriptor to a program', code === 'ENOENT' || code === 'EINPROGRESS' ? 'ESRCH' : code)
  }

  #send(id: bigint, value: bigint, error: number, flags: number): void {
    const view = this.#view
    view.setBigUint64(0, id, true)
    view.setBigInt64(8, value, true)
    view.setInt32(16, error, true)
    view.setUint32(20, flags, true)
    if (libc('ioctl', this.#listener.number, NOTIF_SEND, this.#area.address) !== -1) return
    const code = errno()
    // It is gone, or was answered by a signal: nobody waits.
    if (code !== 'ENOENT' && code !== 'EINPROGRESS') throw failure('answer a held system call', code)
  }
}

// --- the filter ------------------------------------------------------------------------------------------------------

const LOAD = 0x20
const JUMP_EQUAL = 0x15
const JUMP_GREATER_OR_EQUAL = 0x35
const AND = 0x54
const RETURN = 0x06
const RETURN_ALLOW = 0x7fff0000
const RETURN_HOLD = 0x7fc00000
const NUMBER_AT = 0
const ARCH_AT = 4
const ARGS_AT = 16
const INSTRUCTION_BYTES = 8
const X32_BIT = 0x40000000

/** Hold the call when the low half of this argument, masked, is one of `values`; or, with `except`, when it is none. */
export interface ArgumentRule {
  argument: number
  mask: number
  values: readonly number[]
  except?: boolean
}

export interface FilterRule {
  number: number
  /** All must hold; without any, every call is held. */
  when?: readonly ArgumentRule[]
}

type Instruction = [code: number, jumpTrue: number, jumpFalse: number, k: number]

/**
 * A classic BPF program: the calls that a rule names are held, and every call of another ABI of this machine (i386,
 * x32), all others pass.
 */
export function buildFilter(arch: number, rules: readonly FilterRule[]): Uint8Array {
  const program: Instruction[] = [
    [LOAD, 0, 0, ARCH_AT],
    [JUMP_EQUAL, 1, 0, arch],
    [RETURN, 0, 0, RETURN_HOLD],
    [LOAD, 0, 0, NUMBER_AT],
  ]
  if (arch === AUDIT_ARCH_X86_64) program.push([JUMP_GREATER_OR_EQUAL, 0, 1, X32_BIT], [RETURN, 0, 0, RETURN_HOLD])
  for (const { number, when = [] } of rules) {
    const body: Instruction[] = []
    for (const { argument, mask, values, except = false } of when) {
      body.push([LOAD, 0, 0, ARGS_AT + argument * 8], [AND, 0, 0, mask])
      // Equal to one of them: over the ones that follow and the RETURN behind them.
      values.forEach((value, index) => {
        const rest = values.length - index
        if (except) body.push([JUMP_EQUAL, rest - 1, rest === 1 ? 1 : 0, value >>> 0])
        else body.push([JUMP_EQUAL, rest, 0, value >>> 0])
      })
      body.push([RETURN, 0, 0, RETURN_ALLOW])
    }
    body.push([RETURN, 0, 0, RETURN_HOLD])
    program.push([JUMP_EQUAL, 0, body.length, number], ...body)
  }
  program.push([RETURN, 0, 0, RETURN_ALLOW])
  return assemble(program)
}

function assemble(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * INSTRUCTION_BYTES)
  const view = new DataView(bytes.buffer)
  program.forEach(([code, jumpTrue, jumpFalse, k], index) => {
    if (jumpTrue > 255 || jumpFalse > 255)
      throw new LuoError('EINVAL', 'build a filter: a rule is too long to be jumped over')
    const at = index * INSTRUCTION_BYTES
    view.setUint16(at, code, true)
    view.setUint8(at + 2, jumpTrue)
    view.setUint8(at + 3, jumpFalse)
    view.setUint32(at + 4, k >>> 0, true)
  })
  return bytes
}
