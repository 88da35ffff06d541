/**
 * The notifiers of an emulated machine, each on a channel of its own. What one asks is answered in the turn in which it
 * came; one that breaks the protocol, or does not take its answers, loses its channel, and its programs get ENODEV.
 */
import { decodeMachineRequest, encodeMachineAnswer, type MachineAnswer, type MachineRequest } from '../abi/machine.js'
import { LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { Poller, type Registration } from '../sys/poller.js'
import { receive, send, socketPair } from '../sys/unix.js'
import { step } from './steps.js'
import type { Turnstile } from './turnstile.js'

/** Requests of one notifier in one turn. */
const MAX_REQUESTS = 16

export interface Notifier {
  /** Of its request. */
  readonly id: string
  readonly pid: number
  /** End all programs, and then yourself. */
  endPrograms(): void
  kill(): void
}

/** For a luod that goes on with it. */
export interface SavedNotifier {
  id: string
  pid: number
  channel: Fd
}

export interface ChannelsOptions {
  /** While it is paused nobody is answered. */
  turnstile: Turnstile
  /** Owns `fds`; its file is the caller's. */
  answer(request: MachineRequest, fds: Fd[]): { answer: MachineAnswer; file?: Fd }
  /** The channel of one that did not come back has ended: there is no connection whose end would tell. */
  onAbsentGone(notifier: Notifier): void
  onDefect(error: unknown, action: string): void
}

interface Channel {
  notifier: Notifier
  fd: Fd
  watch: Registration
  /** Its notifier has not come back since luod was replaced. Its questions are answered all the same. */
  absent: boolean
}

export class MachineChannels {
  readonly #options: ChannelsOptions
  readonly #channels = new Map<Notifier, Channel>()
  /** Whose channels have ended while the turnstile was paused. */
  readonly #hungUp = new Set<Notifier>()

  constructor(options: ChannelsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#channels.size
  }

  notifiers(): Iterable<Notifier> {
    return this.#channels.keys()
  }

  /** Those that another luod knew, and that have not come back. */
  absent(): Notifier[] {
    return [...this.#channels.values()].filter(({ absent }) => absent).map(({ notifier }) => notifier)
  }

  /** The notifier's end of its channel, owned by the caller. */
  attach(notifier: Notifier): Fd {
    const [fd, theirs] = socketPair('packets')
    try {
      this.#add(notifier, fd, false)
      return theirs
    } catch (error) {
      closeAll([fd, theirs])
      throw error
    }
  }

  /** One that another luod knew; it is absent until it comes back. */
  adopt({ id, pid, channel }: SavedNotifier): void {
    this.#add({ id, pid, endPrograms: () => {}, kill: () => {} }, channel, true)
  }

  #add(notifier: Notifier, fd: Fd, absent: boolean): void {
    const watch = Poller.shared().add(fd, { read: true, write: false }, () => {
      if (!this.#options.turnstile.paused) return this.#serve(channel.notifier, fd)
      // It has hung up, which is told again and again: `serveHungUp` looks.
      channel.watch.close()
      this.#hungUp.add(channel.notifier)
    })
    const channel: Channel = { notifier, fd, watch, absent }
    this.#channels.set(notifier, channel)
  }

  /** An absent one is back, and its channel goes on. False when there is none that could be it. */
  returns(notifier: Notifier): boolean {
    for (const [known, channel] of this.#channels) {
      if (!channel.absent || known.id !== notifier.id || known.pid !== notifier.pid) continue
      step('takeover.notifier')
      // It is watched as before, so that this needs nothing that it might not get.
      Object.assign(channel, { notifier, absent: false })
      this.#channels.delete(known)
      this.#channels.set(notifier, channel)
      return true
    }
    return false
  }

  /** False when it has none. */
  detach(notifier: Notifier): boolean {
    const channel = this.#channels.get(notifier)
    if (!channel) return false
    this.#channels.delete(notifier)
    channel.watch.close()
    channel.fd.close()
    return true
  }

  close(): void {
    for (const { fd, watch } of this.#channels.values()) {
      watch.close()
      fd.close()
    }
    this.#channels.clear()
  }

  // --- while luod stands still ---------------------------------------------------------------------------------------

  /**
   * Nobody is listened to. They are watched all the while, so that `listenAgain` needs nothing that it might not get.
   */
  stopListening(): void {
    for (const { watch } of this.#channels.values()) watch.update({ read: false, write: false })
  }

  listenAgain(): void {
    for (const { watch } of this.#channels.values()) watch.update({ read: true, write: false })
  }

  /** When the turnstile is open again: what they asked before, and then their end. */
  serveHungUp(): void {
    for (const notifier of this.#hungUp) {
      const { fd } = this.#channels.get(notifier) ?? {}
      while (fd && !fd.closed) this.#serve(notifier, fd)
    }
    this.#hungUp.clear()
  }

  save(): SavedNotifier[] {
    const attached = [...this.#channels].filter(([, { fd }]) => !fd.closed)
    return attached.map(([{ id, pid }, { fd }]) => ({ id, pid, channel: fd }))
  }

  // --- requests ------------------------------------------------------------------------------------------------------

  #serve(notifier: Notifier, fd: Fd): void {
    try {
      for (let count = 0; count < MAX_REQUESTS && !fd.closed; count++) {
        const got = receive(fd)
        if (!got) return
        if (got.bytes.length === 0 || got.truncated) {
          closeAll(got.fds)
          throw new LuoError('LUO_PROTOCOL', 'receive a request of a machine: it ended, or its file was cut off')
        }
        const { answer, file } = this.#options.answer(decodeMachineRequest(got.bytes), got.fds)
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
      if (channel?.absent) this.#options.onAbsentGone(notifier)
    }
  }
}
