/**
 * One generation of the userspace backend: a device, the sessions made through it, and its end, an emulated kexec. What
 * is handed over is real: a sealed image with a KHO tree and the kernel's records in it, and beside it the descriptors
 * of the files that are kept by reference.
 *
 *     Generation.begin → open → sessions … → kexec ──Handover──→ Generation.begin → open → …
 *
 * `kexec` freezes first. What fails before the image is whole leaves everything as it was. What came in is read when
 * the device is first opened; if that fails, every open is EIO, `failure` says why, and what came in is left as it is.
 */

import { type Allocation, HandoverMemory } from '../abi/handover-memory.js'
import { readImage, writeImage } from '../abi/kho.js'
import { decodeLuo, encodeLuo, freeLuo } from '../abi/luo.js'
import { HandlerRegistry } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import type { Session } from '../core/session.js'
import { asLuoError, LuoError } from '../errors.js'
import type { HandlerContext } from '../handlers/context.js'
import { type FileAbout, type HeldFile, heldFiles } from '../handlers/held-file.js'
import { FileSlots, type SlottedFile } from '../handlers/slots.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { addSeals, createMemfd, fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'
import type { LiveDevice, LiveSession } from './contract.js'
import {
  type GenerationState,
  restoreError,
  restoreSessions,
  saveError,
  saveOutgoing,
  saveReceived,
} from './generation-state.js'

/** What one generation hands to the next. Owned by whoever has it. */
export interface Handover {
  /** A sealed memory file; `luoctl inspect` reads it. */
  image: Fd
  files: readonly SlottedFile[]
}

export function closeHandover({ image, files }: Handover): void {
  image.close()
  closeAll(files.map(({ fd }) => fd))
}

export interface GenerationOptions {
  /** Registers the handlers and FLBs of this generation. */
  register(context: HandlerContext): void
  /** Called before what came in is read; what it throws is a failure to read it. */
  beforeDeserialize?: () => void
  /** From the generation before; this one owns it, once it has begun. */
  handover?: Handover
  /** False: live update is switched off, and there is no device. Default true. */
  enabled?: boolean
  /** An operation that must not fail has failed. */
  onDefect?: (error: unknown, action: string) => void
  /** Told of each file that a generation which goes on (`restore`) has got, with its token. */
  onFile?: (file: HeldFile, token: string) => void
}

export class Generation {
  readonly #enabled: boolean
  readonly #beforeDeserialize: (() => void) | undefined
  readonly #orchestrator: Orchestrator<HeldFile, FileAbout>
  readonly #registry: HandlerRegistry<HeldFile>
  readonly #slots: FileSlots
  readonly #memory: HandoverMemory
  /** What came in, for as long as this generation lasts. */
  readonly #image: Fd | undefined
  #received = new HandoverMemory()
  /** Set when the device is first opened. */
  #deserialized: { failure?: LuoError } | undefined
  #device: Device | undefined
  #ended = false

  /** Throws, and `handover` stays the caller's, when a handler cannot be registered. */
  static begin(options: GenerationOptions): Generation {
    return new Generation(options)
  }

  /**
   * Goes on with what another process has saved: the descriptors are this generation's from here on, and on a failure
   * nobody else's. `open` says whether somebody has the device open: it is this one's `device` then.
   */
  static restore(options: Omit<GenerationOptions, 'handover'>, state: GenerationState): Generation {
    const { came } = state
    const handover = came && { image: came.image, files: came.slots }
    const generation = new Generation({ ...options, ...(handover ? { handover } : {}) }, state.memory)
    generation.#restore(state, options.onFile ?? (() => {}))
    return generation
  }

