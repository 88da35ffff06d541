/**
 * An emulated machine: a device of its own, with its sessions and its generations, for unmodified programs. Their
 * notifiers (`luoctl emulate`) ask here what each intercepted call answers.
 *
 * A program's device and its sessions are ends of socket pairs, known by their inodes; the last close of one is a
 * hang-up here. A kexec hands everything over, then every notifier ends its programs, and when the last has gone the
 * next generation begins. Whoever fails to end in time is killed.
 */
import {
  decodeMachineRequest,
  encodeMachineAnswer,
  FLAG_NO_FILE,
  type MachineAnswer,
  type MachineRequest,
} from '../abi/machine.js'
import { type Device, type DeviceSession, Generation, type Handover } from '../backends/generation.js'
import { asLuoError, LuoError } from '../errors.js'
import type { HandlerContext } from '../handlers/context.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { errnoNumber } from '../sys/ffi.js'
import { fileInfo } from '../sys/file-info.js'
import { Poller, type Registration } from '../sys/poller.js'
import { receive, send, socketPair } from '../sys/unix.js'
import { Faults } from './failing-handlers.js'
import { Lifetimes } from './lifetime.js'

/** Requests of one notifier in one turn. */
const MAX_REQUESTS = 16
/** How long the programs of a machine may take to end at a kexec. */
export const END_PROGRAMS_MS = 10_000

/** What the handlers of one machine take, for as long as it is there. */
export type MachineHandlers = 'kernel' | 'all'

export interface MachineOptions {
  handlers: MachineHandlers
  register(context: HandlerContext, handlers: MachineHandlers, faults: Faults): void
  onDefect(error: unknown, action: string): void
  /** Throws when its user may not have one more descriptor of luod. */
  checkFiles(): void
  changeFiles(by: number): void
}

type MachineThing = { kind: 'device'; device: Device } | { kind: 'session'; session: DeviceSession }

export interface Notifier {
  readonly pid: number
  /** End all programs, and then yourself. */
  endPrograms(): void
  kill(): void
}

export class Machine {
  readonly uid: number
  readonly name: string
  readonly faults = new Faults()
  readonly #options: MachineOptions
  readonly #lifetimes = new Lifetimes()
  readonly #things = new Map<bigint, MachineThing>()
  readonly #channels = new Map<Notifier, { fd: Fd; watch: Registration }>()
  readonly #onEmpty: () => void
  #generation: Generation
  /** Of the kexecs of this machine. */
  #liveupdateNumber = 0n
  /** Descriptors that its user was charged for. */
  #charged = 0
  /** Set while the programs are being ended. */
  #ending: { ended: Promise<void>; resolve: () => void } | undefined
  #closed = false

  constructor(uid: number, name: string, options: MachineOptions, onEmpty: () => void) {
    this.uid = uid
    this.name = name
    this.#options = options
    this.#onEmpty = onEmpty
    this.#generation = this.#begin()
  }

  get liveupdateNumber(): bigint {
    return this.#liveupdateNumber
  }

  get handlers(): MachineHandlers {
    return this.#options.handlers
  }

  /** Nobody runs a program on it, and it has nothing that one may come for. */
  get idle(): boolean {
    return this.#channels.size === 0 && !this.#ending && !this.holdsState
  }

  get notifiers(): number {
    return this.#channels.size
  }

  /** Whether it has something that a program may come for. */
  get holdsState(): boolean {
    return this.#generation.holdsState
  }

