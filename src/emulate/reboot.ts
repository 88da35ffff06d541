/**
 * `kexec_load`, `kexec_file_load` and `reboot` in an emulated machine: they stay in it. A kexec is the machine's own;
 * what would end the real machine is refused.
 */
import { LuoError } from '../errors.js'
import type { HeldCall } from '../sys/seccomp.js'
import type { Trace } from './trace.js'

const LINUX_REBOOT_MAGIC1 = 0xfee1dead
const LINUX_REBOOT_MAGIC2 = [0x28121969, 0x05121996, 0x16041998, 0x20112000]
const LINUX_REBOOT_CMD_KEXEC = 0x45584543
/** They would end this machine, and not the emulated one. */
const REFUSED_COMMANDS = new Map([
  [0x01234567, 'RESTART'],
  [0xa1b2c3d4, 'RESTART2'],
  [0xcdef0123, 'HALT'],
  [0x4321fedc, 'POWER_OFF'],
  [0xd000fce2, 'SW_SUSPEND'],
])
const KEXEC_FILE_UNLOAD = 1n

export class RebootCalls {
  /** A kexec image was loaded by a program of this machine. */
  #loaded = false

  kexecLoad([, segments]: HeldCall['args'], trace: Trace): void {
    trace.text = `kexec_load(${segments} segments)`
    this.#loaded = segments > 0n
  }

  kexecFileLoad([, , , , flags]: HeldCall['args'], trace: Trace): void {
    trace.text = 'kexec_file_load()'
    this.#loaded = (flags & KEXEC_FILE_UNLOAD) === 0n
  }

  /** Whether it is a kexec of the machine; other commands are the kernel's. EPERM for what would end the real one. */
  reboot(args: HeldCall['args'], trace: Trace): boolean {
    const [magic1, magic2, command] = args.map((arg) => Number(BigInt.asUintN(32, arg)))
    const refused = REFUSED_COMMANDS.get(command ?? 0)
    if (refused) {
      trace.text = `reboot(LINUX_REBOOT_CMD_${refused})`
      throw new LuoError('EPERM', `reboot: ${refused} of an emulated machine`)
    }
    if (command !== LINUX_REBOOT_CMD_KEXEC) return false
    trace.text = 'reboot(LINUX_REBOOT_CMD_KEXEC)'
    if (magic1 !== LINUX_REBOOT_MAGIC1 || !LINUX_REBOOT_MAGIC2.includes(magic2 ?? 0) || !this.#loaded) {
      throw new LuoError('EINVAL', 'reboot: wrong magic, or nothing was loaded by kexec_load or kexec_file_load')
    }
    return true
  }
}
