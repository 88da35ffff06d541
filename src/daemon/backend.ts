/**
 * Whether luod has the kernel's device, and what a luod before the kexec has handed over with it.
 *
 * Root's luod takes the device where there is one. That another process has it is an error and no reason to go on without:
 * what workloads preserve would not cross the next kexec, and what the last one brought would never be found.
 */
import { type TakenBack, takeBack } from '../backends/crossing.js'
import { KernelDevice } from '../backends/kernel.js'
import { type ErrnoName, isLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { createMemfd, truncate, writeAt } from '../sys/memfd.js'
import { Daemon, type DaemonOptions, type KernelBackend } from './daemon.js'
import { MACHINE } from './kexec-system.js'

export const BACKENDS = ['auto', 'kernel', 'userspace'] as const
export type BackendChoice = (typeof BACKENDS)[number]

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
  return { device, descriptor: device.descriptor, system: MACHINE }
}

/**
 * A luod that begins: with nothing, or with what came over a kexec. Owns `listener`. `finish` lets go of the kernel's
 * sessions, and answers what refused that. LUO_RECORDS, LUO_RECORDS_VERSION: what came over cannot be taken back.
 */
export function beginWith(
  listener: Fd,
  open: () => KernelBackend | undefined,
  options: Omit<DaemonOptions, 'listener' | 'kernel'>,
): { daemon: Daemon; finish(): LuoError[] } {
  let kernel: KernelBackend | undefined
  let taken: TakenBack | undefined
  try {
    kernel = open()
    taken = kernel && takeBack(kernel.device)
  } catch (error) {
    listener.close()
    kernel?.device.close()
    throw error
  }
  if (!taken) return { daemon: Daemon.begin({ ...options, kernel, listener }), finish: () => [] }
  const { crossing, lost, files } = taken
  const records = createMemfd('luod-records')
  const descriptors = new Map([
    ['listener', listener],
    ['records', records],
  ])
  for (const [key, fd] of files) descriptors.set(`file/${key}`, fd)
  truncate(records, taken.records.length)
  writeAt(records, taken.records, 0)
  const daemon = Daemon.restore({ ...options, kernel, descriptors, mode: 'recover' })
  daemon.arrived({ luod: crossing.luod, times: crossing.times, lost })
  return { daemon, finish: () => taken.finish() }
}
