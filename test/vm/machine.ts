/**
 * A virtual machine with a real kernel, and what its boots said. Each boot runs commands (programs of the host, or
 * scripts under this Node) and is followed by a kexec into the next; see init.c. The host's files are there read-only,
 * so nothing has to be installed; it needs neither root nor a network nor KVM.
 *
 *     const [before, after] = await runMachine({ boots: [{ script: 'keep' }, { script: 'claim' }] })
 *
 * A command that fails, a kernel that panics, and a machine that takes too long are errors with the whole console in
 * the message. The emulator is killed on every path, and when this process dies.
 */
import { execFileSync, spawn } from 'node:child_process'
import {
  accessSync,
  constants,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, delimiter, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type CpioFile, cpio } from './cpio.js'
import { PROJECT, translateScripts } from './scripts.js'

const QEMU = 'qemu-system-x86_64'
/** Of util-linux: the emulator is to end with this process, however it ends. */
const SETPRIV = 'setpriv'
/** Of e2fsprogs: makes the file system of a machine's disk. */
const MKE2FS = 'mke2fs'
const DISK = 'disk'
const DISK_SIZE = '16M'
const INIT_C = fileURLToPath(new URL('./init.c', import.meta.url))
/**
 * nokaslr: KHO takes its scratch memory in three large pieces, the larger the larger the initrd is. With a kernel at
 * random in the middle 2 of 15 boots with an initrd of 100 MB had no room left in one piece ("KHO: Failed to reserve
 * nid 0 scratch buffer"), and so no device; with the kernel in its place none of 20.
 */
const CMDLINE = 'console=ttyS0 liveupdate=on kho=on nokaslr panic=-1 quiet'
/** Three boots take half a minute on an idle machine, and ten times that beside much other work. */
const DEFAULT_TIMEOUT_MS = 350_000
/** For the test or hook that runs a machine: the machine gives up first, so nothing stays behind. */
export const MACHINE_LIMIT_MS = 360_000
/** Kept of the console; no test says nearly as much. */
const MAX_CONSOLE_BYTES = 16 * 2 ** 20

/**
 * Where commands find `MachineOptions.files`, and the machine's own `kernel` and `initrd`. For a kexec with a command
 * line that does not say which boot it is, `as-boot-N` behind the initrd does.
 */
export const MACHINE_FOLDER = '/run/machine'

/** A script of test/vm/inside by its name without .ts, or any program by its absolute path in the machine. */
export type Command = { script: string; args?: readonly string[] } | { program: string; args?: readonly string[] }

export interface MachineOptions {
  /** The commands of each boot. */
  boots: readonly (Command | readonly Command[])[]
  /** As qemu has it; 1G unless given, 2G for a bare one: the initrd must fit into the scratch memory of KHO. */
  memory?: string
  /** Of all boots together. */
  timeoutMs?: number
  /** Words added to the first boot's command line. */
  cmdline?: string
  /** Files of the host, which commands find by their last name in MACHINE_FOLDER. */
  files?: readonly string[]
  /** Instead of the host's files there is only what Node and this project's build need, and /run. */
  bare?: boolean
  /** There is a file system at /run/disk that outlives a kexec, for commands to write to. Not in a bare machine. */
  disk?: boolean
  /** Called with each whole line of the console, at `atMs` of this process's `performance.now()`. */
  onLine?: (line: string, atMs: number) => void
}

export interface Ran {
  /** All of it. */
  output: string
  /** Lines of output that are JSON objects. */
  json: Record<string, unknown>[]
  /** The other lines that are not empty. */
  text: string[]
}

const missing: string[] = []
if (!process.env.LUO_KERNEL) missing.push('LUO_KERNEL, the path of a bzImage of Linux 7.3 with CONFIG_LIVEUPDATE')
if (!isInstalled(QEMU)) missing.push(`${QEMU} (on Debian: apt-get install qemu-system-x86)`)
if (!isInstalled(MKE2FS)) missing.push(`${MKE2FS} (on Debian: apt-get install e2fsprogs)`)
if (!isInstalled(SETPRIV)) missing.push(`${SETPRIV} (on Debian: apt-get install util-linux)`)
/** Otherwise it is said why not. */
export const possible = missing.length === 0
if (!possible) console.warn(`Skipped, so nothing is run on a real kernel. Missing: ${missing.join('; ')}`)

