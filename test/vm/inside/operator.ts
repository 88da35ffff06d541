/**
 * An operator who updates a host's kernel by docs/kernel-update.md: its commands, in their order, over the kexec that
 * one of them does, and around them what refuses a kexec. The host has luod, a workload that keeps its state, a session
 * of a program, and one of the kernel. Prints { ran, status, out, err } for each command.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { KernelSession } from '../../../src/backends/kernel.js'
import { isLuoError } from '../../../src/errors.js'
import type { Fd } from '../../../src/sys/fd.js'
import { openFile } from '../../../src/sys/file-reader.js'
import { isKernelLoaded, loadKernel } from '../../../src/sys/kexec.js'
import { createMemfd } from '../../../src/sys/memfd.js'
import type { VarlinkClient } from '../../../src/wire/client.js'
import { connect, load, MACHINE_FOLDER, said, say } from './kit.js'

const FOLDER = '/run/operator'
const SERVICE = `${FOLDER}/service.mjs`
/** What this host's service looks at. */
const SLOW = `${FOLDER}/slow`
const ASKED = `${FOLDER}/asked`
const BACKUP = `${FOLDER}/backup`
const FOUND = `${FOLDER}/found`
const OTHER_SOCKET = `${FOLDER}/other.sock`
const WORKLOAD = 'store'
/** What a program has, and does not come back for. */
const FORGOTTEN = 'forgotten'
const GUEST = 'guest'
const KEEP = '600s'
const KEEP_MS = 600_000
const POLL_MS = 20
const LIMIT_MS = 120_000
const AS_NOBODY = 'setpriv --reuid 65534 --regid 65534 --clear-groups'
/** As root without it. */
const NO_REBOOT = ['setpriv', '--bounding-set', '-sys_boot']
/** The kernel lets no other load begin while it reads so much. */
const SLOW_INITRD_BYTES = 64 * 2 ** 20
/** More than the scratch memory of KHO has in a machine of 1 GiB, and less than the machine has. */
const NO_ROOM_BYTES = 400 * 2 ** 20
const HUGE_BYTES = 64 * 2 ** 30
const MAX_COMMAND_LINE = 2047
const [, , stage = '', luod = '', luoctl = ''] = process.argv

interface Handbook {
  commands: string[]
  snippet: string
  /** Module that the service imports. */
  library: string
}

const { commands, snippet, library } = JSON.parse(readFileSync(`${MACHINE_FOLDER}/handbook.json`, 'utf8')) as Handbook
const NAMES: Readonly<Record<string, string>> = { 'luoctl release NAME': `luoctl release ${FORGOTTEN} --yes` }
const isKexec = (command: string) => /^luoctl kexec( --(?!dry-run)\S+( [^-]\S*)?)*$/.test(command)
const kexecAt = commands.findIndex(isKexec)
const theKexec = commands[kexecAt] ?? ''
const LOOKS = /^luoctl (doctor|history|inspect|sessions|show|status)\b/
const ABORT = 'luoctl kexec abort'
const [KERNEL = '', INITRD = ''] = commands.flatMap((command) => command.match(/\/boot\/\S+/g) ?? [])

interface Ended {
  status: number | null
  out: string
  err: string
}

interface Running<T> {
  child: ChildProcess
  ended: Promise<T>
}

/** As from a terminal of its own. */
function start(command: string): Running<Ended> {
  const child = spawn('bash', ['-c', NAMES[command] ?? command.replace(/\bNAME\b/, WORKLOAD)])
  const texts = { out: '', err: '' }
  child.stdout.on('data', (chunk) => {
    texts.out += chunk
  })
  child.stderr.on('data', (chunk) => {
    texts.err += chunk
  })
  return { child, ended: once(child, 'close').then(([status]) => ({ status, ...texts })) }
}

/** `as`: its name in what is printed. */
function begin(command: string, as = command): Running<void> {
  const { child, ended } = start(command)
  return { child, ended: ended.then((end) => say({ ran: as, ...end })) }
}

const run = (command: string, as?: string) => begin(command, as).ended

/** One after the other, those that only look with the one before: each takes seconds here. */
async function runAll(list: readonly string[], then: (command: string) => unknown = () => {}): Promise<void> {
  let looking: Promise<void>[] = []
  for (const command of list) {
    if (LOOKS.test(command)) {
      looking.push(run(command))
      continue
    }
    await Promise.all(looking)
    looking = []
    await run(command)
    await then(command)
  }
  await Promise.all(looking)
}

/** Until this kernel ends. */
function serve(command: readonly string[]): ChildProcess {
  const [program = '', ...args] = command
  return spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] })
}

