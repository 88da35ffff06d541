/**
 * Whether luod has the kernel's device, and what a luod before the kexec has handed over with it.
 *
 * Root's luod takes the device where there is one. That another process has it is an error and no reason to go on
 * without: what workloads preserve would not cross the next kexec, and what the last one brought would never be found.
 */
import type { LiveDevice, LiveSession } from '../backends/contract.js'
import { IncomingSessions, type TakenBack, takeBack } from '../backends/crossing.js'
import { KernelDevice, KernelSession } from '../backends/kernel.js'
import { type ErrnoName, isLuoError, LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { createMemfd, truncate, writeAt } from '../sys/memfd.js'
import { Daemon, type DaemonOptions } from './daemon.js'
import { type KexecSystem, MACHINE } from './kexec-system.js'
import type { OtherVersionNote } from './other-version.js'

export const BACKENDS = ['auto', 'kernel', 'userspace'] as const
export type BackendChoice = (typeof BACKENDS)[number]

export interface KernelBackend {
  /** Owned by the daemon. */
  device: LiveDevice
  /** A session of a descriptor that somebody else kept, which it owns; it throws when it is none. */
  adoptSession(fd: Fd): LiveSession
  /** The device's, for whoever goes on after this luod. */
  descriptor?: Fd
  system: KexecSystem
}

/** The kernel has no live update for us. */
const NONE: readonly ErrnoName[] = ['ENOENT', 'ENODEV', 'ENXIO', 'EACCES', 'EPERM']

export function backendChoice(text: string): BackendChoice {
  const known = BACKENDS.find((backend) => backend === text)
  if (known) return known
  throw new LuoError('LUO_INVALID_PARAMETER', `--backend ${text}: there are ${BACKENDS.join(', ')}`)
}

/** Undefined: this luod works without the kernel's device. */
export function openBackend(choice: BackendChoice): KernelBackend | undefined {
  if (choice === 'userspace' || (choice === 'auto' && process.getuid?.() !== 0)) return undefined
  try {
    return kernelBackend(KernelDevice.open())
  } catch (error) {
    if (choice === 'auto' && NONE.some((code) => isLuoError(error, code))) return undefined
    if (!isLuoError(error, 'EBUSY')) throw error
    throw new LuoError('EBUSY', `${error.message}; or start luod with --backend userspace`, {
      cause: error,
      params: error.params,
    })
  }
}

/** With a device that a luod before this one had open, which is owned by the backend. */
export function adoptBackend(device: Fd): KernelBackend {
  return kernelBackend(KernelDevice.adopt(device))
}

function kernelBackend(device: KernelDevice): KernelBackend {
  return {
    device,
    descriptor: device.descriptor,
    adoptSession: (fd) => KernelSession.adopt(fd),
    system: MACHINE,
  }
}

/**
 * A luod that begins: with nothing, or with what came over a kexec. What it has taken out of the kernel it keeps when
 * `begin` fails, which may be tried again: it would be lost with the last descriptor.
 */
export class Beginning {
  readonly #kernel: KernelBackend | undefined
  readonly #incoming: IncomingSessions | undefined
  readonly #note: OtherVersionNote | undefined

  /**
   * Owns the device of `kernel`. `taken`: sessions that came in, and that the service manager had; owned too. `note`:
   * of a luod before this one.
   */
  constructor(kernel: KernelBackend | undefined, taken: readonly LiveSession[] = [], note?: OtherVersionNote) {
    this.#kernel = kernel
    this.#incoming = kernel && new IncomingSessions(kernel.device, taken)
    this.#note = note
  }

  /** What would be lost with this process. */
  get holds(): readonly LiveSession[] {
    return this.#incoming?.taken ?? []
  }

  /**
   * Owns `listener`, also when it fails. `arrived`: with what came over. `finish` lets go of the kernel's sessions, and
   * answers what refused that. LUO_RECORDS, LUO_RECORDS_VERSION: what came over cannot be taken back.
   */
  begin(
    listener: Fd,
    options: Omit<DaemonOptions, 'listener' | 'kernel'>,
  ): { daemon: Daemon; arrived: boolean; finish(): LuoError[] } {
    const kernel = this.#kernel
    const descriptors = new Map([['listener', listener]])
    try {
      const taken = this.#incoming && this.#takeBack(this.#incoming)
      if (!taken) {
        this.#incoming?.close()
        return { daemon: Daemon.begin({ ...options, kernel, listener }), arrived: false, finish: () => [] }
      }
      const { crossing, lost, files } = taken
      for (const [key, fd] of files) descriptors.set(`file/${key}`, fd)
      const records = createMemfd('luod-records')
      descriptors.set('records', records)
      truncate(records, taken.records.length)
      writeAt(records, taken.records, 0)
      const all = new Map(descriptors)
      // They are its own now, also when it fails.
      descriptors.clear()
      const daemon = Daemon.restore({ ...options, kernel, descriptors: all, mode: 'recover' })
      daemon.arrived({ luod: crossing.luod, times: crossing.times, lost })
      return { daemon, arrived: true, finish: () => taken.finish() }
    } catch (error) {
      closeAll(descriptors.values())
      throw error
    }
  }

  #takeBack(incoming: IncomingSessions): TakenBack | undefined {
    const note = this.#note
    let taken: TakenBack | undefined
    try {
      taken = takeBack(incoming)
    } catch (error) {
      // Before the session that says so is gone.
      throw note && isLuoError(error, 'LUO_RECORDS_VERSION') && error.params.luod !== undefined
        ? noted(note, error)
        : error
    }
    if (taken) {
      note?.remove()
      return taken
    }
    const why = note?.read()
    if (note === undefined || why === undefined) return undefined
    const giveUp = `as a luod before this one has found out; to give it up, remove ${note.path}`
    throw new LuoError('LUO_RECORDS_VERSION', `${why}, ${giveUp}`)
  }

  /** Of one that has failed for good: the kernel finishes what nobody else has a descriptor of. */
  close(): void {
    this.#incoming?.close()
    this.#kernel?.device.close()
  }
}

/** The error, once there is a note of it. */
function noted(note: OtherVersionNote, error: LuoError): LuoError {
  try {
    note.write(error.message)
    return error
  } catch (cause) {
    const why = `${error.message}. Do not start this one again: it would begin with nothing, for there is no note of that`
    return new LuoError(error.code, `${why} (${(cause as Error).message})`, { cause, params: { ...error.params } })
  }
}
