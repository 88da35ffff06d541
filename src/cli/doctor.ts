/**
 * `luoctl doctor`: whether this machine can do what liveupdate needs, and what to do where it cannot. Each check is a
 * pure function of facts (`checks`), which `gather` collects; so every answer can be tested on any machine. A fact that
 * cannot be found out is a warning, not a failure. Exit code 1 when a check failed.
 */
import { lstatSync } from 'node:fs'
import { release } from 'node:os'
import { dirname } from 'node:path'
import { type Context, connect, doesNotAnswer, EXIT } from './context.js'
import { type KernelFacts, kernelChecks, kernelFacts } from './doctor-kernel.js'

/** Below this, a service with some hundreds of connections can fail to hand them over. */
const NOFILE_WANTED = 4096
/** The most that one message of files needs, and some for luod itself. */
const NOFILE_NEEDED = 512
const NODE_MINIMUM = [20, 19] as const
/** fcntl(F_DUPFD_QUERY); before it device, inode and link of a file must do. */
const DUPFD_QUERY_SINCE = [6, 10] as const
/** getsockopt(SO_PEERPIDFD); before it a pid could in theory be another process by the time it is looked at. */
const PEERPIDFD_SINCE = [6, 5] as const
/** memfd_create(MFD_ALLOW_SEALING) and pidfd_open, without which nothing works. */
const PIDFD_SINCE = [5, 3] as const

export interface Check {
  name: string
  status: 'ok' | 'warn' | 'fail'
  message: string
  advice?: string
}

export interface SocketFacts {
  path: string
  uid: number
  /** Undefined when there is none yet. */
  directory: { link: boolean; uid: number; mode: number } | undefined
  /** `silent`: it is there, and does not answer. */
  reachable: { version: string; pid: number } | { error: string; silent?: boolean }
}

export interface Facts {
  platform: string
  node: string
  kernel: string
  /** The error of trying, or undefined when it worked. */
  memfd: string | undefined
  nofile: { soft: number; hard: number } | { error: string }
  socket: SocketFacts
  /** Undefined elsewhere than on Linux. */
  forKernel: KernelFacts | undefined
}

export function checks(facts: Facts): Check[] {
  if (facts.platform !== 'linux') {
    return [
      {
        name: 'system',
        status: 'fail',
        message: `${facts.platform}: luod needs Linux`,
        advice: 'The client library works here as plain memory and plain listeners; deploy on Linux for updates.',
      },
    ]
  }
  return [
    checkNode(facts.node),
    ...checkKernel(facts.kernel),
    facts.memfd === undefined
      ? { name: 'memory files', status: 'ok', message: 'memfd_create with seals works' }
      : {
          name: 'memory files',
          status: 'fail',
          message: `memfd_create does not work: ${facts.memfd}`,
          advice: 'If koffi is missing: npm install --include=optional. Else a sandbox forbids memfd_create: allow it.',
        },
    checkNofile(facts.nofile),
    ...checkSocket(facts.socket),
    ...(facts.forKernel ? kernelChecks(facts.forKernel) : []),
  ]
}

/** The first two numbers of a version, or undefined. */
export function parseVersion(text: string): [number, number] | undefined {
  const match = /(\d+)\.(\d+)/.exec(text)
  return match ? [Number(match[1]), Number(match[2])] : undefined
}

function atLeast(version: readonly [number, number], minimum: readonly [number, number]): boolean {
  return version[0] > minimum[0] || (version[0] === minimum[0] && version[1] >= minimum[1])
}

function checkNode(text: string): Check {
  const version = parseVersion(text)
  const ok = version !== undefined && atLeast(version, NODE_MINIMUM)
  return ok
    ? { name: 'Node.js', status: 'ok', message: text }
    : { name: 'Node.js', status: 'fail', message: text, advice: `Install Node.js ${NODE_MINIMUM.join('.')} or newer.` }
}

function checkKernel(text: string): Check[] {
  const version = parseVersion(text)
  if (!version) {
    return [
      { name: 'kernel', status: 'warn', message: `cannot read the version "${text}"`, advice: 'Needs Linux 5.3.' },
    ]
  }
  const feature = (name: string, since: readonly [number, number], what: string, otherwise: string): Check =>
    atLeast(version, since)
      ? { name, status: 'ok', message: `${what} (since Linux ${since.join('.')}; this is ${text})` }
      : { name, status: 'warn', message: `Linux ${text} has no ${what} (since ${since.join('.')})`, advice: otherwise }
  return [
    atLeast(version, PIDFD_SINCE)
      ? { name: 'kernel', status: 'ok', message: `Linux ${text}` }
      : {
          name: 'kernel',
          status: 'fail',
          message: `Linux ${text} is older than ${PIDFD_SINCE.join('.')}`,
          advice: 'Use a newer kernel: pidfd_open is needed to know for sure that a process has ended.',
        },
    feature(
      'same file',
      DUPFD_QUERY_SINCE,
      'F_DUPFD_QUERY',
      'Device, inode and link of a file are compared instead, which is a little weaker.',
    ),
    feature('peer identity', PEERPIDFD_SINCE, 'SO_PEERPIDFD', 'Processes are found by pid, which is a little weaker.'),
  ]
}

