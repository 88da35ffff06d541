/** Which system calls of an emulated program are looked at: opens that may mean the device, and live update's own. */
import { LuoError } from '../errors.js'
import { AUDIT_ARCH_X86_64, buildFilter, type FilterRule } from '../sys/seccomp.js'

/** x86-64. */
export const CALLS = {
  open: 2,
  ioctl: 16,
  creat: 85,
  reboot: 169,
  kexecLoad: 246,
  openat: 257,
  kexecFileLoad: 320,
  openat2: 437,
} as const

const O_ACCMODE = 3
const O_NOCTTY = 0o400
const O_CLOEXEC = 0o2000000
const IOCTL_TYPE_MASK = 0xff00
const IOCTL_TYPE = 0xba00

/**
 * A program opens thousands of files for reading, nearly all of them with O_CLOEXEC (libraries, interpreters) or
 * O_NOCTTY (compilers). These are not looked at, so that they cost nothing; every other open is.
 */
function opens(number: number, argument: number): FilterRule {
  const values = [O_CLOEXEC, O_NOCTTY, O_CLOEXEC | O_NOCTTY]
  return { number, when: [{ argument, mask: O_ACCMODE | O_CLOEXEC | O_NOCTTY, values, except: true }] }
}

export function emulationFilter(): Uint8Array {
  if (process.arch !== 'x64') {
    throw new LuoError(
      'LUO_UNSUPPORTED',
      `emulate on ${process.arch}: only x86-64 has been run; its tables are not known`,
    )
  }
  return buildFilter(AUDIT_ARCH_X86_64, [
    opens(CALLS.open, 1),
    opens(CALLS.openat, 2),
    { number: CALLS.openat2 },
    { number: CALLS.creat },
    { number: CALLS.ioctl, when: [{ argument: 1, mask: IOCTL_TYPE_MASK, values: [IOCTL_TYPE] }] },
    { number: CALLS.kexecLoad },
    { number: CALLS.kexecFileLoad },
    { number: CALLS.reboot },
  ])
}
