#!/usr/bin/env node
/**
 * luod, the daemon: keeps what workloads preserve, and leads their updates. As root it serves every user of the
 * machine, each their own workloads; otherwise the user that it runs as.
 *
 * Exit codes: 0 ended in order, 1 could not start, 2 wrong usage, 3 another luod listens at the socket already, 4 what
 * another luod has left, at the kexec or in the store, is of another version.
 */
import { existsSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { RECORDS_VERSION } from '../abi/records.js'
import type { LiveSession } from '../backends/contract.js'
import { KernelSession } from '../backends/kernel.js'
import { asLuoError, LuoError } from '../errors.js'
import { closeAll, type Fd, inheritedFd } from '../sys/fd.js'
import { raiseNofile } from '../sys/limits.js'
import { inheritedFiles } from '../sys/listen-fds.js'
import { requireProc } from '../sys/surroundings.js'
import { prepareSocketDirectory, socketPath } from '../wire/socket-path.js'
import {
  adoptBackend,
  type BackendChoice,
  Beginning,
  backendChoice,
  type KernelBackend,
  openBackend,
} from './backend.js'
import { beginAtLast, endArrival } from './begin.js'
import { Daemon, type RestoreOptions } from './daemon.js'
import { FdStore, type ReceivedFiles, receivedFiles } from './fd-store.js'
import { loadHandlers } from './handlers.js'
import { listenAlone, lockSocket } from './listen-alone.js'
import { type Logger, logger } from './log.js'
import { MACHINES_VERSION } from './machines-state.js'
import { parseMetricsAddress } from './metrics-server.js'
import { OtherVersionNote } from './other-version.js'
import { rehearse } from './rehearsal.js'
import { Replica } from './replica.js'
import { check, refuse } from './restore-check.js'
import { END, Serving } from './serve.js'
import { goesOnWithRecords, isSessionKey, receivedSessions } from './session-store.js'
import { step } from './steps.js'
import { waitForTakeover } from './takeover.js'
import { parseLimits, userLimits } from './user-limits.js'

const HELP = `luod: keeps the state of services while their code changes

Usage: luod [--socket PATH] [--backend auto|kernel|userspace] [--standby] [--limit NAME=N]...
            [--metrics ADDRESS] [--plugin PATH]... [--exit-when-idle] [--ready-fd N] [--verbose]

  --socket PATH      where to listen; else $LUO_SOCKET, else /run/luod/liveupdate.sock for root,
                     else $XDG_RUNTIME_DIR/luod/liveupdate.sock, else /tmp/luod-$UID/liveupdate.sock
  --backend WHICH    kernel: what is preserved crosses a kexec too, by /dev/liveupdate, which is luod's alone then;
                     userspace: without it; auto, the default: kernel for root where there is a device
  --limit NAME=N     what one user may have: connections, workloads, sessions, files, bytes (of memory; 4GiB),
                     watchers; luoctl status shows what holds, and what is used
  --metrics ADDRESS  serve Prometheus metrics at unix:/PATH, 127.0.0.1:PORT or [::1]:PORT
  --plugin PATH      a module with handlers for more kinds of files (docs/plugins.md); an absolute path that only
                     root and luod's user may write to
  --standby          keep a second process with a copy of everything, which takes over when this one dies
  --exit-when-idle   end when the last workload and the last connection have ended
  --ready-fd N       write "ready" to this descriptor when clients can connect
  --verbose          also log what is not a problem
  --help, --version

Under systemd (NOTIFY_SOCKET) it reports when it is ready. SIGTERM ends it; services go on without updates.
Exit codes: 0 ended in order, 1 could not start, 2 wrong usage, 3 another luod listens at the socket already,
            4 what a luod of another version has left cannot be read, and was not touched: start that one`

const EXIT = { OK: 0, FAILED: 1, USAGE: 2, ALREADY_RUNNING: 3, OTHER_VERSION: 4 } as const
/** A socket that everybody may connect to: who it is is asked of the kernel, and what it may see follows from that. */
const SOCKET_MODE = process.getuid?.() === 0 ? 0o666 : 0o600

type Options = ReturnType<typeof parse>
type Common = Omit<RestoreOptions, 'descriptors' | 'mode' | 'kernel'>

function parse() {
  try {
    return parseArgs({
      options: {
        socket: { type: 'string' },
        backend: { type: 'string', default: 'auto' },
        limit: { type: 'string', multiple: true, default: [] },
        metrics: { type: 'string' },
        plugin: { type: 'string', multiple: true, default: [] },
        standby: { type: 'boolean', default: false },
        'exit-when-idle': { type: 'boolean', default: false },
        'ready-fd': { type: 'string' },
        'line-fd': { type: 'string' },
        'failure-fd': { type: 'string' },
        verbose: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
        version: { type: 'boolean', default: false },
      },
    }).values
  } catch (error) {
    console.error(`luod: ${(error as Error).message}\n  luod --help shows the options.`)
    return process.exit(EXIT.USAGE)
  }
}

async function main(): Promise<void> {
  const options = parse()
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  if (options.help || options.version) {
    console.log(options.help ? HELP : version)
    return
  }
  const log = logger(options.verbose)
  try {
    await start(options, version, log)
  } catch (error) {
    const known = asLuoError(error, 'EIO', 'start luod')
    sayWhy(`${known.message} (${known.code})`, options, log)
    process.exit(exitCode(known))
  }
}

/** Whoever starts a luod of its own, and asks for the reason, says it itself. */
function sayWhy(why: string, options: Options, log: Logger): void {
  try {
    const number = descriptorNumber('failure-fd', options)
    if (number === undefined) log('error', why)
    else writeSync(number, why)
  } catch {
    log('error', why)
  }
}

function exitCode({ code }: LuoError): number {
  if (code === 'LUO_INVALID_PARAMETER') return EXIT.USAGE
  if (code === 'LUO_RECORDS_VERSION') return EXIT.OTHER_VERSION
  return code === 'EADDRINUSE' ? EXIT.ALREADY_RUNNING : EXIT.FAILED
}

async function start(options: Options, version: string, log: Logger): Promise<void> {
  requireProc()
  const readyFd = descriptorNumber('ready-fd', options)
  const lineFd = descriptorNumber('line-fd', options)
  // Files of clients are ours from the moment they arrive: nobody else may read them, whatever our umask was.
  process.umask(0o077)
  const path = socketPath(options.socket)
  const { soft: nofile } = raiseNofile()
  const machine = { nofile, shared: process.getuid?.() === 0, memory: totalmem() }
  const limits = userLimits(parseLimits(options.limit), machine)
  const choice = backendChoice(options.backend)
  const metrics = options.metrics === undefined ? undefined : parseMetricsAddress(options.metrics)
  const serving = new Serving({
    ...{ path, metrics, readyFd, version, log },
    main: fileURLToPath(import.meta.url),
    args: argumentsOfNext(options, path),
    standby: options.standby,
  })
  let daemon: Daemon | undefined
  const registry = await loadHandlers(options.plugin, (file) => daemon?.made(file) === true)
  const common = {
    ...{ version, nofile, limits, registry, log, replacement: serving },
    ...(options['exit-when-idle'] ? { onIdle: () => serving.end(END.IN_ORDER) } : {}),
  }
  if (lineFd === undefined) {
    const received = receivedFiles(inheritedFiles())
    const crossed = receivedSessions(received, (fd) => KernelSession.adopt(fd), log)
    if (goesOnWithRecords(received, crossed)) {
      for (const session of crossed) session.close()
      const left = recover(received, path, choice, common)
      daemon = left.daemon
      await serving.begin(daemon, left.lock, { how: 'next', received })
      closeAll([...received.entries.values()].map(({ fd }) => fd))
      return
    }
    await dropLeftovers(received)
    prepareSocketDirectory(path)
    const { listener, lock } = listenAlone(path, SOCKET_MODE)
    const beginning = new Beginning(mayCross(openBackend(choice), crossed), crossed, new OtherVersionNote(path))
    const begun = await beginAtLast({ beginning, listener, options: common, received })
    listener.close()
    daemon = begun.daemon
    report(daemon, log)
    try {
      // What serves nobody any more if luod ends is served without metrics too.
      await serving.begin(daemon, lock, { how: begun.arrived ? 'next' : 'first', received })
    } catch (error) {
      daemon.close()
      rmSync(path, { force: true })
      throw new LuoError('EIO', `begin to serve: ${(error as Error).message}`, { cause: error })
    }
    closeAll([...received.entries.values()].map(({ fd }) => fd))
    endArrival(begun, serving.storeFailed, log)
    return
  }
  const taken = await takeOver(inheritedFd(lineFd), path, common)
  if (!taken) return
  daemon = taken.daemon
  await serving.begin(daemon, taken.lock, { how: 'next', predecessorGone: taken.gone })
}

/** LUO_UNSUPPORTED: sessions came over a kexec, and this luod would not look into them. */
function mayCross(kernel: KernelBackend | undefined, crossed: readonly LiveSession[]): KernelBackend | undefined {
  if (kernel || crossed.length === 0) return kernel
  const what = 'go on with what came over the kexec'
  throw new LuoError(
    'LUO_UNSUPPORTED',
    `${what}: this luod is without the kernel's device; start it with --backend kernel`,
  )
}

/** What the luod before has left with the service manager. LUO_RECORDS, and then it stays there. */
function recover({ entries, others }: ReceivedFiles, path: string, choice: BackendChoice, common: Common) {
  const recoveredAt = process.hrtime.bigint()
  closeAll(others.map(({ fd }) => fd))
  // The store compares what it has with what it is given: it needs these for a moment more.
  const descriptors = new Map<string, Fd>()
  for (const [key, { fd }] of entries) if (!isSessionKey(key)) descriptors.set(key, fd.dup())
  // The last that luod stores when it begins: if it did not come to that, nobody has the lock.
  let lock = descriptors.get('lock')
  descriptors.delete('lock')
  step('recovery.build')
  if (!descriptors.has('listener') && !lock) {
    // The manager took memory over a kexec that nobody asked luod for, and sockets end with their kernel.
    prepareSocketDirectory(path)
    const begun = listenAlone(path, SOCKET_MODE)
    descriptors.set('listener', begun.listener)
    lock = begun.lock
  }
  lock ??= lockSocket(path)
  // Only one that a luod of before has left: the store does not get it any more.
  const kernel = backendOf(descriptors.get('device')) ?? openBackend(choice)
  descriptors.delete('device')
  const daemon = Daemon.restore({ ...common, kernel, descriptors, mode: 'recover' })
  daemon.tookOver('crash', recoveredAt)
  report(daemon, common.log)
  return { daemon, lock }
}

/**
 * Of a luod that ended before it was whole, and had told nobody of anything: while they are open, nobody else can
 * listen. What came over a kexec stays.
 */
async function dropLeftovers({ entries, others, outdated }: ReceivedFiles): Promise<void> {
  const { NOTIFY_SOCKET } = process.env
  const dropped = new Map([...entries].filter(([key]) => !isSessionKey(key)))
  for (const key of dropped.keys()) entries.delete(key)
  try {
    if (!NOTIFY_SOCKET || dropped.size === 0) return
    const received = { entries: dropped, others: [], outdated: outdated.splice(0) }
    const store = new FdStore({ path: NOTIFY_SOCKET, limit: dropped.size, received })
    store.dropUnclaimed()
    await store.flush()
    store.close()
  } finally {
    closeAll([...dropped.values(), ...others].map(({ fd }) => fd))
  }
}

/** The device that the luod before this one had. */
function backendOf(device: Fd | undefined): KernelBackend | undefined {
  return device && adoptBackend(device)
}

function report({ findings }: Daemon, log: Logger): void {
  for (const { what, key, why } of findings) log('error', `lost: ${what} ${key}: ${why}`)
}

/** Stands by until this process is luod; undefined when it is not needed any more. */
async function takeOver(line: Fd, path: string, common: Common) {
  const { version, log, registry } = common
  const replica = new Replica(registry, (error, action) => log('error', `${action}: ${String(error)}`))
  const end = () => process.exit(EXIT.OK)
  // While another one is luod, that one is told.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, end)
  process.on('SIGHUP', () => {})
  const takeover = await waitForTakeover({
    ...{ line, version, replica },
    records: [RECORDS_VERSION],
    machines: [MACHINES_VERSION],
    onReady: (isOver) => void rehearse(`${path}.rehearsal-${process.pid}`, isOver),
    verify: () => refuse('verify what luod holds', check(replica.now(), registry).findings),
  })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, end)
  if (!takeover) {
    replica.close()
    return undefined
  }
  const { how, pausedAt } = takeover
  step('takeover.build')
  const lock = replica.take('lock')
  const kernel = backendOf(replica.take('device'))
  try {
    if (!lock) throw new LuoError('LUO_RECORDS', 'take over: there is no descriptor of the lock')
    const daemon = Daemon.takeOver({ ...common, kernel, replica, mode: how === 'upgrade' ? 'strict' : 'recover' })
    try {
      takeover.serve()
    } catch (error) {
      daemon.letGo()
      throw error
    }
    daemon.tookOver(how, pausedAt)
    report(daemon, log)
    return { daemon, lock, gone: takeover.gone() }
  } catch (error) {
    lock?.close()
    kernel?.device.close()
    takeover.fail(asLuoError(error, 'EIO', 'take over'))
    throw error
  }
}

function descriptorNumber(name: 'ready-fd' | 'line-fd' | 'failure-fd', options: Options): number | undefined {
  const text = options[name]
  if (text === undefined) return undefined
  const number = Number(text)
  if (Number.isInteger(number) && number > 2 && existsSync(`/proc/self/fd/${number}`)) return number
  throw new LuoError('LUO_INVALID_PARAMETER', `--${name} ${text}: no such descriptor was passed on`)
}

/** What a luod that goes on where this one is would be started with. */
function argumentsOfNext(options: Options, path: string): string[] {
  const { limit, metrics, plugin } = options
  return [
    ...['--socket', path, '--backend', options.backend],
    ...limit.flatMap((text) => ['--limit', text]),
    ...plugin.flatMap((text) => ['--plugin', text]),
    ...(metrics === undefined ? [] : ['--metrics', metrics]),
    ...(['standby', 'exit-when-idle', 'verbose'] as const).flatMap((name) => (options[name] ? [`--${name}`] : [])),
  ]
}

void main()
