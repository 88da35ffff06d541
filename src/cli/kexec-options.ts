/** The arguments of `luoctl kexec load` and `unload`. */
import type { Command } from 'commander'
import { LuoError } from '../errors.js'
import type { Context } from './context.js'

const LOAD_HELP = `
Nothing is stopped: the kernel waits in memory for the kexec, in place of one that was loaded before. Without an
option for it, the command line is the running kernel's. What would lose preserved state is a warning with a code.

Examples:
  luoctl kexec load /boot/vmlinuz --initrd /boot/initrd.img
  luoctl kexec load /boot/vmlinuz --initrd /boot/initrd.img --append 'systemd.log_level=debug'
  luoctl kexec unload

Needs CAP_SYS_BOOT, and no luod. Exit codes: 0 loaded, 1 refused (the message says by what), 2 wrong usage`

interface LoadOptions {
  initrd?: string
  reuseCmdline?: boolean
  cmdline?: string
  append?: string
}

export function addKexecLoad(kexec: Command, choose: (action: (context: Context) => Promise<number>) => void): void {
  kexec
    .command('load')
    .description('load the kernel that the next kexec starts')
    .argument('<kernel>', 'file with it: a bzImage, or what else this kernel can load')
    .option('--initrd <file>', 'its first file system')
    .option('--reuse-cmdline', 'the command line of the running kernel, without what its boot loader added')
    .option('--cmdline <line>', 'the whole command line')
    .option('--append <words>', "words behind the running kernel's command line")
    .addHelpText('after', LOAD_HELP)
    .action((kernel: string, { initrd, reuseCmdline, cmdline, append }: LoadOptions) => {
      if (cmdline !== undefined && (reuseCmdline || append !== undefined)) {
        const message =
          'kexec load: --cmdline is the whole command line; --reuse-cmdline and --append are about another'
        throw new LuoError('LUO_INVALID_PARAMETER', message)
      }
      const request = { kernel, initrd, commandLine: cmdline, append }
      choose(async (context) => (await import('./kexec-load.js')).kexecLoadCommand(context, request))
    })
  kexec
    .command('unload')
    .description('load no kernel: a kexec starts nothing then')
    .action(() => choose(async (context) => (await import('./kexec-load.js')).kexecUnloadCommand(context)))
}