async function until(what: () => unknown): Promise<void> {
  for (const end = performance.now() + LIMIT_MS; !(await what()); await setTimeout(POLL_MS)) {
    if (performance.now() > end) throw new Error(`waited in vain: ${what}`)
  }
}

/** The host's programs, and its service. */
function furnish(): void {
  mkdirSync(`${FOLDER}/bin`, { recursive: true })
  symlinkSync(luoctl, `${FOLDER}/bin/luoctl`)
  symlinkSync(luod, `${FOLDER}/bin/luod`)
  process.env.PATH = `${FOLDER}/bin:${dirname(process.execPath)}:${process.env.PATH}`
  writeFileSync(
    SERVICE,
    `import { existsSync, writeFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { join, Refusal } from '${library}'
const live = await join()
const backupRuns = () => existsSync('${BACKUP}')
live.on('prepare', async () => {
  writeFileSync('${ASKED}', '')
  while (existsSync('${SLOW}')) await setTimeout(${POLL_MS})
})
${snippet}
const { buffer } = await live.memory('store', { size: 4096 })
const bytes = new Uint8Array(buffer)
writeFileSync('${FOUND}', live.origin + ' ' + bytes[0])
bytes[0] = 42
await live.ready()
setInterval(() => {}, 2 ** 30)
`,
  )
}

/** The kernel and the initrd, where the document has them; the initrd is that of the next boot. */
async function mountBoot(): Promise<void> {
  if (!KERNEL || !INITRD) throw new Error('the document names no kernel, or no initrd, in /boot')
  await run('mount -t tmpfs tmpfs /boot')
  copyFileSync(`${MACHINE_FOLDER}/kernel`, KERNEL)
  copyFileSync(`${MACHINE_FOLDER}/initrd`, INITRD)
  appendFileSync(INITRD, readFileSync(`${MACHINE_FOLDER}/as-boot-1`))
}

function sparse(name: string, bytes: number): string {
  const path = `${FOLDER}/${name}`
  writeFileSync(path, '')
  truncateSync(path, bytes)
  return path
}

/** What loading is refused for. Needs no luod. */
async function refuseToLoad(): Promise<void> {
  writeFileSync(`${FOLDER}/text`, 'no kernel at all')
  const loading = spawn(process.execPath, [
    fileURLToPath(import.meta.url),
    'load',
    sparse('slow-initrd', SLOW_INITRD_BYTES),
  ])
  const ended = once(loading, 'close')
  await once(loading.stdout, 'data')
  // The kernel says which of two was first; between two loads of the other one it may be this one.
  let beside: Ended
  do beside = await start(`luoctl --json kexec load ${KERNEL}`).ended
  while (beside.status === 0)
  say({ ran: 'load beside another', ...beside })
  loading.kill('SIGKILL')
  await ended
  const huge = sparse('huge', HUGE_BYTES)
  const noRoom = sparse('no-room', NO_ROOM_BYTES)
  await Promise.all([
    run(`${AS_NOBODY} luoctl --json kexec load ${KERNEL}`, 'load as a user'),
    run(`luoctl --json kexec load ${FOLDER}/text`, 'load a text'),
    run(`luoctl --json kexec load ${KERNEL} --cmdline '${'x'.repeat(MAX_COMMAND_LINE + 1)}'`, 'load a long line'),
    run(`luoctl --json kexec load ${KERNEL} --initrd ${huge}`, 'load more than there is'),
    run(`luoctl --json kexec load ${KERNEL} --initrd ${noRoom}`, 'load more than the scratch memory'),
  ])
  await run(`luoctl --json kexec load ${KERNEL} --cmdline quiet`, 'load a poor line')
}

/** Loads one kernel after the other, and nothing in between. */
function loadForever(initrdPath: string): never {
  const kernel = openFile(`${MACHINE_FOLDER}/kernel`)
  const initrd = openFile(initrdPath)
  console.log('loading')
  for (;;) {
    try {
      loadKernel({ kernel, initrd, commandLine: 'quiet' })
    } catch (error) {
      if (!isLuoError(error, 'EBUSY')) throw error
    }
  }
}

async function furnishLuod(client: VarlinkClient): Promise<KernelSession> {
  const { session } = (await client.call('CreateSession', { id: 'c', name: FORGOTTEN, keep_ms: KEEP_MS })).parameters
  using memory = createMemfd('forgotten', { size: 4096, overKexec: true })
  await client.call('Preserve', { id: 'p', session: session.session, files: [{ token: '1', fd: 0 }], fds: 1 }, [memory])
  const { fds } = await client.call('OpenKernelSession', { id: 'o', name: GUEST, direction: 'outgoing' })
  const guest = KernelSession.adopt(fds[0] as Fd)
  using other = createMemfd('guest', { size: 4096, overKexec: true })
  guest.preserve('1', other)
  return guest
}

