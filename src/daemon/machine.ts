/**
 * An emulated machine: a device of its own, with its sessions and its generations, for unmodified programs. Their
 * notifiers (`luoctl emulate`) ask here what each intercepted call answers.
 *
 * What they have is in `machine-things.ts`, how they ask in `machine-channels.ts`. A kexec hands everything over, then
 * every notifier ends its programs, and when the last has gone the next generation begins. Whoever fails to end in time
 * is killed.
 */
import { FLAG_NO_FILE, type MachineAnswer, type MachineRequest } from '../abi/machine.js'
import { Generation, type GenerationOptions, type Handover } from '../backends/generation.js'
import type { GenerationState } from '../backends/generation-state.js'
import { asLuoError, LuoError } from '../errors.js'
import type { HandlerContext } from '../handlers/context.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { errnoNumber } from '../sys/ffi.js'
import { Faults, type SavedFaults } from './failing-handlers.js'
import { MachineChannels, type Notifier, type SavedNotifier } from './machine-channels.js'
import { deviceThing, MachineThings, type SavedThing, sessionThing } from './machine-things.js'
import { step } from './steps.js'
import { Turnstile } from './turnstile.js'

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

/** All of a machine, for a luod that goes on with it. Descriptors are those of the machine that was saved. */
export interface MachineState {
  uid: number
  name: string
  handlers: MachineHandlers
  liveupdateNumber: bigint
  faults: SavedFaults
  generation: GenerationState
  /** What programs have. */
  things: SavedThing[]
  notifiers: SavedNotifier[]
}

