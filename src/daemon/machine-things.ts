/**
 * What the programs of an emulated machine have: its device, and sessions. Each is an end of a socket pair, known by
 * its inode, and its last close, by whoever has one, releases the thing here.
 */
import type { MachineAnswer } from '../abi/machine.js'
import type { Device, DeviceSession } from '../backends/generation.js'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { type Lifetime, type LifetimeOptions, Lifetimes } from './lifetime.js'
import type { Turnstile } from './turnstile.js'

export type MachineThing = { kind: 'device'; device: Device } | { kind: 'session'; session: DeviceSession }

/**
 * For a luod that goes on with it: luod's end, the inode of the program's, and for a session its direction and name.
 */
export interface SavedThing {
  end: Fd
  inode: bigint
  key: string
  session?: { direction: 'outgoing' | 'incoming'; name: string }
}

export class MachineThings {
  readonly #lifetimes: Lifetimes
  readonly #things = new Map<bigint, { thing: MachineThing; lifetime: Lifetime }>()
  readonly #onReleased: () => void

  constructor(turnstile: Turnstile, onReleased: () => void) {
    this.#lifetimes = new Lifetimes(turnstile)
    this.#onReleased = onReleased
  }

  get size(): number {
    return this.#things.size
  }

  /** The end that stands for the thing, which it owns. */
  give(thing: MachineThing): Partial<MachineAnswer> & { file: Fd } {
    let given: ReturnType<Lifetimes['create']> | undefined
    try {
      let inode = 0n
      given = this.#lifetimes.create(this.#lifetimeOf(thing, () => inode))
      const { lifetime, fd } = given
      inode = BigInt(fileInfo(fd).ino)
      this.#things.set(inode, { thing, lifetime })
      return { file: fd, inode, object: this.describe(inode) }
    } catch (error) {
      given?.lifetime.close()
      given?.fd.close()
      release(thing)
      throw error
    }
  }

  /** One that another luod gave out. Owns `end`. */
  adopt({ end, inode, key }: SavedThing, thing: MachineThing): void {
    const options = this.#lifetimeOf(thing, () => inode)
    this.#things.set(inode, { thing, lifetime: this.#lifetimes.adopt(end, key, options) })
  }

  save(): SavedThing[] {
    const saved: SavedThing[] = []
    for (const [inode, { thing, lifetime }] of this.#things) {
      const known = { end: lifetime.end, inode, key: lifetime.inode }
      if (thing.kind === 'device') saved.push(known)
      // One that was given back is about to be closed: no program ever had it.
      else if (!thing.session.closed) saved.push({ ...known, session: nameOf(thing.session) })
    }
    return saved
  }

  /** What was closed before counts from here on. */
  drain(): void {
    this.#lifetimes.drain()
  }

  giveBack(inode: bigint): void {
    const thing = this.#thing(inode)
    if (thing?.kind === 'session') thing.session.giveBack()
  }

  describe(inode: bigint): MachineAnswer['object'] {
    const thing = this.#thing(inode)
    if (!thing) return 'none'
    return thing.kind === 'device' ? 'device' : thing.session.direction
  }

  /** ENXIO, EINVAL. */
  device(inode: bigint): Device {
    const thing = this.#thing(inode)
    if (!thing) throw nothingThere()
    if (thing.kind === 'device') return thing.device
    throw new LuoError('EINVAL', 'a call on the device: this is none')
  }

  /** ENXIO, EINVAL. */
  session(inode: bigint): DeviceSession {
    const thing = this.#thing(inode)
    if (!thing) throw nothingThere()
    if (thing.kind === 'session') return thing.session
    throw new LuoError('EINVAL', 'a call on a session: this is none')
  }

  /** Those of a generation that has ended. */
  forget(): void {
    for (const { thing } of this.#things.values()) if (thing.kind === 'device') thing.device.close()
    this.#things.clear()
    this.#lifetimes.forget()
  }

  close(): void {
    this.#lifetimes.close()
  }

  #thing(inode: bigint): MachineThing | undefined {
    return this.#things.get(inode)?.thing
  }

  #lifetimeOf(thing: MachineThing, inode: () => bigint): LifetimeOptions {
    return {
      session: thing.kind === 'session' ? thing.session.name : '',
      pid: 0,
      onEnded: () => {
        this.#things.delete(inode())
        release(thing)
        this.#onReleased()
      },
    }
  }
}

export function deviceThing(device: Device): MachineThing {
  return { kind: 'device', device }
}

export function sessionThing(session: DeviceSession): MachineThing {
  return { kind: 'session', session }
}

function nameOf({ direction, name }: DeviceSession): { direction: 'outgoing' | 'incoming'; name: string } {
  return { direction, name }
}

function release(thing: MachineThing): void {
  if (thing.kind === 'device') thing.device.close()
  else thing.session.close()
}

/** A notifier may remember what has gone, and its number may be another file's by now. */
function nothingThere(): LuoError {
  return new LuoError('ENXIO', 'a call on a descriptor that is nothing of this machine')
}
