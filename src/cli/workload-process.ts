/**
 * Starts a workload's process for `luoctl run`: environment, logical working directory, the ticket. Fails with
 * LUO_SPAWN, whose params carry the exit code that a shell would give (126, 127).
 *
 * Node's spawn reports a missing program in a later turn; the pid is there, or not, at once. Both are read here, so
 * that callers see one synchronous answer.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { inheritStdio } from '../sys/node.js'
import { EXIT } from './context.js'
import type { Exit, Started } from './supervisor.js'

/** The number under which the ticket is inherited: the first one after stdio. */
const TICKET_FD = 3

/** $PWD when it names the working directory, with its symlinks: a `current` link is then followed at each start. */
export function logicalDirectory(env: NodeJS.ProcessEnv = process.env, cwd: string = process.cwd()): string {
  const pwd = env.PWD
  return pwd?.startsWith('/') && sameDirectory(pwd, cwd) ? pwd : cwd
}

/** True when both paths are one directory. A path that cannot be looked at is not. */
function sameDirectory(a: string, b: string): boolean {
  try {
    const left = statSync(a)
    const right = statSync(b)
    return left.dev === right.dev && left.ino === right.ino
  } catch {
    return false
  }
}

export interface WorkloadEnvironment {
  workload: string
  socket: string
  directory: string
}

/** The service manager's sockets are the supervisor's, and a ticket is for one process. */
export function workloadEnvironment(base: NodeJS.ProcessEnv, options: WorkloadEnvironment, ticket: boolean) {
  const { NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC, LUO_TICKET, ...rest } = base
  const env: NodeJS.ProcessEnv = {
    ...rest,
    LUO_WORKLOAD: options.workload,
    LUO_SOCKET: options.socket,
    PWD: options.directory,
  }
  if (ticket) env.LUO_TICKET = String(TICKET_FD)
  return env
}

/** Starts `command`. The ticket stays owned by the caller, who closes it afterwards. */
export function startWorkload(
  command: readonly string[],
  options: WorkloadEnvironment,
  onExit: (exit: Exit) => void,
  ticket?: Fd,
): Started {
  const [program, ...args] = command
  if (program === undefined) throw new LuoError('LUO_INVALID_PARAMETER', 'start a workload: no command was given')
  findProgram(program, options.directory)
  let child: ChildProcess
  try {
    child = spawn(program, args, {
      cwd: options.directory,
      env: workloadEnvironment(process.env, options, ticket !== undefined),
      stdio: ticket ? ['inherit', 'inherit', 'inherit', inheritStdio(ticket)] : 'inherit',
    })
  } catch (error) {
    throw spawnError(program, error)
  }
  child.once('error', () => {})
  if (child.pid === undefined) throw spawnError(program, undefined)
  child.once('exit', (code, signal) => onExit({ code, signal }))
  return { pid: child.pid, kill: (signal) => void child.kill(signal) }
}

function spawnError(program: string, cause: unknown): LuoError {
  const why = cause instanceof Error ? cause.message : 'the system refused to execute it'
  return new LuoError('LUO_SPAWN', `cannot start ${program}: ${why}`, {
    cause,
    params: { exitCode: EXIT.CANNOT_EXECUTE },
  })
}

/**
 * Where a shell would find it. Names what is wrong before spawn, whose own error cannot tell a missing directory from a
 * missing program.
 */
export function findProgram(program: string, directory: string): string {
  if (!existsSync(directory)) {
    throw new LuoError('LUO_SPAWN', `cannot start ${program}: the working directory ${directory} is gone`, {
      params: { exitCode: EXIT.CANNOT_EXECUTE },
    })
  }
  const candidates = program.includes('/')
    ? [resolve(directory, program)]
    : (process.env.PATH ?? '/usr/local/bin:/usr/bin:/bin')
        .split(delimiter)
        .map((folder) => join(resolve(directory, folder), program))
  const refuse = (why: string, exitCode: number) =>
    new LuoError('LUO_SPAWN', `cannot start ${program || '""'}: ${why}`, { params: { exitCode } })
  const there = candidates.filter((path) => existsSync(path))
  const found = there.filter((path) => statSync(path).isFile())
  if (found.length === 0) {
    if (program.includes('/') && there.length > 0) throw refuse('it is no file', EXIT.CANNOT_EXECUTE)
    throw refuse('no such program', EXIT.NOT_FOUND)
  }
  const [usable] = found.filter(executable)
  if (usable === undefined) throw refuse('it is not executable', EXIT.CANNOT_EXECUTE)
  return usable
}

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
