#!/usr/bin/env node
/**
 * luod, the daemon: keeps what workloads preserve, and leads their updates. As root it serves every user of the
 * machine, each their own workloads; otherwise the user that it runs as.
 *
 * Exit codes: 0 ended in order, 1 could not start, 2 wrong usage, 3 another luod listens at the socket already.
 */
import { readFileSync, rmSync, writeSync } from 'node:fs'
import { totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { asLuoError, LuoError } from '../errors.js'
import { raiseNofile } from '../sys/limits.js'
import { notify } from '../sys/notify.js'
import { prepareSocketDirectory, socketPath } from '../wire/socket-path.js'
import { Daemon } from './daemon.js'
import { loadHandlers } from './handlers.js'
import { listenAlone } from './listen-alone.js'
import { logger } from './log.js'
import { type MetricsAddress, parseMetricsAddress, serveMetrics } from './metrics-server.js'
import { parseLimits, userLimits } from './user-limits.js'

const HELP = `luod: keeps the state of services while their code changes

Usage: luod [--socket PATH] [--limit NAME=N]... [--metrics ADDRESS] [--exit-when-idle] [--ready-fd N] [--verbose]
Usage: luod [--socket PATH] [--limit NAME=N]... [--plugin PATH]... [--exit-when-idle] [--ready-fd N] [--verbose]

  --socket PATH      where to listen; else $LUO_SOCKET, else /run/luod/liveupdate.sock for root,
                     else $XDG_RUNTIME_DIR/luod/liveupdate.sock, else /tmp/luod-$UID/liveupdate.sock
  --limit NAME=N     what one user may have: connections, workloads, sessions, files, bytes (of memory; 4GiB),
                     watchers; luoctl status shows what holds, and what is used
  --metrics ADDRESS  serve Prometheus metrics at unix:/PATH, 127.0.0.1:PORT or [::1]:PORT
  --plugin PATH      a module with handlers for more kinds of files (docs/plugins.md); an absolute path that only
                     root and luod's user may write to
  --exit-when-idle   end when the last workload and the last connection have ended
  --ready-fd N       write "ready" to this descriptor when clients can connect
  --verbose          also log what is not a problem
  --help, --version

Under systemd (NOTIFY_SOCKET) it reports when it is ready. SIGTERM ends it; services go on without updates.
Exit codes: 0 ended in order, 1 could not start, 2 wrong usage, 3 another luod listens at the socket already`

const EXIT = { OK: 0, FAILED: 1, USAGE: 2, ALREADY_RUNNING: 3 } as const
/** A socket that everybody may connect to: who it is is asked of the kernel, and what it may see follows from that. */
const ROOT_SOCKET_MODE = 0o666
const USER_SOCKET_MODE = 0o600

function parse() {
  try {
    return parseArgs({
      options: {
        socket: { type: 'string' },
        limit: { type: 'string', multiple: true, default: [] },
        metrics: { type: 'string' },
        plugin: { type: 'string', multiple: true, default: [] },
        'exit-when-idle': { type: 'boolean', default: false },
        'ready-fd': { type: 'string' },
        verbose: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
        version: { type: 'boolean', default: false },
      },
    }).values
  } catch (error) {
    console.error(`luod: ${(error as Error).message}\n\n${HELP}`)
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
    log('error', `${known.message} (${known.code})`)
    process.exit(exitCode(known))
  }
}

function exitCode({ code }: LuoError): number {
  if (code === 'LUO_INVALID_PARAMETER') return EXIT.USAGE
  return code === 'EADDRINUSE' ? EXIT.ALREADY_RUNNING : EXIT.FAILED
}

async function start(
  options: ReturnType<typeof parse>,
  version: string,
  log: ReturnType<typeof logger>,
): Promise<void> {
  const readyFd = options['ready-fd'] === undefined ? undefined : Number(options['ready-fd'])
  if (readyFd !== undefined && !(Number.isInteger(readyFd) && readyFd > 0)) {
    throw new LuoError('LUO_INVALID_PARAMETER', `--ready-fd ${options['ready-fd']} is no descriptor`)
  }
  // Files of clients are ours from the moment they arrive: nobody else may read them, whatever our umask was.
  process.umask(0o077)
  const path = socketPath(options.socket)
  const { soft: nofile } = raiseNofile()
  const machine = { nofile, shared: process.getuid?.() === 0, memory: totalmem() }
  const limits = userLimits(parseLimits(options.limit), machine)
  const metrics = options.metrics === undefined ? undefined : parseMetricsAddress(options.metrics)
  const registry = await loadHandlers(options.plugin, (file) => daemon.made(file))
  prepareSocketDirectory(path)
  const listener = listenAlone(path, process.getuid?.() === 0 ? ROOT_SOCKET_MODE : USER_SOCKET_MODE)
  const end = (code: number) => {
    daemon.close()
    rmSync(path, { force: true })
    if (metrics && 'path' in metrics) rmSync(metrics.path, { force: true })
    process.exit(code)
  }
  const daemon = Daemon.begin({
    listener,
    version,
    nofile,
    limits,
    registry,
    log,
    ...(options['exit-when-idle'] ? { onIdle: () => end(EXIT.OK) } : {}),
  })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      notifyManager('STOPPING=1', log)
      end(EXIT.OK)
    })
  }
  // A defect costs the request in which it shows, and not the state of everybody.
  process.on('uncaughtException', (error) => log('error', `defect: ${error.stack ?? error.message}`))
  process.on('unhandledRejection', (reason) => log('error', `defect: ${String(reason)}`))
  // A terminal or a supervisor that goes away is no reason to let go of other people's state.
  process.on('SIGHUP', () => {})
  if (metrics) {
    try {
      await startMetrics(metrics, daemon, version, log)
    } catch (error) {
      log('error', `serve metrics at ${options.metrics}: ${(error as Error).message}`)
      daemon.close()
      rmSync(path, { force: true })
      process.exit(EXIT.FAILED)
    }
  }
  log('info', `luod ${version} listens at ${path}`)
  notifyManager('READY=1', log)
  if (readyFd !== undefined) writeSync(readyFd, 'ready\n')
}

async function startMetrics(
  address: MetricsAddress,
  daemon: Daemon,
  version: string,
  log: ReturnType<typeof logger>,
): Promise<void> {
  // Their library is loaded by nobody else.
  const { createMetrics } = await import('./metrics.js')
  await serveMetrics(address, createMetrics(daemon, version), (error) => log('error', `metrics: ${String(error)}`))
}

function notifyManager(state: string, log: ReturnType<typeof logger>): void {
  const { NOTIFY_SOCKET } = process.env
  if (!NOTIFY_SOCKET) return
  try {
    notify(NOTIFY_SOCKET, state)
  } catch (error) {
    log('warning', `tell the service manager ${state}: ${(error as Error).message}`)
  }
}

void main()
