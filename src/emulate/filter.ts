/**
 * Which system calls of an emulated program are looked at: opens that may mean the device, what changes where a path
 * leads, and live update's own.
 */
import { LuoError } from '../errors.js'
import { AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64, buildFilter, type FilterRule } from '../sys/seccomp.js'

/** x86-64. */
export const CALLS = {
  open: 2,
  ioctl: 16,
  creat: 85,
  pivotRoot: 155,
  chroot: 161,
  reboot: 169,
  kexecLoad: 246,
  openat: 257,
  setns: 308,
  kexecFileLoad: 320,
  openat2: 437,
} as const

/** arm64 has neither open nor creat. */
export const ARM64_CALLS = {
  ioctl: 29,
  pivotRoot: 41,
  chroot: 51,
  openat: 56,
  kexecLoad: 104,
  reboot: 142,
  setns: 268,
  kexecFileLoad: 294,
  openat2: 437,
} as const

const MACHINES = {
  x64: { arch: AUDIT_ARCH_X86_64, calls: CALLS },
  arm64: { arch: AUDIT_ARCH_AARCH64, calls: ARM64_CALLS },
} as const

const O_ACCMODE = 3
const O_CREAT = 0o100
const O_NOCTTY = 0o400
const O_CLOEXEC = 0o2000000
const IOCTL_TYPE_MASK = 0xff00
const IOCTL_TYPE = 0xba00

/**
 * A program opens thousands of files for reading, nearly all of them with O_CLOEXEC (libraries, interpreters) or
 * O_NOCTTY (compilers). These are looked at only when asked for, so that they cost nothing; every other open is, and with
 * O_CREAT one of these too: it would make a file of the device's name.
 */
function opens(number: number, argument: number, every: boolean): FilterRule {
  if (every) return { number }
  const values = [O_CLOEXEC, O_NOCTTY, O_CLOEXEC | O_NOCTTY]
  return { number, when: [{ argument, mask: O_ACCMODE | O_CREAT | O_CLOEXEC | O_NOCTTY, values, except: true }] }
}

/** LUO_UNSUPPORTED on a machine where nobody has run it. */
export function emulationFilter({ everyOpen = false, machine = process.arch as string } = {}): Uint8Array {
  if (machine === 'x64') return filterFor(machine, everyOpen)
  throw new LuoError('LUO_UNSUPPORTED', `emulate on ${machine}: it has been run on x86-64 only`)
}

export function filterFor(machine: keyof typeof MACHINES, everyOpen: boolean): Uint8Array {
  const { arch, calls } = MACHINES[machine]
  const old = machine === 'x64' ? [opens(CALLS.open, 1, everyOpen), { number: CALLS.creat }] : []
  return buildFilter(arch, [
    ...old,
    opens(calls.openat, 2, everyOpen),
    { number: calls.openat2 },
    { number: calls.ioctl, when: [{ argument: 1, mask: IOCTL_TYPE_MASK, values: [IOCTL_TYPE] }] },
    { number: calls.chroot },
    { number: calls.pivotRoot },
    { number: calls.setns },
    { number: calls.kexecLoad },
    { number: calls.kexecFileLoad },
    { number: calls.reboot },
  ])
}