  /** A notifier's channel, its end owned by the caller. EBUSY while a kexec ends the programs. */
  attach(notifier: Notifier): Fd {
    if (this.#ending) throw new LuoError('EBUSY', `join machine ${this.name}: its programs are being ended by a kexec`)
    const [fd, theirs] = socketPair('packets')
    try {
      const watch = Poller.shared().add(fd, { read: true, write: false }, () => this.#serve(notifier, fd))
      this.#channels.set(notifier, { fd, watch })
      return theirs
    } catch (error) {
      closeAll([fd, theirs])
      throw error
    }
  }

  detach(notifier: Notifier): void {
    const channel = this.#channels.get(notifier)
    if (!channel) return
    this.#channels.delete(notifier)
    channel.watch.close()
    channel.fd.close()
    if (this.#channels.size > 0) return
    // What its programs held has hung up by now; whoever outlived a killed notifier can do nothing with it.
    if (!this.#closed) this.#lifetimes.drain()
    this.faults.set([])
    this.#ending?.resolve()
    this.#ending = undefined
    this.#onEmpty()
  }

  /**
   * Throws, and nothing has changed, when a file cannot be frozen. Otherwise the next generation begins, and `ended`
   * resolves when the programs of the one before are gone.
   */
  kexec(): { ended: Promise<void> } {
    if (this.#ending) throw new LuoError('EBUSY', `kexec of machine ${this.name}: one is under way`)
    this.#lifetimes.drain()
    const handover = this.#generation.kexec()
    this.#liveupdateNumber = this.#liveupdateNumber + 1n
    this.#forgetThings()
    this.#generation = this.#begin(handover)
    this.#charge()
    return { ended: this.endPrograms() }
  }

  /** Resolves when every program has ended. */
  async endPrograms(): Promise<void> {
    if (this.#ending) return this.#ending.ended
    if (this.#channels.size === 0) return
    let resolve = () => {}
    const ended = new Promise<void>((done) => {
      resolve = done
    })
    this.#ending = { ended, resolve }
    const late = setTimeout(() => {
      for (const notifier of this.#channels.keys()) notifier.kill()
    }, END_PROGRAMS_MS)
    for (const notifier of this.#channels.keys()) notifier.endPrograms()
    await ended
    clearTimeout(late)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#ending?.resolve()
    this.#ending = undefined
    for (const { fd, watch } of this.#channels.values()) {
      watch.close()
      fd.close()
    }
    this.#channels.clear()
    this.#forgetThings()
    this.#lifetimes.close()
    this.#generation.close()
    this.#charge(0)
  }

  #begin(handover?: Handover): Generation {
    const { register, handlers, onDefect } = this.#options
    return Generation.begin({
      register: (context) => register(context, handlers, this.faults),
      beforeDeserialize: () => this.faults.check('deserialize'),
      onDefect,
      ...(handover ? { handover } : {}),
    })
  }

  #charge(files = this.#things.size + this.#generation.openFiles): void {
    this.#options.changeFiles(files - this.#charged)
    this.#charged = files
  }

  #forgetThings(): void {
    for (const thing of this.#things.values()) if (thing.kind === 'device') thing.device.close()
    this.#things.clear()
    this.#lifetimes.forget()
  }

  // --- requests -------------------------------------------------------------------------------------------------------

  #serve(notifier: Notifier, fd: Fd): void {
    try {
      for (let count = 0; count < MAX_REQUESTS && !fd.closed; count++) {
        const got = receive(fd)
        if (!got) return
        if (got.bytes.length === 0 || got.truncated) {
          closeAll(got.fds)
          throw new LuoError('LUO_PROTOCOL', 'receive a request of a machine: it ended, or its file was cut off')
        }
        const { answer, file } = this.#answer(decodeMachineRequest(got.bytes), got.fds)
        try {
          const sent = send(fd, encodeMachineAnswer(answer), file ? [file] : [])
          if (sent === 0) throw new LuoError('LUO_SLOW_PEER', 'a notifier does not take its answers')
        } finally {
          file?.close()
        }
      }
    } catch (error) {
      if (!(error instanceof LuoError)) this.#options.onDefect(error, 'answer a notifier')
      // It breaks the protocol, or is gone: its programs get ENODEV from here on.
      const channel = this.#channels.get(notifier)
      channel?.watch.close()
      channel?.fd.close()
    }
  }

  #answer(request: MachineRequest, fds: Fd[]): { answer: MachineAnswer; file?: Fd } {
    const nothing = { errno: 0, object: 'none', inode: 0n, name: '' } as const
    try {
      this.#lifetimes.drain()
      if (this.#ending) throw new LuoError('ENODEV', 'the machine is in a kexec')
      const { file, ...answer } = this.#do(request, fds)
      return { answer: { ...nothing, ...answer }, ...(file ? { file } : {}) }
    } catch (error) {
      const { code } = asLuoError(error, 'EIO', request.operation)
      return { answer: { ...nothing, errno: errnoNumber(code as `E${string}`) } }
    } finally {
      closeAll(fds)
      this.#charge()
    }
  }

  #do(request: MachineRequest, fds: readonly Fd[]): Partial<MachineAnswer> & { file?: Fd } {
    const { operation, inode, name, flags } = request
    const token = String(request.token)
    switch (operation) {
      case 'describe':
        return { object: this.#describe(inode) }
      case 'open': {
        this.#mayHoldMore()
        const device = this.#generation.open()
        return this.#give({ kind: 'device', device }, () => device.close())
      }
      case 'createSession': {
        this.#mayHoldMore()
        const session = this.#device(inode).createSession(name)
        return this.#give({ kind: 'session', session }, () => session.close())
      }
      case 'retrieveSession': {
        const session = this.#device(inode).retrieveSession(name)
        return this.#give({ kind: 'session', session }, () => session.close())
      }
      case 'giveBackSession':
        return this.#giveBack(inode)
      case 'preserve':
        this.#mayHoldMore()
        this.faults.during(request.token, () =>
          this.#session(inode).preserve(token, flags & FLAG_NO_FILE ? undefined : fds[0]),
        )
        return {}
      case 'retrieve':
        return { file: this.faults.during(request.token, () => this.#session(inode).retrieve(token)) }
      case 'finish':
        this.#session(inode).finish()
        return {}
      case 'getName':
        return { name: this.#session(inode).name }
      case 'kexec':
        // What fails is thrown here; the rest goes on without whoever asked, who is ended by it.
        void this.kexec()
        return {}
    }
  }

  /** The errno of a kernel that can record no more. */
  #mayHoldMore(): void {
    try {
      this.#options.checkFiles()
    } catch (cause) {
      throw new LuoError('ENOSPC', `machine ${this.name}: its user has too much`, { cause })
    }
  }

  /** An end of a socket pair that stands for the thing, whose last close is `release`. */
  #give(thing: MachineThing, release: () => void): Partial<MachineAnswer> & { file: Fd } {
    try {
      let key = 0n
      const { fd } = this.#lifetimes.create({
        session: thing.kind === 'session' ? thing.session.name : '',
        pid: 0,
        onEnded: () => {
          this.#things.delete(key)
          release()
          this.#charge()
        },
      })
      key = BigInt(fileInfo(fd).ino)
      this.#things.set(key, thing)
      return { file: fd, inode: key, object: this.#describe(key) }
    } catch (error) {
      release()
      throw error
    }
  }

  #giveBack(inode: bigint): Record<string, never> {
    const thing = this.#things.get(inode)
    if (thing?.kind === 'session') thing.session.giveBack()
    return {}
  }

  #describe(inode: bigint): MachineAnswer['object'] {
    const thing = this.#things.get(inode)
    if (!thing) return 'none'
    return thing.kind === 'device' ? 'device' : thing.session.direction
  }

  #device(inode: bigint): Device {
    const thing = this.#things.get(inode)
    if (!thing) throw nothingThere()
    if (thing.kind === 'device') return thing.device
    throw new LuoError('EINVAL', 'a call on the device: this is none')
  }

  #session(inode: bigint): DeviceSession {
    const thing = this.#things.get(inode)
    if (!thing) throw nothingThere()
    if (thing.kind === 'session') return thing.session
    throw new LuoError('EINVAL', 'a call on a session: this is none')
  }
}

/** A notifier may remember what has gone, and its number may be another file's by now. */
function nothingThere(): LuoError {
  return new LuoError('ENXIO', 'a call on a descriptor that is nothing of this machine')
}
