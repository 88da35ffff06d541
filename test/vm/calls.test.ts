/**
 * `test/emulate/calls.c` on a real kernel, in a virtual machine, over a real kexec, and the same program under
 * `luoctl emulate`, over an emulated one: they print the same. What the kernel is comes from outside (LUO_KERNEL); the
 * machine has the two programs, no disk, and needs no KVM. One that hangs or says something else fails with its console.
 */
import { execFile, execFileSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually } from '../daemon/stage.js'
import { cpio } from './cpio.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const CALLS_C = fileURLToPath(new URL('../emulate/calls.c', import.meta.url))
const INIT_C = fileURLToPath(new URL('./init.c', import.meta.url))
const QEMU = 'qemu-system-x86_64'
const MACHINE = 'vm'
/** Both boots take 7 s on an idle machine. They end before the test gives up: nothing stays behind. */
const BOOTS_MS = 110_000
const LIMIT_MS = 120_000

const kernel = process.env.LUO_KERNEL ?? ''
const missing: string[] = []
if (kernel === '') missing.push('LUO_KERNEL, the path of a bzImage of Linux 7.3 with CONFIG_LIVEUPDATE')
if (!isInstalled(QEMU)) missing.push(`${QEMU} (on Debian: apt-get install qemu-system-x86)`)
const possible = missing.length === 0
if (!possible) console.warn(`Skipped, so nothing is compared with a real kernel. Missing: ${missing.join('; ')}`)

const run = promisify(execFile)
let folder: string
let program: string
let socket: string
/** What the machine said: both boots. */
let said = ''

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

function compile(source: string, to: string): void {
  execFileSync('cc', ['-Wall', '-O1', '-static', '-o', to, source], { stdio: ['ignore', 'inherit', 'inherit'] })
}

/** Boots the kernel, and answers what it said until it ended. */
async function boot(initrd: string): Promise<string> {
  const append = 'console=ttyS0 liveupdate=on panic=-1 quiet'
  const hardware = ['-accel', 'tcg', '-cpu', 'max', '-m', '1G', '-smp', '2', '-nodefaults', '-no-reboot']
  const args = [...hardware, '-nographic', '-serial', 'stdio', '-kernel', kernel, '-initrd', initrd, '-append', append]
  const { stdout } = await run(QEMU, args, { timeout: BOOTS_MS, killSignal: 'SIGKILL' }).catch((error) => {
    throw new Error(`the machine did not end as it should (${error}); it said:\n${error.stdout}`)
  })
  return stdout.replaceAll('\r', '')
}

/** The lines that `calls` printed in the machine. */
function onKernel(what: string): string[] {
  const [, lines] = new RegExp(`^=== ${what}\n(.*)^=== ${what} ended: 0$`, 'ms').exec(said) ?? []
  if (lines === undefined) throw new Error(`"calls ${what}" did not end well in the machine, which said:\n${said}`)
  return lines.split('\n')
}

async function luoctl(...args: string[]): Promise<string> {
  const env = { ...process.env, LUO_SOCKET: socket }
  return (await run(process.execPath, [LUOCTL, ...args], { env, timeout: LIMIT_MS })).stdout
}

/** The lines that the same program prints under emulation. */
async function emulated(what: string): Promise<string[]> {
  return (await luoctl('emulate', '--machine', MACHINE, '--', program, what)).split('\n')
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'luo-vm-'))
  program = join(folder, 'calls')
  socket = join(folder, 'luod.sock')
  compile(CALLS_C, program)
  const init = join(folder, 'init')
  compile(INIT_C, init)
  const programs = [
    { name: 'init', mode: 0o755, data: readFileSync(init) },
    { name: 'calls', mode: 0o755, data: readFileSync(program) },
  ]
  const initrd = join(folder, 'initrd')
  const next = [
    { name: 'kernel', mode: 0o644, data: readFileSync(kernel) },
    { name: 'initrd', mode: 0o644, data: cpio(programs) },
  ]
  writeFileSync(initrd, cpio([...programs, ...next]))
  said = await boot(initrd)
}, LIMIT_MS)

afterAll(async () => {
  if (existsSync(socket)) {
    await luoctl('machines', '--end', MACHINE)
    // Nothing is left to do for the private luod.
    await eventually(
      () => existsSync(socket),
      (there) => !there,
      'luod is still there',
    )
  }
  rmSync(folder, { recursive: true })
})

test.runIf(possible)(
  'what needs no kexec answers the same',
  async () => {
    const lines = await emulated('calls')
    expect(lines.length).toBeGreaterThan(40)
    expect(onKernel('calls')).toEqual(lines)
  },
  LIMIT_MS,
)

test.runIf(possible)(
  'what is kept over a kexec, and comes back, answers the same',
  async () => {
    const kept = await emulated('keep')
    expect(kept).toContain('preserve: 0')
    expect(onKernel('keep')).toEqual(kept)
    await luoctl('kexec', '--emulated', '--machine', MACHINE)
    const claimed = await emulated('claim')
    expect(claimed).toContain('contents: contents')
    expect(onKernel('claim')).toEqual(claimed)
  },
  LIMIT_MS,
)