  private constructor(
    { register, handover, enabled = true, onDefect, beforeDeserialize }: GenerationOptions,
    memory: Iterable<Allocation> = [],
  ) {
    this.#enabled = enabled
    this.#memory = HandoverMemory.restore(memory)
    this.#beforeDeserialize = beforeDeserialize
    const registry = new HandlerRegistry<HeldFile>({ enabled })
    this.#registry = registry
    this.#slots = new FileSlots(handover?.files)
    const received = () => this.#received
    if (enabled) register({ registry, slots: this.#slots, memory: this.#memory, received })
    this.#orchestrator = new Orchestrator({ registry, files: heldFiles, ...(onDefect ? { onDefect } : {}) })
    this.#image = handover?.image
  }

  #restore(state: GenerationState, onFile: (file: HeldFile, token: string) => void): void {
    const read = state.came?.read
    if (read) {
      this.#deserialized = 'failure' in read ? { failure: restoreError(read.failure) } : {}
      if (!('failure' in read)) this.#received = HandoverMemory.restore(read.memory)
    }
    restoreSessions(this.#orchestrator, state, onFile)
    if (state.open) this.open()
  }

  /** Whether files in it share state, such as reserved huge pages, that cannot be saved. */
  get sharesState(): boolean {
    return this.#registry.flbs.records().length > 0
  }

  /**
   * All of it as it is, for another process of this kernel (`restore`): one of the two goes on, and the descriptors are
   * still this one's. LUO_WRONG_STATE with state that is shared by files (huge pages), which cannot be handed over so.
   */
  save(): GenerationState {
    this.#mustLast('save it')
    const { flbs } = this.#registry
    if (this.sharesState) throw new LuoError('LUO_WRONG_STATE', 'save this generation: it has huge pages')
    const image = this.#image
    const failure = this.failure
    const read = failure
      ? { failure: saveError(failure) }
      : saveReceived(this.#orchestrator, this.#received, flbs.incomingRecords())
    return {
      memory: [...this.#memory.entries()],
      outgoing: saveOutgoing(this.#orchestrator),
      open: this.#device !== undefined,
      ...(image ? { came: { image, slots: this.#slots.incoming(), ...(this.#deserialized ? { read } : {}) } } : {}),
    }
  }

  /** Whoever has the device open. */
  get device(): Device | undefined {
    return this.#device
  }

  /** Those that somebody has, by their names, for whoever goes on with them. */
  held(direction: 'outgoing' | 'incoming'): Map<string, DeviceSession> {
    const orchestrator = this.#orchestrator
    const sessions = direction === 'outgoing' ? orchestrator.outgoing() : orchestrator.incoming()
    return new Map([...sessions].map((session) => [session.name, new DeviceSession(orchestrator, session)]))
  }

  /** How many transitions there were before; known once the device has been opened. */
  get liveupdateNumber(): bigint {
    return this.#orchestrator.liveupdateNumber
  }

  /** Why every open is EIO. */
  get failure(): LuoError | undefined {
    return this.#deserialized?.failure
  }

  /** Descriptors of preserved files, outgoing and incoming. */
  get openFiles(): number {
    return this.#slots.size
  }

  /** Whether something came in that somebody may still come for. */
  get holdsState(): boolean {
    if (!this.#image || this.#ended) return false
    if (!this.#deserialized || this.#deserialized.failure) return true
    return [...this.#orchestrator.incoming()].length > 0
  }

  /** What came in, to look at: a copy, owned by the caller. */
  image(): Fd | undefined {
    return this.#image?.dup()
  }

  /**
   * The device, for one opener at a time: EBUSY. ENOENT when live update is switched off. EIO when what came in cannot
   * be used.
   */
  open(): Device {
    this.#mustLast('open the device')
    if (!this.#enabled) throw new LuoError('ENOENT', 'open the device: live update is switched off, and there is none')
    this.#deserialized ??= this.#deserialize()
    const { failure } = this.#deserialized
    if (failure) {
      const why = `${failure.message} (${failure.code})`
      throw new LuoError('EIO', `open the device: what was handed over cannot be used: ${why}`, { cause: failure })
    }
    if (this.#device) throw new LuoError('EBUSY', 'open the device: somebody has it open')
    this.#device = new Device(this.#orchestrator, () => {
      this.#device = undefined
    })
    return this.#device
  }

  /**
   * Hands everything over and ends this generation: open devices and sessions are of no use afterwards. What a
   * handler's `freeze` throws, or that there is no memory for the image, is thrown, and nothing has changed.
   */
  kexec(): Handover {
    this.#mustLast('kexec')
    if (!this.#enabled) throw new LuoError('EOPNOTSUPP', 'kexec: live update is switched off')
    // For the number of the live update, which goes on from what came in.
    this.#deserialized ??= this.#deserialize()
    // What nobody has looked at is handed over by nobody: as in the kernel, only what is outgoing crosses.
    this.#orchestrator.freezeAll()
    let luo = 0n
    let image: Fd
    try {
      luo = encodeLuo(this.#memory, this.#orchestrator.serialize())
      image = seal(this.#memory, luo)
    } catch (error) {
      if (luo !== 0n) freeLuo(this.#memory, luo)
      this.#orchestrator.unfreezeAll()
      throw error
    }
    const files = this.#slots.take()
    this.#end({ handedOver: true })
    return { image, files }
  }

  /** The end without a next generation: everything is let go of. */
  close(): void {
    if (!this.#ended) this.#end({ handedOver: false })
  }

  #end(options: { handedOver: boolean }): void {
    this.#ended = true
    this.#orchestrator.end(options)
    this.#slots.close()
    this.#image?.close()
  }

  #deserialize(): { failure?: LuoError } {
    if (!this.#image) return {}
    try {
      this.#beforeDeserialize?.()
      const image = this.#image
      const { memory, luo } = readImage({
        size: fileSize(image),
        read: (offset, length) => {
          const bytes = new Uint8Array(length)
          return bytes.subarray(0, readAt(image, bytes, offset))
        },
      })
      const state = decodeLuo(memory, luo)
      this.#received = memory
      this.#orchestrator.receive(state)
      // The records have done their work; what they point to is freed by the handlers.
      freeLuo(memory, luo)
      return {}
    } catch (error) {
      return { failure: asLuoError(error, 'EIO', 'read what was handed over') }
    }
  }

  #mustLast(action: string): void {
    if (this.#ended) throw new LuoError('LUO_WRONG_STATE', `${action}: this generation has ended`)
  }
}

/** The image in a memory file that nobody can change any more. */
function seal(memory: HandoverMemory, luo: bigint): Fd {
  const { size, pieces } = writeImage(memory, { luo })
  const fd = createMemfd('luo-kho')
  try {
    truncate(fd, Number(size))
    for (const { address, bytes } of pieces) writeAt(fd, bytes, Number(address))
    addSeals(fd, ['write', 'shrink', 'grow', 'seal'])
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

export class Device implements LiveDevice {
  readonly #orchestrator: Orchestrator<HeldFile, FileAbout>
  readonly #onClose: () => void
  #closed = false

  constructor(orchestrator: Orchestrator<HeldFile, FileAbout>, onClose: () => void) {
    this.#orchestrator = orchestrator
    this.#onClose = onClose
  }

  createSession(name: string): DeviceSession {
    this.#mustBeOpen()
    return new DeviceSession(this.#orchestrator, this.#orchestrator.createSession('', name))
  }

  retrieveSession(name: string): DeviceSession {
    this.#mustBeOpen()
    return new DeviceSession(this.#orchestrator, this.#orchestrator.retrieveSession('', name))
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#onClose()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new LuoError('EBADF', 'use the device: it was closed')
  }
}

/** There is one copy of a descriptor here: `close` releases the session. */
export class DeviceSession implements LiveSession {
  readonly #orchestrator: Orchestrator<HeldFile, FileAbout>
  readonly #session: Session<HeldFile, FileAbout>
  #closed = false

  constructor(orchestrator: Orchestrator<HeldFile, FileAbout>, session: Session<HeldFile, FileAbout>) {
    this.#orchestrator = orchestrator
    this.#session = session
  }

  get name(): string {
    return this.#session.name
  }

  get direction(): 'outgoing' | 'incoming' {
    return this.#session.direction
  }

  get closed(): boolean {
    return this.#closed
  }

  preserve(token: string, fd: Fd | undefined): void {
    const session = this.#open()
    if (!fd) {
      const action = `preserve token ${token} in session ${session.name}`
      if (session.direction === 'incoming') throw new LuoError('EINVAL', `${action}: it is incoming`)
      if (session.files.has(token)) throw new LuoError('EEXIST', `${action}: the token is used`)
      throw new LuoError('EBADF', `${action}: the file is not open`)
    }
    const own = fd.dup()
    try {
      const info = fileInfo(own)
      const about = { kind: info.kind, format: undefined, bytes: info.size }
      this.#orchestrator.preserve(session, [{ token, file: { fd: own, info }, about }])
    } catch (error) {
      own.close()
      throw error
    }
  }

  retrieve(token: string): Fd {
    return this.#orchestrator.retrieve(this.#open(), token).fd
  }

  finish(): void {
    this.#orchestrator.finish(this.#open())
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#orchestrator.release(this.#session)
  }

  /** Undo of `retrieveSession`: whoever asked could not be given it. */
  giveBack(): void {
    const session = this.#open()
    if (session.direction !== 'incoming') return
    this.#orchestrator.giveBackSession(session)
    this.#closed = true
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #open(): Session<HeldFile, FileAbout> {
    if (!this.#closed) return this.#session
    throw new LuoError('EBADF', `use session ${this.#session.name}: it was closed`)
  }
}
