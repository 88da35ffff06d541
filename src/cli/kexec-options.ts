/** The arguments of `luoctl kexec`, and of its `load`, `unload` and `abort`. */
import type { Command } from 'commander'
import { nameOf, pathOf, usageError } from './arguments.js'
import type { Context } from './context.js'
import { durationOf } from './durations.js'

const LOAD_HELP = `
Nothing is stopped: the kernel waits in memory for the kexec, in place of one that was loaded before. Without an
option for it, the command line is the running kernel's. What would lose preserved state is a warning with a code.

Examples:
  luoctl kexec load /boot/vmlinuz --initrd /boot/initrd.img
  luoctl kexec load /boot/vmlinuz --initrd /boot/initrd.img --append 'systemd.log_level=debug'
  luoctl kexec unload

Needs CAP_SYS_BOOT, and no luod. Exit codes: 0 loaded, 1 refused (the message says by what), 2 wrong usage`

const KEXEC_HELP = `
Starts the kernel that was loaded (luoctl kexec load). First every workload lets go, as in an update; what they have
preserved is put into sessions of the kernel, and luod gives it back under the next one. One that refuses ends it, and
everybody goes on. Nothing is lost before the reboot call; Ctrl-C, or luoctl kexec abort, undoes it until then.

  --method direct    luod ends the workloads, writes out what is not written, and reboots
  --method systemd   systemctl kexec: the service manager ends all services in order

Examples:
  luoctl kexec --dry-run
  luoctl kexec --deadline 30s
  luoctl kexec --emulated

Needs root, and a luod that has the kernel's device (luoctl status). Exit codes: 0 the next kernel is started, or a dry
run found nothing; 3 refused or aborted, and everybody goes on; 130 aborted by Ctrl-C; 1 it did not begin, such as without
a loaded kernel; 2 wrong usage; 4 no luod`

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
    .argument('<kernel>', 'file with it: a bzImage, or what else this kernel can load', pathOf('the kernel'))
    .option('--initrd <file>', 'its first file system', pathOf('--initrd'))
    .option('--reuse-cmdline', 'the command line of the running kernel, without what its boot loader added')
    .option('--cmdline <line>', 'the whole command line')
    .option('--append <words>', "words behind the running kernel's command line")
    .addHelpText('after', LOAD_HELP)
    .action((kernel: string, { initrd, reuseCmdline, cmdline, append }: LoadOptions) => {
      if (cmdline !== undefined && (reuseCmdline || append !== undefined)) {
        const message =
          'kexec load: --cmdline is the whole command line; --reuse-cmdline and --append are about another'
        throw usageError(message)
      }
      const request = { kernel, initrd, commandLine: cmdline, append }
      choose(async (context) => (await import('./kexec-load.js')).kexecLoadCommand(context, request))
    })
  kexec
    .command('unload')
    .description('load no kernel: a kexec starts nothing then')
    .action(() => choose(async (context) => (await import('./kexec-load.js')).kexecUnloadCommand(context)))
}

export interface KexecOptions {
  emulated?: boolean
  machine?: string
  deadline?: number
  dryRun?: boolean
  method?: string
  drop: string[]
}

export function addKexec(
  kexec: Command,
  defaultMachine: string,
  choose: (action: (context: Context) => Promise<number>) => void,
): void {
  const collect = (value: string, before: string[]) => [...before, nameOf('session')(value)]
  kexec
    .description('start the next kernel, with everything that workloads have preserved')
    .usage('[--deadline 30s] [--dry-run] [--method direct|systemd] [--drop NAME]... | load KERNEL … | unload | abort')
    .option('--deadline <duration>', 'how long workloads may take to let go', durationOf('--deadline'))
    .option('--dry-run', 'everything up to the reboot call, and then undo it')
    .option('--method <which>', 'who ends the workloads and reboots: direct (luod), or systemd')
    .option(
      '--drop <name>',
      'a session of the kernel that came in, that nobody has finished, and that may be lost',
      collect,
      [],
    )
    .option('--emulated', 'a kexec of an emulated machine, which ends its programs and begins the next generation')
    .option('--machine <name>', `which emulated machine (default: "${defaultMachine}")`, nameOf('machine'))
    .addHelpText('after', KEXEC_HELP)
    // So that a command that there is not is called that.
    .allowExcessArguments()
    .action(({ emulated, machine, deadline, dryRun = false, method = 'direct', drop }: KexecOptions) => {
      const [other] = kexec.args
      if (other !== undefined) throw usageError(`unknown command 'kexec ${other}'`)
      const others = [deadline, method === 'direct' ? undefined : method, ...drop].some((value) => value !== undefined)
      if (emulated) {
        if (others || dryRun) throw usageError('kexec --emulated takes --machine and nothing else')
        return choose(async (context) =>
          (await import('./emulate.js')).kexecCommand(context, machine ?? defaultMachine),
        )
      }
      if (machine !== undefined) throw usageError('kexec: --machine is of an emulated one (--emulated)')
      if (method !== 'direct' && method !== 'systemd')
        throw usageError(`--method "${method}": choose direct or systemd`)
      const request = { deadlineMs: deadline, dryRun, how: method, drop } as const
      choose(async (context) => (await import('./kexec.js')).kexecNextCommand(context, request))
    })
  kexec
    .command('abort')
    .description('undo a kexec that is under way: everybody goes on')
    .action(() => choose(async (context) => (await import('./kexec.js')).kexecAbortCommand(context)))
}
