/**
 * Answers the intercepted calls of one program and all that it starts, each in the turn in which it came: what is not
 * answered hangs the program.
 *
 * A program is not trusted: what it points to is read once, and only that copy counts; it may be killed at any moment,
 * so `valid` is asked before anything is done with what was read. Nothing here is a boundary of security: a program can
 * only cheat itself.
 */

import { decodeName } from '../abi/bytes.js'
import { FLAG_NO_FILE, type MachineObject } from '../abi/machine.js'
import { asLuoError, type ErrnoName, isLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { Poller } from '../sys/poller.js'
import { fdOfThread, isPathOnly, mayOpenMore, readRemote, readRemoteString, socketInode } from '../sys/remote.js'
import { AUDIT_ARCH_X86_64, type HeldCall, HeldCalls } from '../sys/seccomp.js'
import { CallStruct } from './call-struct.js'
import type { MachineChannel } from './channel.js'
import { CALLS } from './filter.js'
import { leadsToDevice } from './paths.js'
import { RebootCalls } from './reboot.js'
import type { TracedCall } from './reports.js'
import { quoted, type Trace } from './trace.js'

/** PATH_MAX. */
const MAX_PATH = 4096
const O_ACCMODE = 3
const O_WRONLY = 1
const O_CREAT = 0o100
const O_EXCL = 0o200
const O_DIRECTORY = 0o200000
const O_NOFOLLOW = 0o400000
const O_CLOEXEC = 0o2000000
const O_PATH = 0o10000000
const AT_FDCWD = -100
/** A turn of the loop: the next call is waited for so long. A signal that comes between two waits waits too. */
const TURN_MS = 100
/** struct open_how: u64 flags · u64 mode · u64 resolve. */
const OPEN_HOW_BYTES = 24
const X32_BIT = 0x40000000
/** More than a program has open; then it is asked for anew. */
const MAX_OBJECTS = 4096

type Outcome = { value: bigint } | { given: Fd; cloexec: boolean } | 'pass' | 'none'

export class Notifier {
  readonly #listener: Fd
  readonly #calls: HeldCalls
  readonly #channel: MachineChannel
  readonly #objects = new Map<bigint, MachineObject>()
  readonly #onTrace: ((call: TracedCall) => void) | undefined
  readonly #onForeign: (tid: number) => void
  /** Until a program changes its root, each has the one that this process has. */
  #oneRoot = true
  readonly #rebootCalls = new RebootCalls()

  /** `onForeign`: a program made a call of another ABI of this machine, and must be ended. */
  constructor(
    listener: Fd,
    channel: MachineChannel,
    options: { onTrace?: (call: TracedCall) => void; onForeign(tid: number): void },
  ) {
    this.#listener = listener
    this.#calls = new HeldCalls(listener)
    this.#channel = channel
    this.#onTrace = options.onTrace
    this.#onForeign = options.onForeign
  }

  /**
   * The next calls. Only when the listener is readable, and with nobody else watching it. Programs make their calls one
   * close after the other, and to be woken by the loop costs more than most answers: the next one is waited for here,
   * asleep, until something else is to be done.
   */
  serve(): void {
    const end = performance.now() + TURN_MS
    let left: number
    do {
      this.#serveOne()
      left = Math.ceil(end - performance.now())
    } while (left > 0 && Poller.shared().waitFirst(this.#listener, left))
  }

  #serveOne(): void {
    const call = this.#calls.receive()
    if (!call) return
    const started = this.#onTrace ? performance.now() : 0
    const trace = { text: '' }
    let result: string | undefined
    try {
      const outcome = this.#decide(call, trace)
      result = this.#answer(call, outcome)
    } catch (error) {
      const { code } = asLuoError(error, 'EIO', 'answer a call')
      const errno = /^E[A-Z0-9]+$/.test(code) ? (code as ErrnoName) : 'EIO'
      this.#calls.fail(call.id, errno)
      result = `-1 ${errno}`
    }
    if (!this.#onTrace || trace.text === '') return
    this.#onTrace({ tid: call.tid, text: trace.text, result, microseconds: (performance.now() - started) * 1000 })
  }

  #answer(call: HeldCall, outcome: Outcome): string | undefined {
    if (outcome === 'none') return undefined
    if (outcome === 'pass') {
      this.#calls.letPass(call.id)
      return undefined
    }
    if ('value' in outcome) {
      this.#calls.answer(call.id, outcome.value)
      return String(outcome.value)
    }
    using file = outcome.given
    const number = this.#calls.addFd(call.id, file, { cloexec: outcome.cloexec })
    this.#calls.answer(call.id, BigInt(number))
    return String(number)
  }

  #decide(call: HeldCall, trace: Trace): Outcome {
    if (call.arch !== AUDIT_ARCH_X86_64 || call.number >= X32_BIT) {
      this.#onForeign(call.tid)
      throw new LuoError('ENOSYS', 'a call of another ABI')
    }
    const [a, b, c] = call.args
    switch (call.number) {
      case CALLS.open:
        return this.#open(call, trace, AT_FDCWD, a, b)
      case CALLS.openat:
        return this.#open(call, trace, Number(BigInt.asIntN(32, a)), b, c)
      case CALLS.creat:
        return this.#open(call, trace, AT_FDCWD, a, BigInt(O_CREAT | O_WRONLY))
      case CALLS.openat2:
        return this.#openat2(call, trace)
      case CALLS.ioctl:
        return this.#ioctl(call, trace)
      case CALLS.chroot:
      case CALLS.pivotRoot:
      case CALLS.setns:
        this.#oneRoot = false
        return 'pass'
      case CALLS.kexecLoad:
        this.#rebootCalls.kexecLoad(call.args, trace)
        return { value: 0n }
      case CALLS.kexecFileLoad:
        this.#rebootCalls.kexecFileLoad(call.args, trace)
        return { value: 0n }
      case CALLS.reboot:
        if (!this.#rebootCalls.reboot(call.args, trace)) return 'pass'
        this.#channel.ask('kexec')
        // Whoever asked ends with all the others, and gets no answer.
        return 'none'
      default:
        return 'pass'
    }
  }

  // --- opening -------------------------------------------------------------------------------------------------------

  #openat2(call: HeldCall, trace: Trace): Outcome {
    const [at, path, how, size] = call.args
    let flags = 0n
    try {
      if (size < BigInt(OPEN_HOW_BYTES)) return 'pass'
      const bytes = readRemote(call.tid, how, OPEN_HOW_BYTES)
      flags = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true)
    } catch {
      return 'pass'
    }
    return this.#open(call, trace, Number(BigInt.asIntN(32, at)), path, flags)
  }

  #open(call: HeldCall, trace: Trace, at: number, address: bigint, flagBits: bigint): Outcome {
    const flags = Number(BigInt.asUintN(32, flagBits))
    if (flags & O_PATH) return 'pass'
    let path: Buffer
    try {
      path = readRemoteString(call.tid, address, MAX_PATH)
    } catch {
      // The kernel finds the same fault.
      return 'pass'
    }
    const follow = (flags & O_NOFOLLOW) === 0
    const oneRoot = this.#oneRoot
    if (!leadsToDevice(call.tid, at, path.toString('latin1'), { follow, oneRoot }) || !this.#calls.valid(call.id))
      return 'pass'
    trace.text = `open(${quoted(decodeName(path))}, ${['O_RDONLY', 'O_WRONLY', 'O_RDWR', 'O_ACCMODE'][flags & O_ACCMODE]})`
    if (flags & O_DIRECTORY) throw new LuoError('ENOTDIR', 'open the device as a directory')
    if (flags & O_CREAT && flags & O_EXCL) throw new LuoError('EEXIST', 'create the device')
    const { file } = this.#askForFile(call, 'open')
    if (!file) throw new LuoError('ENODEV', 'open the device: luod gave none')
    return { given: file, cloexec: (flags & O_CLOEXEC) !== 0 }
  }

  // --- live update's own calls ---------------------------------------------------------------------------------------

  #ioctl(call: HeldCall, trace: Trace): Outcome {
    const fd = Number(BigInt.asIntN(32, call.args[0]))
    const inode = socketInode(call.tid, fd)
    const object = inode === undefined ? 'none' : this.#objectOf(inode)
    if (inode === undefined || object === 'none') return 'pass'
    try {
      return this.#call(call, trace, { fd, inode, object })
    } catch (error) {
      if (!isLuoError(error, 'ENXIO')) throw error
      // It was closed, and its number is another socket's.
      this.#objects.delete(inode)
      return 'pass'
    }
  }

  #call(
    call: HeldCall,
    trace: Trace,
    of: { fd: number; inode: bigint; object: Exclude<MachineObject, 'none'> },
  ): Outcome {
    const { fd, inode, object } = of
    trace.text = `ioctl(${fd}, 0x${BigInt.asUintN(32, call.args[1]).toString(16)})`
    const struct = new CallStruct(call, object)
    trace.text = `ioctl(${fd}, ${struct.text})`
    if (!this.#calls.valid(call.id)) return 'none'
    const { ioctl, values } = struct
    switch (ioctl.name) {
      case 'createSession':
      case 'retrieveSession':
        return this.#session(call, ioctl.name, inode, struct)
      case 'preserveFd':
        this.#preserve(call.tid, inode, BigInt(values.token), values.fd)
        break
      case 'retrieveFd': {
        const { file } = this.#askForFile(call, 'retrieve', { inode, token: BigInt(values.token) })
        if (!file) throw new LuoError('EIO', 'retrieve: luod gave no file')
        return this.#give(call, file, struct)
      }
      case 'finish':
        if (values.reserved !== 0) throw new LuoError('EINVAL', 'finish: the reserved field is not zero')
        this.#channel.ask('finish', { inode })
        break
      case 'getName': {
        if (values.reserved !== 0) throw new LuoError('EINVAL', 'get name: the reserved field is not zero')
        const { name } = this.#channel.ask('getName', { inode })
        struct.putName(name)
      }
    }
    struct.write()
    return { value: 0n }
  }

  /** Remembered: asking luod would double what a call costs. */
  #objectOf(inode: bigint): MachineObject {
    const known = this.#objects.get(inode)
    if (known) return known
    const { object } = this.#channel.ask('describe', { inode })
    if (object === 'none') return object
    if (this.#objects.size >= MAX_OBJECTS) this.#objects.clear()
    this.#objects.set(inode, object)
    return object
  }

  #preserve(tid: number, inode: bigint, token: bigint, number: number): void {
    using file = this.#fileOf(tid, number)
    this.#channel.ask('preserve', { inode, token, flags: file ? 0 : FLAG_NO_FILE }, file)
  }

  /** A copy of the program's descriptor; undefined when it has none of this number that could be preserved. */
  #fileOf(tid: number, number: number): Fd | undefined {
    try {
      const file = fdOfThread(tid, number)
      if (!isPathOnly(file)) return file
      file.close()
    } catch (error) {
      if (!isLuoError(error, 'EBADF')) throw error
    }
    return undefined
  }

  #session(
    call: HeldCall,
    operation: 'createSession' | 'retrieveSession',
    device: bigint,
    struct: CallStruct,
  ): Outcome {
    const { file, inode } = this.#askForFile(call, operation, { inode: device, name: struct.values.name })
    if (!file) throw new LuoError('EIO', `${operation}: luod gave no session`)
    return this.#give(call, file, struct, () => {
      if (operation === 'retrieveSession') this.#channel.ask('giveBackSession', { inode })
    })
  }

  /** A kernel takes the number first: a program that may open no more is told that, whatever else is wrong. */
  #askForFile(call: HeldCall, ...question: Parameters<MachineChannel['ask']>): ReturnType<MachineChannel['ask']> {
    try {
      return this.#channel.ask(...question)
    } catch (error) {
      if (mayOpenMore(call.tid)) throw error
      throw new LuoError('EMFILE', `${question[0]}: the program may open no more`, { cause: error })
    }
  }

  /**
   * The file becomes the program's, and its number goes into the struct. An answer that cannot be written drops the
   * file, which releases what it stands for; `undo` is for a program that may open no more, as if nothing had been.
   */
  #give(call: HeldCall, given: Fd, struct: CallStruct, undo: () => void = () => {}): Outcome {
    using file = given
    struct.write()
    let number: number
    try {
      number = this.#calls.addFd(call.id, file, { cloexec: true })
    } catch (error) {
      if (isLuoError(error, 'ESRCH')) return 'none'
      undo()
      throw error
    }
    struct.putFd(number)
    struct.write()
    return { value: 0n }
  }
}
