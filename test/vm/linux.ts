/**
 * A real Linux in a virtual machine, for tests. What kernel it is comes from outside (LUO_KERNEL); the machine has the
 * programs of this folder and no disk, and needs no KVM. One that hangs or ends otherwise fails with its console.
 */
import { execFile, execFileSync } from 'node:child_process'
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { compileDriver } from '../conformance/emulated.js'
import { type CpioFile, cpio } from './cpio.js'

const INIT_C = fileURLToPath(new URL('./init.c', import.meta.url))
const QEMU = 'qemu-system-x86_64'
/** Three boots take 10 s on an idle machine. They end before the test gives up: nothing stays behind. */
const BOOTS_MS = 110_000
export const LIMIT_MS = 120_000
const MAX_OUTPUT = 2 ** 24

const kernel = process.env.LUO_KERNEL ?? ''
const missing: string[] = []
if (kernel === '') missing.push('LUO_KERNEL, the path of a bzImage of Linux 7.3 with CONFIG_LIVEUPDATE')
if (!isInstalled(QEMU)) missing.push(`${QEMU} (on Debian: apt-get install qemu-system-x86)`)
/** Otherwise it is said why not. */
export const possible = missing.length === 0
if (!possible) console.warn(`Skipped, so nothing is compared with a real kernel. Missing: ${missing.join('; ')}`)

const run = promisify(execFile)

function isInstalled(command: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, command), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** What the driver prints to these scripts, part by part, with a kexec between. */
export async function runOnLinux(cases: string, parts: number): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'luo-vm-'))
  try {
    const initrd = join(folder, 'initrd')
    writeFileSync(initrd, firstFiles(folder, cases, parts))
    const said = await boot(initrd, parts)
    return Array.from({ length: parts }, (_, part) => {
      const [, lines] = new RegExp(`^=== part ${part}\n(.*)^=== part ${part} ended: 0$`, 'ms').exec(said) ?? []
      if (lines === undefined) throw new Error(`part ${part} did not end well in the machine, which said:\n${said}`)
      return lines
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Of the first boot: in it is what a kexec is done with, and in that what the next one is done with. */
function firstFiles(folder: string, cases: string, parts: number): Buffer {
  const init = join(folder, 'init')
  const driver = join(folder, 'driver')
  execFileSync('cc', ['-Wall', '-O1', '-static', '-o', init, INIT_C], { stdio: ['ignore', 'inherit', 'inherit'] })
  compileDriver(driver)
  const programs: CpioFile[] = [
    { name: 'init', mode: 0o755, data: readFileSync(init) },
    { name: 'driver', mode: 0o755, data: readFileSync(driver) },
    { name: 'cases', mode: 0o644, data: Buffer.from(cases, 'latin1') },
  ]
  const image = { name: 'kernel', mode: 0o644, data: readFileSync(kernel) }
  let files = cpio(programs)
  for (let boot = 1; boot < parts; boot++) {
    files = cpio([...programs, image, { name: 'initrd', mode: 0o644, data: files }])
  }
  return files
}

/** Boots the kernel, and answers what it said until it ended. */
async function boot(initrd: string, parts: number): Promise<string> {
  const append = `console=ttyS0 liveupdate=on panic=-1 quiet parts=${parts}`
  const hardware = ['-accel', 'tcg', '-cpu', 'max', '-m', '1G', '-smp', '2', '-nodefaults', '-no-reboot']
  const args = [...hardware, '-nographic', '-serial', 'stdio', '-kernel', kernel, '-initrd', initrd, '-append', append]
  const options = { timeout: BOOTS_MS, killSignal: 'SIGKILL', maxBuffer: MAX_OUTPUT } as const
  const { stdout } = await run(QEMU, args, options).catch((error) => {
    throw new Error(`the machine did not end as it should (${error}); it said:\n${error.stdout}`)
  })
  return stdout.replaceAll('\r', '')
}
