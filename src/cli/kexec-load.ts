/**
 * `luoctl kexec load` and `unload`: what the next kexec starts. Plain system calls of root; no luod is needed, and none
 * is asked. What can be seen to be wrong is said before anything is loaded. What would lose state at the kexec, such as
 * a command line without live update, is loaded, with a warning that has a code.
 */
import { existsSync, readFileSync } from 'node:fs'
import { reusedCommandLine, switchOf } from '../abi/command-line.js'
import { identifyKernel, KERNEL_HEAD_BYTES, type KernelImage } from '../abi/kernel-image.js'
import { LuoError } from '../errors.js'
import { openFile } from '../sys/file-reader.js'
import { isKernelLoaded, loadKernel, MAX_COMMAND_LINE_BYTES, unloadKernel } from '../sys/kexec.js'
import { LIVEUPDATE_DEVICE } from '../sys/liveupdate.js'
import { fileSize, readAt } from '../sys/memfd.js'
import { type Context, EXIT } from './context.js'
import { clean, formatBytes } from './format.js'

const TREE_INITRD = '/sys/firmware/devicetree/base/chosen/linux,initrd-start'
const BOOT_PARAMETERS = '/sys/kernel/boot_params/data'
/** ramdisk_size of arch/x86/boot.rst. */
const RAMDISK_SIZE_AT = 0x21c

export interface LoadRequest {
  kernel: string
  initrd?: string | undefined
  /** The whole command line; without it the running kernel's is used again. */
  commandLine?: string | undefined
  /** Words added to the running kernel's command line. */
  append?: string | undefined
}

export interface Warning {
  code: 'LIVEUPDATE_OFF' | 'KHO_OFF' | 'NO_INITRD'
  message: string
}

/** What the running kernel is like. */
export interface Running {
  commandLine: string
  liveUpdate: boolean
  /** It was started with one. */
  initrd: boolean
  /** Bytes that can be had without swapping. */
  availableBytes: number
}

export async function kexecLoadCommand(context: Context, request: LoadRequest): Promise<number> {
  const running = runningKernel()
  using kernel = openFile(request.kernel)
  using initrd = request.initrd === undefined ? undefined : openFile(request.initrd)
  const head = new Uint8Array(KERNEL_HEAD_BYTES)
  const image = identifyKernel(head.subarray(0, readAt(kernel, head, 0)), request.kernel)
  const commandLine = request.commandLine ?? reusedCommandLine(running.commandLine, request.append)
  const bytes = fileSize(kernel)
  const initrdBytes = initrd ? fileSize(initrd) : 0
  checkLoad(request.kernel, image, { commandLine, bytes: bytes + initrdBytes }, running)
  const warnings = warningsFor(commandLine, initrd !== undefined, running)
  loadKernel({ kernel, commandLine, ...(initrd ? { initrd } : {}) })
  if (context.json) {
    const { format, version = null } = image
    const loaded = { kernel: request.kernel, format, version, bytes, initrd: request.initrd ?? null }
    context.out(JSON.stringify({ ...loaded, initrd_bytes: initrdBytes, command_line: commandLine, warnings }))
    return EXIT.OK
  }
  const what = image.version === undefined ? image.format : `Linux ${image.version.split(' ')[0]}`
  context.out(`loaded ${clean(what)} from ${clean(request.kernel)}, ${formatBytes(bytes)}`)
  context.out(`  initrd        ${initrd ? `${clean(request.initrd ?? '')}, ${formatBytes(initrdBytes)}` : 'none'}`)
  context.out(`  command line  ${clean(commandLine)}`)
  for (const { code, message } of warnings) context.err(`luoctl: warning: ${message} (${code})`)
  return EXIT.OK
}

export async function kexecUnloadCommand(context: Context): Promise<number> {
  const wasLoaded = isKernelLoaded()
  unloadKernel()
  if (context.json) context.out(JSON.stringify({ unloaded: wasLoaded }))
  else context.out(wasLoaded ? 'unloaded' : 'no kernel was loaded')
  return EXIT.OK
}

/** Throws what makes loading pointless. */
export function checkLoad(
  path: string,
  image: KernelImage,
  { commandLine, bytes }: { commandLine: string; bytes: number },
  { availableBytes }: Pick<Running, 'availableBytes'>,
): void {
  if (image.relocatable === false) {
    throw new LuoError('ENOEXEC', `load ${path}: it was built without CONFIG_RELOCATABLE, which a kexec needs`)
  }
  const most = Math.min(MAX_COMMAND_LINE_BYTES - 1, image.commandLineBytes ?? Number.POSITIVE_INFINITY)
  const length = Buffer.byteLength(commandLine)
  if (length > most) throw new LuoError('EINVAL', `load ${path}: the command line has ${length} bytes, and ${most} fit`)
  if (bytes > availableBytes) {
    const has = formatBytes(availableBytes)
    throw new LuoError('ENOMEM', `load ${path}: it has ${formatBytes(bytes)} with its initrd, and ${has} are available`)
  }
}

/** What would make a kexec lose what is preserved, or not come up. */
export function warningsFor(commandLine: string, hasInitrd: boolean, running: Running): Warning[] {
  const warnings: Warning[] = []
  const off = (name: string) => switchOf(commandLine, name) !== true
  if (running.liveUpdate && off('liveupdate')) {
    const message = 'the command line has no liveupdate=on: the next kernel drops everything that is preserved'
    warnings.push({ code: 'LIVEUPDATE_OFF', message })
  }
  // A kernel can be built with it on, and that of the next one is not known.
  const kho = switchOf(commandLine, 'kho')
  if (running.liveUpdate && (kho === false || (kho === undefined && switchOf(running.commandLine, 'kho') === true))) {
    const message = 'the command line does not have the kho=on of this kernel: nothing may be handed over'
    warnings.push({ code: 'KHO_OFF', message })
  }
  if (!hasInitrd && running.initrd) {
    const message = 'this kernel was started with an initrd, and the next one has none: give --initrd'
    warnings.push({ code: 'NO_INITRD', message })
  }
  return warnings
}

function runningKernel(): Running {
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1]
  return {
    commandLine: readFileSync('/proc/cmdline', 'latin1').trim(),
    liveUpdate: existsSync(LIVEUPDATE_DEVICE),
    initrd: hadInitrd(),
    availableBytes: available === undefined ? Number.POSITIVE_INFINITY : Number(available) * 1024,
  }
}

/** The boot loader says so: in the boot parameters of x86, in the device tree elsewhere. */
function hadInitrd(): boolean {
  if (existsSync(TREE_INITRD)) return true
  if (!existsSync(BOOT_PARAMETERS)) return false
  const parameters = readFileSync(BOOT_PARAMETERS)
  return parameters.length >= RAMDISK_SIZE_AT + 4 && parameters.readUInt32LE(RAMDISK_SIZE_AT) !== 0
}
