/**
 * The part of `luoctl doctor` that is about kernel updates: what the kernel was built and booted with, who has the
 * device, and whether a kexec is permitted. Nothing here is a failure: updates of workloads need none of it.
 */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs'
import { release } from 'node:os'
import { gunzipSync } from 'node:zlib'
import { switchOf } from '../abi/command-line.js'
import type { Check } from './doctor.js'

/** Of docs/kernel-update.md. */
const NEEDED = ['CONFIG_KEXEC_FILE', 'CONFIG_KEXEC_HANDOVER', 'CONFIG_LIVEUPDATE']
const KHO_DEBUGFS = '/sys/kernel/debug/kho'

export interface KernelFacts {
  /** CONFIG_… lines of the kernel, where it or its distribution shows them. */
  config: ReadonlyMap<string, string> | undefined
  commandLine: string
  device: { exists: false } | { exists: true; usable: boolean; holders: readonly { pid: number; comm: string }[] }
  /** Undefined when it cannot be seen: debugfs is not mounted, or this is not root. */
  kho: boolean | undefined
  kexec: { mayReboot: boolean; loadDisabled: boolean; lockdown: string | undefined; loaded: boolean } | undefined
}

export function kernelChecks(facts: KernelFacts): Check[] {
  return [checkConfig(facts), checkCommandLine(facts), checkDevice(facts), checkKho(facts), checkKexec(facts)]
}

function checkConfig({ config, device }: KernelFacts): Check {
  const name = 'kernel config'
  if (!config) {
    const advice = 'Look in the source of the kernel package, or try: only the device decides.'
    return device.exists
      ? { name, status: 'ok', message: 'not shown by this kernel, but it has live update' }
      : { name, status: 'warn', message: 'this kernel does not show its configuration', advice }
  }
  const missing = NEEDED.filter((key) => config.get(key) !== 'y')
  if (missing.length === 0) return { name, status: 'ok', message: NEEDED.join(', ') }
  const advice = 'Only needed to keep state over a kexec; updates of workloads do not need it.'
  return { name, status: 'warn', message: `the kernel was built without ${missing.join(' and ')}`, advice }
}

function checkCommandLine({ commandLine, config }: KernelFacts): Check {
  const name = 'kernel command line'
  const khoByDefault = config?.get('CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT') === 'y'
  const missing = ['liveupdate=on', 'kho=on'].filter((word) => {
    const value = switchOf(commandLine, word.replace('=on', ''))
    return value === undefined ? word !== 'kho=on' || !khoByDefault : !value
  })
  if (missing.length === 0) return { name, status: 'ok', message: 'live update and KHO are switched on' }
  const message = `without ${missing.join(' and ')}`
  return { name, status: 'warn', message, advice: `For kernel updates boot with ${missing.join(' ')}.` }
}

function checkDevice({ device, config, commandLine }: KernelFacts): Check {
  const name = 'live update device'
  if (!device.exists) {
    const on = NEEDED.every((key) => config?.get(key) === 'y') && switchOf(commandLine, 'liveupdate') === true
    const advice = on
      ? 'The kernel log says why: often there was no room for the scratch memory of KHO (kho_scratch=, or more memory).'
      : 'Only needed to keep state over a kexec; updates of workloads do not need it.'
    return { name, status: 'warn', message: 'there is no /dev/liveupdate', advice }
  }
  const { holders, usable } = device
  if (!usable)
    return { name, status: 'warn', message: '/dev/liveupdate is not for this user', advice: 'Run luod as root.' }
  const who = holders.map(({ pid, comm }) => `process ${pid} (${comm})`).join(', ')
  return {
    name,
    status: 'ok',
    message: `/dev/liveupdate is there; ${who === '' ? 'nobody has it open' : `${who} has it`}`,
  }
}

function checkKho({ kho, device }: KernelFacts): Check {
  const name = 'kexec handover'
  if (kho) return { name, status: 'ok', message: `${KHO_DEBUGFS} is there: luoctl inspect --kernel` }
  if (device.exists) {
    const advice = 'As root: mount -t debugfs debugfs /sys/kernel/debug. Only luoctl inspect --kernel needs it.'
    return { name, status: 'ok', message: `on, but ${KHO_DEBUGFS} cannot be seen`, advice }
  }
  const advice = 'Boot with kho=on; as root, with debugfs mounted, its state can be seen.'
  return { name, status: 'warn', message: `no ${KHO_DEBUGFS} to be seen`, advice }
}

function checkKexec({ kexec }: KernelFacts): Check {
  const name = 'kexec'
  if (!kexec) return { name, status: 'warn', message: 'cannot be looked at', advice: 'See the messages above.' }
  const warn = (message: string, advice: string): Check => ({ name, status: 'warn', message, advice })
  if (!kexec.mayReboot) return warn('not permitted: no CAP_SYS_BOOT', 'Kernel updates are done by root.')
  if (kexec.loadDisabled) {
    return warn(
      'switched off: kernel.kexec_load_disabled is 1',
      'It stays so until a reboot: do not set it at the boot.',
    )
  }
  if (kexec.lockdown !== undefined && kexec.lockdown !== 'none') {
    return warn(`the kernel is locked down (${kexec.lockdown})`, 'It takes only signed kernel images.')
  }
  const loaded = kexec.loaded ? 'a kernel is loaded' : 'no kernel is loaded (luoctl kexec load)'
  return { name, status: 'ok', message: `permitted; ${loaded}` }
}

export async function kernelFacts(): Promise<KernelFacts> {
  const { kexecPermission, isKernelLoaded } = await import('../sys/kexec.js')
  return {
    config: kernelConfig(),
    commandLine: textOf('/proc/cmdline')?.trim() ?? '',
    device: await deviceFacts(),
    kho: existsSync(KHO_DEBUGFS) || undefined,
    kexec: { ...kexecPermission(), loaded: isKernelLoaded() },
  }
}

async function deviceFacts(): Promise<KernelFacts['device']> {
  const { deviceHolders, LIVEUPDATE_DEVICE } = await import('../sys/liveupdate.js')
  // A regular file is none: somebody wrote to where the device would be.
  const found = statSync(LIVEUPDATE_DEVICE, { throwIfNoEntry: false })
  if (!found || found.isFile()) return { exists: false }
  return { exists: true, usable: mayUse(LIVEUPDATE_DEVICE), holders: deviceHolders() }
}

function mayUse(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

function kernelConfig(): Map<string, string> | undefined {
  const text = gunzipped('/proc/config.gz') ?? textOf(`/boot/config-${release()}`)
  return text === undefined
    ? undefined
    : new Map([...text.matchAll(/^(CONFIG_\w+)=(.*)$/gm)].map(([, key = '', value = '']) => [key, value]))
}

function gunzipped(path: string): string | undefined {
  try {
    return gunzipSync(readFileSync(path)).toString('latin1')
  } catch {
    return undefined
  }
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return undefined
  }
}