async function workloadIs(client: VarlinkClient, state: string): Promise<void> {
  await until(async () => {
    const { workloads } = (await client.call('List', {})).parameters
    return workloads.some((workload) => workload.name === WORKLOAD && workload.state === state)
  })
}

/** Somebody does not let go, until `action` is over. */
async function whileSlow(action: () => Promise<unknown>): Promise<void> {
  rmSync(ASKED, { force: true })
  writeFileSync(SLOW, '')
  await action()
  rmSync(SLOW)
}

/** What a kexec is refused for, and how it is undone. A kernel is loaded. */
async function refuseToStart(client: VarlinkClient): Promise<void> {
  await Promise.all([
    run(`LUO_SOCKET=/run/luod/liveupdate.sock ${AS_NOBODY} luoctl --json kexec`, 'kexec as a user'),
    run(`luoctl --socket ${OTHER_SOCKET} --json kexec`, 'kexec without the device'),
  ])
  writeFileSync(BACKUP, '')
  await run('luoctl --json kexec', 'kexec while a workload refuses')
  rmSync(BACKUP)
  await whileSlow(() => run('luoctl --json kexec --deadline 100ms', 'kexec with a short deadline'))
  await whileSlow(async () => {
    const kexec = begin(theKexec, 'kexec that is aborted')
    await until(() => existsSync(ASKED))
    await run('luoctl --json kexec', 'kexec beside another')
    if (commands.includes(ABORT)) await run(ABORT)
    await kexec.ended
  })
  await whileSlow(async () => {
    const kexec = begin(theKexec, 'kexec that gets Ctrl-C')
    await until(() => existsSync(ASKED))
    kexec.child.kill('SIGINT')
    await kexec.ended
  })
  let update: Promise<unknown> = Promise.resolve()
  await whileSlow(async () => {
    update = client.call('Update', { id: 'u', workload: WORKLOAD, deadline_ms: LIMIT_MS })
    await until(() => existsSync(ASKED))
    await run('luoctl --json kexec', 'kexec beside an update')
  })
  await update
  await workloadIs(client, 'running')
}

async function before(): Promise<void> {
  await mountBoot()
  serve(['luod', '--backend', 'auto'])
  serve(['luod', '--backend', 'userspace', '--socket', OTHER_SOCKET])
  const client = await connect()
  serve(['luoctl', 'run', WORKLOAD, '--keep', KEEP, '--', process.execPath, SERVICE])
  const guest = await furnishLuod(client)
  await refuseToLoad()
  await workloadIs(client, 'running')
  let loading = ''
  await runAll(commands.slice(0, kexecAt), async (command) => {
    if (command.startsWith('luoctl kexec load ')) loading = command
    if (isKernelLoaded() || loading === '') return
    await Promise.all([
      run('luoctl --json kexec', 'kexec with nothing loaded'),
      run('luoctl kexec --dry-run', 'dry run with nothing loaded'),
    ])
    await run(loading, 'load once more')
  })
  await refuseToStart(client)
  say({ ran: theKexec, guest: guest.name })
  said()
  await once(spawn('bash', ['-c', theKexec], { stdio: 'inherit' }), 'close')
  throw new Error('this kernel goes on')
}

/** luod may not reboot here, so that what it answers then is seen. */
async function after(): Promise<void> {
  serve([...NO_REBOOT, 'luod'])
  const client = await connect()
  serve(['luoctl', 'run', WORKLOAD, '--keep', KEEP, '--', process.execPath, SERVICE])
  const { fds } = await client.call('OpenKernelSession', { id: 'o', name: GUEST, direction: 'incoming' })
  using guest = KernelSession.adopt(fds[0] as Fd)
  await workloadIs(client, 'running')
  say({ found: readFileSync(FOUND, 'utf8'), guest: guest.name })
  await runAll(commands.slice(kexecAt + 1).filter((command) => command !== ABORT))
  load()
  await Promise.all([
    run('luoctl --json kexec', 'kexec of a luod that may not reboot'),
    run('luoctl --json kexec --dry-run', 'kexec that loses a session'),
  ])
  await run(`luoctl --json kexec --dry-run --drop ${GUEST}`, 'kexec that may lose a session')
  writeFileSync('/proc/sys/kernel/kexec_load_disabled', '1')
  await run(`luoctl --json kexec load ${MACHINE_FOLDER}/kernel`, 'load where it is disabled')
}

if (stage === 'load') loadForever(process.argv[3] ?? '')
furnish()
if (stage === 'before') await before()
else await after()
process.exit(0)
