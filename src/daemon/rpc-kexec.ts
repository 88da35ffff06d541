/** What root asks of a luod that has the kernel's device: kexecs, and the kernel's own sessions. */
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import type { Call, Handlers, Peer } from '../wire/server.js'
import type { Answers } from './answers.js'
import { kernelSessions, openKernelSession, sessionOpener } from './kernel-sessions.js'
import { Kexec, type KexecHost } from './kexec.js'
import { checkNumber, checkText, DEFAULT_DEADLINE_MS, LIMITS } from './limits.js'

type KexecMethods = 'Kexec' | 'AbortKexec' | 'KernelSessions' | 'OpenKernelSession'

/** Of the sessions of the kernel, which have longer names than ours. */
const MAX_DROP = 1_000

/** The one kexec that there may be. */
export class Kexecs {
  readonly #host: KexecHost | undefined
  #current: Kexec | undefined

  /** Without a host this luod does not have the kernel's device. */
  constructor(host: KexecHost | undefined) {
    this.#host = host
  }

  /** The one that is under way. */
  get current(): Kexec | undefined {
    return this.#current?.over ? undefined : this.#current
  }

  get host(): KexecHost {
    if (this.#host) return this.#host
    throw new LuoError(
      'LUO_UNSUPPORTED',
      'kexec: this luod does not have the device of the kernel (luoctl status); luoctl doctor says what it takes',
    )
  }

  start({ input, peer }: Call<'Kexec'>): Kexec {
    mustBeRoot('kexec', peer)
    const { host } = this
    const { deadline_ms, dry_run: dryRun = false, how = 'direct', drop = [] } = input
    const deadlineMs = checkNumber('deadline_ms', deadline_ms ?? DEFAULT_DEADLINE_MS, 1, LIMITS.deadline_ms)
    if (drop.length > MAX_DROP) {
      throw new LuoError('LUO_INVALID_PARAMETER', `kexec: drop names ${drop.length} sessions, and may ${MAX_DROP}`)
    }
    if (this.current) throw new LuoError('LUO_UPDATING', `kexec: one is under way (${this.current.id})`)
    this.#current = new Kexec(host, { deadlineMs, dryRun, how, drop, by: peer })
    return this.#current
  }

  async abort({ peer }: Call<'AbortKexec'>): Promise<string> {
    mustBeRoot('abort the kexec', peer)
    const { current } = this
    if (!current) throw new LuoError('LUO_WRONG_STATE', 'abort the kexec: none is under way')
    await current.abort(peer)
    return current.id
  }
}

/** `device`: the kernel's, if this luod has it; it stays the caller's. */
export function kexecHandlers(kexecs: Kexecs, answers: Answers, device?: Fd): Pick<Handlers, KexecMethods> {
  const opener = device && sessionOpener(device)
  return {
    Kexec: async (call) => {
      const { input, peer, more, reply } = call
      if (!more) throw new LuoError('LUO_INVALID_PARAMETER', 'kexec: ask for more than one reply (more: true)')
      const kexec = await answers.once<Kexec | { kexec: string }>(peer.uid, 'Kexec', input, () => kexecs.start(call), {
        record: (started) => ({ output: { kexec: started instanceof Kexec ? started.id : started.kexec } }),
      })
      if (!(kexec instanceof Kexec)) {
        throw new LuoError('LUO_ABORTED', `kexec ${kexec.kexec}: luod was replaced in the middle of it, which undid it`)
      }
      const stop = kexec.listen((progress) => reply(progress))
      try {
        return { output: await kexec.finished }
      } finally {
        stop()
      }
    },

    AbortKexec: async (call) => {
      checkText('id', call.input.id, LIMITS.id_bytes)
      return { output: { kexec: await kexecs.abort(call) } }
    },

    KernelSessions: ({ peer }) => ({ output: kernelSessions(peer) }),

    OpenKernelSession: (call) => openKernelSession(opener, answers, call),
  }
}

function mustBeRoot(what: string, { uid }: Peer): void {
  if (uid !== 0) throw new LuoError('EPERM', `${what}: uid ${uid} may not, root may`)
}
