/**
 * Reaches luod, and starts a private one where none runs: a detached process of its own that ends with its last
 * workload and connection. Two that start one at the same time both end up with the same luod: the one that loses the
 * race for the socket ends, and its starter connects again.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { isLuoError, LuoError } from '../errors.js'
import type { ReconnectingClient } from '../wire/reconnecting.js'
import { type ConnectOptions, connect, doesNotAnswer } from './context.js'

/** A cold start takes 0.1 s; this leaves room for a loaded machine. */
const START_LIMIT_MS = 10_000
/** How often the whole of connect-else-start is tried: a luod can be ending just as we come. */
const ATTEMPTS = 5
const RETRY_MS = 50
/** The descriptor on which luod says that it is ready, or why it cannot start. */
const LINE = '3'
const READY = 'ready\n'
/** luod's exit code when somebody listens at the socket. */
const ALREADY_RUNNING = 3

/** The built file of another part of the package, also when this module is run from `src`. */
export function builtFile(path: string): string {
  const beside = fileURLToPath(new URL(`../${path}`, import.meta.url))
  return existsSync(beside) ? beside : fileURLToPath(new URL(`../../dist/${path}`, import.meta.url))
}

/**
 * The environment of a process that is luod: nothing of the service manager, of a workload or for its Node reaches it.
 */
function daemonEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC, LUO_TICKET, LUO_WORKLOAD, ...rest } = env
  return Object.fromEntries(Object.entries(rest).filter(([name]) => !name.startsWith('NODE_')))
}

/** `quiet`: its messages go nowhere; whoever reads ours must not wait for its end, when it may outlive us. */
export async function connectOrStart(
  socket: string,
  options: ConnectOptions & { quiet?: boolean } = {},
): Promise<ReconnectingClient> {
  for (let attempt = 0; ; attempt++) {
    try {
      return (await connect(socket, options)).client
    } catch (error) {
      if (!isLuoError(error, 'LUO_NO_DAEMON') || doesNotAnswer(error)) throw error
      if (attempt === ATTEMPTS) {
        const what = `started a private luod ${ATTEMPTS} times, and each found another one that`
        throw new LuoError('LUO_NO_DAEMON', `${what} does not serve: ${error.message}`, { cause: error })
      }
    }
    if (attempt > 1) await new Promise((resolve) => setTimeout(resolve, RETRY_MS * attempt))
    await startDaemon(socket, options.quiet === true)
  }
}

/**
 * Resolves when the new luod is ready, or has ended because another one has the place, or had nothing to do any more.
 * What else ends it would end the next one too: LUO_NO_DAEMON says what.
 */
async function startDaemon(socket: string, quiet: boolean): Promise<void> {
  const child = spawn(
    process.execPath,
    [
      ...[builtFile('daemon/main.js'), '--socket', socket, '--backend', 'userspace', '--exit-when-idle'],
      ...['--ready-fd', LINE, '--failure-fd', LINE],
    ],
    {
      detached: true,
      cwd: '/',
      env: daemonEnvironment(process.env),
      stdio: ['ignore', 'ignore', quiet ? 'ignore' : 'inherit', 'pipe'],
    },
  )
  const line = child.stdio[Number(LINE)] as Readable
  try {
    await settled(child, line)
  } finally {
    line.destroy()
    child.unref()
  }
}

function settled(child: ChildProcess, line: Readable): Promise<void> {
  return new Promise((resolve, reject) => {
    let said = ''
    const late = setTimeout(() => {
      child.kill('SIGKILL')
      end(`it was not ready in ${START_LIMIT_MS} ms`)
    }, START_LIMIT_MS)
    const end = (failure?: string) => {
      clearTimeout(late)
      if (failure === undefined) resolve()
      else reject(new LuoError('LUO_NO_DAEMON', `cannot start a private luod: ${failure}`))
    }
    child.once('error', (error) => end(error.message))
    line.on('data', (data) => {
      said += data
      if (said === READY) end()
    })
    line.once('error', () => {})
    // When it has said all.
    child.once('close', (code, signal) => {
      if (code === 0 || code === ALREADY_RUNNING) end()
      else end(said || `it ended with ${signal ?? `code ${code}`}`)
    })
  })
}