export class Machine {
  readonly uid: number
  readonly name: string
  readonly faults = new Faults()
  readonly #options: MachineOptions
  readonly #turnstile = new Turnstile()
  readonly #things = new MachineThings(this.#turnstile, () => this.#charge())
  readonly #channels = new MachineChannels({
    turnstile: this.#turnstile,
    answer: (request, fds) => this.#answer(request, fds),
    onAbsentGone: (notifier) => this.detach(notifier),
    onDefect: (error, action) => this.#options.onDefect(error, action),
  })
  readonly #onEmpty: () => void
  #generation: Generation
  /** Of the kexecs of this machine. */
  #liveupdateNumber = 0n
  /** Descriptors that its user was charged for. */
  #charged = 0
  /** Set while the programs are being ended. */
  #ending: { ended: Promise<void>; resolve: () => void } | undefined
  #closed = false

  constructor(uid: number, name: string, options: MachineOptions, onEmpty: () => void, from?: GenerationState) {
    this.uid = uid
    this.name = name
    this.#options = options
    this.#onEmpty = onEmpty
    try {
      this.#generation = from ? Generation.restore(this.#generationOptions(), from) : this.#begin()
    } catch (error) {
      this.#things.close()
      throw error
    }
  }

  /**
   * Goes on with what another luod has saved. The descriptors are this machine's; when this fails they are to be
   * closed.
   */
  static restore(state: MachineState, options: MachineOptions, onEmpty: () => void): Machine {
    step('takeover.machine')
    const machine = new Machine(state.uid, state.name, options, onEmpty, state.generation)
    try {
      machine.#restore(state)
      return machine
    } catch (error) {
      machine.close()
      throw error
    }
  }

  #restore({ liveupdateNumber, faults, things, notifiers }: MachineState): void {
    this.#liveupdateNumber = liveupdateNumber
    this.faults.restore(faults)
    const held = { outgoing: this.#generation.held('outgoing'), incoming: this.#generation.held('incoming') }
    for (const saved of things) {
      const { device } = this.#generation
      const { session: named } = saved
      const session = named && held[named.direction].get(named.name)
      const thing = session ? sessionThing(session) : !named && device ? deviceThing(device) : undefined
      if (!thing) throw new LuoError('LUO_RECORDS', `machine ${this.name}: a program has ${named?.name ?? 'a device'}`)
      this.#things.adopt(saved, thing)
    }
    for (const saved of notifiers) this.#channels.adopt(saved)
    this.#charge()
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
    return this.#channels.attach(notifier)
  }

  /** One that another luod knew is back: its channel goes on. LUO_NOT_FOUND when there is none that could be it. */
  returns(notifier: Notifier): void {
    if (!this.#channels.returns(notifier)) {
      throw new LuoError('LUO_NOT_FOUND', `come back to machine ${this.name}: it does not know this notifier`)
    }
    if (this.#ending) notifier.endPrograms()
  }

  /** Who was there before and has not come back. */
  forgetAbsent(): void {
    for (const notifier of this.#channels.absent()) this.detach(notifier)
  }

  /** Answers nothing, and lets nothing happen, until `resume`. */
  pause(): void {
    this.#turnstile.pause()
    this.#channels.stopListening()
  }

  resume(): void {
    if (!this.#turnstile.paused) return
    step('upgrade.resume')
    this.#channels.listenAgain()
    this.#turnstile.resume()
    this.#channels.serveHungUp()
  }

  /** LUO_UPDATING when no other luod could go on with it now. */
  mustBeReplaceable(): void {
    const action = `upgrade luod: machine ${this.name} of uid ${this.uid}`
    if (this.#ending) throw new LuoError('LUO_UPDATING', `${action} ends its programs; wait for it`)
    if (this.#generation.sharesState) throw new LuoError('LUO_UPDATING', `${action} holds huge pages; end it first`)
  }

  /** For a luod that goes on with it, while it is paused. */
  save(): MachineState {
    const { uid, name, handlers, liveupdateNumber } = this
    return {
      ...{ uid, name, handlers, liveupdateNumber, things: this.#things.save(), faults: this.faults.save() },
      generation: this.#generation.save(),
      notifiers: this.#channels.save(),
    }
  }

  detach(notifier: Notifier): void {
    if (!this.#channels.detach(notifier)) return
    if (this.#channels.size > 0) return
    // What its programs held has hung up by now; whoever outlived a killed notifier can do nothing with it.
    if (!this.#closed) this.#things.drain()
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
    this.#things.drain()
    const handover = this.#generation.kexec()
    this.#liveupdateNumber = this.#liveupdateNumber + 1n
    this.#things.forget()
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
      for (const notifier of this.#channels.notifiers()) notifier.kill()
    }, END_PROGRAMS_MS)
    for (const notifier of this.#channels.notifiers()) notifier.endPrograms()
    await ended
    clearTimeout(late)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#ending?.resolve()
    this.#ending = undefined
    this.#channels.close()
    this.#things.forget()
    this.#turnstile.close()
    this.#things.close()
    this.#generation.close()
    this.#charge(0)
  }

  #begin(handover?: Handover): Generation {
    return Generation.begin({ ...this.#generationOptions(), ...(handover ? { handover } : {}) })
  }

  #generationOptions(): Omit<GenerationOptions, 'handover'> {
    const { register, handlers, onDefect } = this.#options
    return {
      register: (context) => register(context, handlers, this.faults),
      beforeDeserialize: () => this.faults.check('deserialize'),
      onDefect,
      onFile: (file, token) => this.faults.know(file, BigInt(token)),
    }
  }

  #charge(files = this.#things.size + this.#generation.openFiles): void {
    this.#options.changeFiles(files - this.#charged)
    this.#charged = files
  }

  // --- requests ------------------------------------------------------------------------------------------------------

  #answer(request: MachineRequest, fds: Fd[]): { answer: MachineAnswer; file?: Fd } {
    const nothing = { errno: 0, object: 'none', inode: 0n, name: '' } as const
    try {
      this.#things.drain()
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
    const things = this.#things
    switch (operation) {
      case 'describe':
        return { object: things.describe(inode) }
      case 'open':
        this.#mayHoldMore()
        return things.give(deviceThing(this.#generation.open()))
      case 'createSession':
        this.#mayHoldMore()
        return things.give(sessionThing(things.device(inode).createSession(name)))
      case 'retrieveSession':
        return things.give(sessionThing(things.device(inode).retrieveSession(name)))
      case 'giveBackSession':
        things.giveBack(inode)
        return {}
      case 'preserve':
        this.#mayHoldMore()
        this.faults.during(request.token, () =>
          things.session(inode).preserve(token, flags & FLAG_NO_FILE ? undefined : fds[0]),
        )
        return {}
      case 'retrieve':
        return { file: this.faults.during(request.token, () => things.session(inode).retrieve(token)) }
      case 'finish':
        things.session(inode).finish()
        return {}
      case 'getName':
        return { name: things.session(inode).name }
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
}