/** Answers what the commands of each boot printed. */
export async function runMachine(options: MachineOptions): Promise<Ran[][]> {
  if (!possible) throw new Error(`no virtual machine can be run. Missing: ${missing.join('; ')}`)
  const folder = mkdtempSync(join(tmpdir(), 'luo-vm-'))
  try {
    const boots = options.boots.map((boot) => ('length' in boot ? boot : [boot]))
    copyFileSync(process.env.LUO_KERNEL ?? '', join(folder, 'kernel'))
    for (const file of options.files ?? []) copyFileSync(file, join(folder, basename(file)))
    translateScripts(folder)
    if (options.disk) execFileSync(MKE2FS, ['-q', '-t', 'ext4', join(folder, DISK), DISK_SIZE])
    makeInitrd(join(folder, 'initrd'), folder, boots, options.bare === true)
    const said = await emulate(folder, options)
    return boots.map((commands, boot) => commands.map((_, command) => ranIn(said, boot, command, boots)))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Compiles a C program that runs in any machine. */
export function compile(source: string, to: string): void {
  execFileSync('cc', ['-Wall', '-O1', '-static', '-o', to, source], { stdio: ['ignore', 'inherit', 'inherit'] })
}

function makeInitrd(path: string, folder: string, boots: readonly (readonly Command[])[], bare: boolean): void {
  const init = join(folder, 'init')
  compile(INIT_C, init)
  const files: CpioFile[] = [{ name: 'init', mode: 0o755, data: readFileSync(init) }]
  for (const [boot, commands] of boots.entries()) {
    const text = commands.map((command) => `${argumentsOf(command).join('\0')}\0\0`).join('')
    files.push({ name: `boot-${boot}`, mode: 0o644, data: Buffer.from(text) })
  }
  if (bare) files.push(...nodeAndProject())
  else files.push({ name: 'project', mode: 0o644, data: Buffer.from(PROJECT) })
  writeFileSync(path, '')
  for (const part of cpio(files)) writeFileSync(path, part, { flag: 'a' })
  for (const boot of boots.keys()) {
    const said = cpio([{ name: 'this-boot', mode: 0o644, data: Buffer.from(`${boot}`) }])
    writeFileSync(join(folder, `as-boot-${boot}`), Buffer.concat(said))
  }
}

function argumentsOf(command: Command): string[] {
  const { args = [] } = command
  if ('program' in command) return [command.program, ...args]
  return [process.execPath, `${MACHINE_FOLDER}/${command.script}.js`, ...args]
}

/** What a script needs to run: all of it at the same paths as on the host. */
function nodeAndProject(): CpioFile[] {
  const libraries = execFileSync('ldd', [process.execPath], { encoding: 'utf8' }).matchAll(/(\/\S+) \(0x/g)
  const packages = ['commander', 'prom-client', 'tdigest', 'bintrees', '@opentelemetry', 'koffi', '@koromix']
  const folders = ['dist', ...packages.map((name) => `node_modules/${name}`)]
  const paths = [
    process.execPath,
    ...[...libraries].map(([, path = '']) => path),
    join(PROJECT, 'package.json'),
    ...folders.flatMap((name) => filesUnder(join(PROJECT, name))),
  ]
  return paths.map((path) => ({
    name: relative('/', path),
    mode: statSync(path).mode & 0o777,
    data: readFileSync(path),
  }))
}

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(m?js|cjs|json|node)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
}

/** Boots the machine, and answers what it said until it ended. */
function emulate(
  folder: string,
  {
    bare = false,
    memory = bare ? '2G' : '1G',
    timeoutMs = DEFAULT_TIMEOUT_MS,
    cmdline = '',
    disk = false,
    onLine = () => {},
  }: MachineOptions,
) {
  const share = (path: string, tag: string) =>
    `local,path=${path.replaceAll(',', ',,')},mount_tag=${tag},security_model=none,readonly=on,multidevs=remap`
  const args = ['--pdeathsig', 'KILL', '--', QEMU, '-accel', 'tcg', '-cpu', 'max', '-m', memory, '-smp', '2']
  args.push('-nodefaults', '-no-reboot', '-nographic', '-serial', 'stdio')
  args.push('-kernel', join(folder, 'kernel'), '-initrd', join(folder, 'initrd'), '-append', `${CMDLINE} ${cmdline}`)
  args.push('-virtfs', share(folder, 'machine'))
  if (!bare) args.push('-virtfs', share('/', 'hostroot'))
  if (disk) args.push('-drive', `file=${join(folder, DISK)},if=virtio,format=raw`)
  const child = spawn(SETPRIV, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  let line = ''
  const take = (chunk: Buffer) => {
    const lines = `${line}${chunk.toString('latin1')}`.split('\n')
    line = lines.pop() ?? ''
    for (const whole of lines) onLine(whole.trimEnd(), performance.now())
    if (said.length < MAX_CONSOLE_BYTES) said += chunk.toString('latin1')
  }
  child.stdout.on('data', take)
  child.stderr.on('data', take)
  return new Promise<string>((resolve, reject) => {
    const fail = (why: string) => reject(new Error(`the machine ${why}; it said:\n${plain(said)}`))
    const timer = setTimeout(() => {
      fail(`did not end in ${timeoutMs} ms`)
      child.kill('SIGKILL')
    }, timeoutMs)
    child.on('error', (error) => {
      clearTimeout(timer)
      fail(`cannot be started: ${error.message}`)
    })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      if (code === 0) resolve(plain(said))
      else fail(`ended with ${signal ?? code}`)
    })
  })
}

/** What a command printed. It has ended well, or the next boot has begun, or it is an error. */
function ranIn(said: string, boot: number, command: number, boots: readonly (readonly Command[])[]): Ran {
  const begin = said.indexOf(`=== boot ${boot} command ${command}\n`)
  const last = command + 1 === boots[boot]?.length && boot + 1 < boots.length
  const end = [
    said.indexOf(`\n=== boot ${boot} command ${command} ended: 0\n`),
    last ? said.indexOf(`\n=== boot ${boot + 1} command 0\n`) : -1,
  ].find((at) => at >= 0)
  if (begin < 0 || end === undefined) {
    throw new Error(`boot ${boot} of the machine: command ${command} did not end well; the machine said:\n${said}`)
  }
  const output = said.slice(said.indexOf('\n', begin) + 1, end)
  const lines = output.split('\n').filter((line) => line !== '')
  const isJson = (line: string) => /^\{".*\}$/.test(line)
  return {
    output,
    json: lines.filter(isJson).map((line) => JSON.parse(line) as Record<string, unknown>),
    text: lines.filter((line) => !isJson(line)),
  }
}

/** Without the terminal's own line ends. */
function plain(said: string): string {
  return Buffer.from(said, 'latin1').toString().replaceAll('\r', '')
}

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