function checkNofile(nofile: Facts['nofile']): Check {
  const name = 'open files'
  if ('error' in nofile) return { name, status: 'warn', message: `cannot read RLIMIT_NOFILE: ${nofile.error}` }
  const message = `limit ${nofile.soft}, can be raised to ${nofile.hard}`
  const advice = 'Each connection that moves needs one in luod: raise LimitNOFILE= (systemd) or ulimit -Hn.'
  if (nofile.hard < NOFILE_NEEDED) return { name, status: 'fail', message, advice }
  return nofile.hard < NOFILE_WANTED ? { name, status: 'warn', message, advice } : { name, status: 'ok', message }
}

function checkSocket(socket: SocketFacts): Check[] {
  const folder = dirname(socket.path)
  const { directory } = socket
  const result: Check[] = []
  if (!directory) {
    result.push({ name: 'socket folder', status: 'ok', message: `${folder} does not exist yet; luod makes it` })
  } else if (directory.link) {
    result.push({
      name: 'socket folder',
      status: 'fail',
      message: `${folder} is a symbolic link`,
      advice: 'Somebody may have put it there to catch your files. Remove it, or choose another --socket.',
    })
  } else if (directory.uid !== socket.uid && directory.uid !== 0) {
    result.push({
      name: 'socket folder',
      status: 'fail',
      message: `${folder} belongs to user ${directory.uid}, and you are ${socket.uid}`,
      advice: 'Choose another --socket, or set XDG_RUNTIME_DIR to a folder of your own.',
    })
  } else if ((directory.mode & 0o022) !== 0 && (directory.mode & 0o1000) === 0) {
    result.push({
      name: 'socket folder',
      status: 'fail',
      message: `${folder} can be written by others (mode ${(directory.mode & 0o7777).toString(8)})`,
      advice: `chmod 700 ${folder}`,
    })
  } else {
    result.push({ name: 'socket folder', status: 'ok', message: `${folder} is safe` })
  }
  if ('error' in socket.reachable && socket.reachable.silent) {
    result.push({
      name: 'luod',
      status: 'fail',
      message: socket.reachable.error,
      advice: 'If `ps -o stat= -p PID` says T, it is stopped: kill -CONT PID. Else look at its log, before you end it.',
    })
  } else if ('error' in socket.reachable) {
    result.push({
      name: 'luod',
      status: 'warn',
      message: socket.reachable.error,
      advice: 'Start luod, or use `luoctl run`, which starts a private one.',
    })
  } else {
    const { version, pid } = socket.reachable
    result.push({ name: 'luod', status: 'ok', message: `version ${version}, pid ${pid}, at ${socket.path}` })
  }
  return result
}

async function gather(context: Context): Promise<Facts> {
  const base = {
    platform: process.platform,
    node: process.version,
    kernel: release(),
  }
  if (process.platform !== 'linux') {
    const socket = { path: context.socket, uid: 0, directory: undefined, reachable: { error: 'not on this system' } }
    return {
      ...base,
      memfd: 'not on this system',
      nofile: { error: 'not on this system' },
      socket,
      forKernel: undefined,
    }
  }
  const [socket, forKernel] = [await socketFacts(context.socket, context.answerMs), await kernelFacts()]
  return { ...base, memfd: await tryMemfd(), nofile: await nofile(), socket, forKernel }
}

async function tryMemfd(): Promise<string | undefined> {
  try {
    const { createMemfd } = await import('../sys/memfd.js')
    createMemfd('luoctl-doctor', { size: 4096 }).close()
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

async function nofile(): Promise<Facts['nofile']> {
  try {
    const { raiseNofile } = await import('../sys/limits.js')
    const { soft, hard } = raiseNofile()
    return { soft: Number(soft), hard: Number(hard) }
  } catch (error) {
    return { error: messageOf(error) }
  }
}

async function socketFacts(path: string, answerMs: number | undefined): Promise<SocketFacts> {
  const stat = lstatSync(dirname(path), { throwIfNoEntry: false })
  const directory = stat && { link: stat.isSymbolicLink(), uid: stat.uid, mode: stat.mode }
  return { path, uid: process.getuid?.() ?? 0, directory, reachable: await reach(path, answerMs) }
}

async function reach(path: string, answerMs: number | undefined): Promise<SocketFacts['reachable']> {
  try {
    const { client, status } = await connect(path, { answerMs })
    client.close()
    return { version: status.version, pid: status.pid }
  } catch (error) {
    return { error: messageOf(error), silent: doesNotAnswer(error) }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

export async function doctorCommand(context: Context): Promise<number> {
  const results = checks(await gather(context))
  if (context.json) {
    context.out(JSON.stringify({ checks: results }))
  } else {
    const width = Math.max(...results.map((check) => check.name.length))
    for (const check of results) {
      context.out(`${check.status.padEnd(4)}  ${check.name.padEnd(width)}  ${check.message}`)
      if (check.advice && check.status !== 'ok') context.out(`${' '.repeat(width + 8)}→ ${check.advice}`)
    }
  }
  return results.some((check) => check.status === 'fail') ? EXIT.FAILED : EXIT.OK
}
