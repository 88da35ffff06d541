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
import type { KernelBackend } from './daemon.js'
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

export interface Arrival {
  taken: TakenBack
  /** What `Daemon.restore` asks for, but for the listener. Owned by the caller. */
  descriptors: Map<string, Fd>
}

/** What came over the last kexec; undefined when nothing did. LUO_RECORDS, LUO_RECORDS_VERSION. */
export function arrivalOf({ device }: KernelBackend): Arrival | undefined {
  const taken = takeBack(device)
  if (!taken) return undefined
  const records = createMemfd('luod-records')
  truncate(records, taken.records.length)
  writeAt(records, taken.records, 0)
  const descriptors = new Map([['records', records]])
  for (const [key, fd] of taken.files) descriptors.set(`file/${key}`, fd)
  return { taken, descriptors }
}
