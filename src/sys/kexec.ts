/**
 * Kexec: the next kernel is loaded beside the running one, and started by a reboot that skips the firmware. Loading
 * changes nothing but what the reboot would start. The reboot ends every process at once: whoever calls it has stopped
 * what had to be stopped, and has written what had to be written (`sync`, `remountReadOnly`).
 *
 * Failures carry the kernel's errno and say what to do. EPERM has several causes, and names the one that is there.
 */
import { existsSync, readFileSync } from 'node:fs'
import { type ErrnoName, LuoError } from '../errors.js'
import type { Fd } from './fd.js'
import { errno, libc, SYS } from './ffi.js'
import { scratch } from './mapping.js'

/** Of linux/kexec.h. */
const KEXEC_FILE_UNLOAD = 1
const KEXEC_FILE_NO_INITRAMFS = 4
const NO_FD = -1
/** LINUX_REBOOT_CMD_KEXEC of linux/reboot.h. */
const REBOOT_KEXEC = 0x45584543
/** COMMAND_LINE_SIZE of x86 and arm64, with the NUL. */
export const MAX_COMMAND_LINE_BYTES = 2048
/** Bit of linux/capability.h. */
const CAP_SYS_BOOT = 22n
const KEXEC_LOADED = '/sys/kernel/kexec_loaded'
const LOAD_DISABLED = '/proc/sys/kernel/kexec_load_disabled'
const LOCKDOWN = '/sys/kernel/security/lockdown'
const MS_RDONLY = 1
const MS_REMOUNT = 32

export interface NextKernel {
  kernel: Fd
  initrd?: Fd
  /** The whole command line of the next kernel. */
  commandLine: string
}

let area: ReturnType<typeof scratch> | undefined

/** What stands between this process and a kexec. */
export interface KexecPermission {
  /** Whether this process may reboot: CAP_SYS_BOOT. */
  mayReboot: boolean
  /** The sysctl kernel.kexec_load_disabled, which cannot be taken back. */
  loadDisabled: boolean
  /** `none`, `integrity` or `confidentiality`; undefined when the kernel does not say. */
  lockdown: string | undefined
}

export function kexecPermission(): KexecPermission {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(textOf('/proc/self/status') ?? '')?.[1] ?? '0'
  return {
    mayReboot: ((BigInt(`0x${effective}`) >> CAP_SYS_BOOT) & 1n) === 1n,
    loadDisabled: textOf(LOAD_DISABLED)?.trim() === '1',
    lockdown: /\[(\w+)\]/.exec(textOf(LOCKDOWN) ?? '')?.[1],
  }
}

/** Loads what the next kexec starts, in place of what was loaded before. The files stay the caller's. */
export function loadKernel({ kernel, initrd, commandLine }: NextKernel): void {
  const bytes = Buffer.from(`${commandLine}\0`)
  if (bytes.indexOf(0) !== bytes.length - 1 || bytes.length > MAX_COMMAND_LINE_BYTES) {
    const most = MAX_COMMAND_LINE_BYTES - 1
    throw new LuoError('EINVAL', `load a kernel: its command line has ${bytes.length - 1} bytes (${most}, and no NUL)`)
  }
  const flags = initrd ? 0 : KEXEC_FILE_NO_INITRAMFS
  fileLoad('load a kernel', kernel.number, initrd ? initrd.number : NO_FD, bytes, flags)
}

/** What was loaded is loaded no more; that there was nothing is no error. */
export function unloadKernel(): void {
  fileLoad('unload the next kernel', NO_FD, NO_FD, new Uint8Array(), KEXEC_FILE_UNLOAD)
}

export function isKernelLoaded(): boolean {
  return textOf(KEXEC_LOADED)?.trim() === '1'
}

/** Starts the loaded kernel; it returns only by an error, and then nothing has changed. */
export function rebootIntoLoaded(): never {
  libc('reboot', REBOOT_KEXEC)
  throw explained('start the loaded kernel', errno())
}

/** Writes what file systems have not written yet. */
export function sync(): void {
  libc('syscall', SYS.sync)
}

/**
 * Makes every file system on a device read-only, the last mounted first. Answers where, and those that cannot be, with
 * the reason: EBUSY while somebody writes to a file there.
 */
export function remountReadOnly(): { readOnly: string[]; failed: { path: string; code: ErrnoName }[] } {
  const readOnly: string[] = []
  const failed: { path: string; code: ErrnoName }[] = []
  for (const path of writableMounts(textOf('/proc/self/mounts') ?? '').reverse()) {
    if (libc('mount', null, path, null, MS_REMOUNT | MS_RDONLY, null) !== -1) readOnly.push(path)
    else failed.push({ path, code: errno() })
  }
  return { readOnly, failed }
}

/** Undoes it, the first that were mounted first; what cannot be written to any more stays as it is. */
export function remountWritable(paths: readonly string[]): void {
  for (const path of [...paths].reverse()) libc('mount', null, path, null, MS_REMOUNT, null)
}

/** Of the text of /proc/mounts: where file systems on devices are mounted writable, each once. */
export function writableMounts(mounts: string): string[] {
  const paths = new Set<string>()
  for (const line of mounts.split('\n')) {
    const [source = '', path = '', , options = ''] = line.split(' ')
    if (!source.startsWith('/dev/') || !options.split(',').includes('rw')) continue
    // Spaces and the like are octal there.
    paths.add(path.replace(/\\(\d{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8))))
  }
  return [...paths]
}

/** `line` with its NUL, empty for none. */
function fileLoad(action: string, kernel: number, initrd: number, line: Uint8Array, flags: number): void {
  area ??= scratch(MAX_COMMAND_LINE_BYTES)
  new Uint8Array(area.buffer).set(line)
  const result = libc('syscall', SYS.kexecFileLoad, kernel, initrd, line.length, area.address, flags)
  if (result === -1) throw explained(action, errno())
}

function explained(action: string, code: ErrnoName): LuoError {
  return new LuoError(code, `${action}: ${ADVICE[code]?.() ?? code}`)
}

const unsigned = () => 'the image is not signed by a key that this kernel trusts, and it takes no other'

const ADVICE: Partial<Record<ErrnoName, () => string>> = {
  EPERM: () => forbidden(kexecPermission()),
  ENOEXEC: () => 'the file is no kernel image that can be started so (a bzImage with CONFIG_RELOCATABLE, a PE image)',
  ENOSYS: () => 'this kernel was built without CONFIG_KEXEC_FILE',
  EBUSY: () => 'another kexec is being loaded or started; try again',
  EADDRNOTAVAIL: () => NO_ROOM,
  ENOMEM: () => NO_ROOM,
  EKEYREJECTED: unsigned,
  ENOKEY: unsigned,
  ENODATA: unsigned,
}
const NO_ROOM =
  'there is no room for it in memory: with kho=on it goes into the scratch memory (boot with kho_scratch=)'

function forbidden({ mayReboot, loadDisabled, lockdown }: KexecPermission): string {
  if (!mayReboot) return 'not permitted: it takes CAP_SYS_BOOT, which root has'
  if (loadDisabled) return 'not permitted: kernel.kexec_load_disabled is 1, until the next reboot'
  if (lockdown && lockdown !== 'none') return `not permitted: the kernel is locked down (${lockdown})`
  return 'not permitted, and neither CAP_SYS_BOOT, kernel.kexec_load_disabled nor lockdown is why: ask the audit log'
}

function textOf(path: string): string | undefined {
  try {
    return existsSync(path) ? readFileSync(path, 'latin1') : undefined
  } catch {
    return undefined
  }
}
