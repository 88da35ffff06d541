/** What this process was started with: its standard error, /proc, and whether its arguments are what they seem. */
import { isUtf8 } from 'node:buffer'
import { existsSync, readFileSync, writeSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { waitWritable } from './poller.js'

const STDERR = 2
/** A pipe that is writable takes so many bytes at once. */
const PIPE_BUF = 4096

/** LUO_UNSUPPORTED where /proc is not mounted: what kind a file is, is read there. */
export function requireProc(path = '/proc/self/fd'): void {
  if (existsSync(path)) return
  throw new LuoError('LUO_UNSUPPORTED', 'start without /proc: files are told apart there; mount it')
}

/** One line to standard error. It is lost when nobody reads there: whoever waits for a reader serves nobody. */
export function writeLog(line: string): void {
  const bytes = Buffer.from(line).subarray(0, PIPE_BUF - 1)
  try {
    if (takesStderr()) writeSync(STDERR, Buffer.concat([bytes, Buffer.from('\n')]))
  } catch {
    // It is closed, which is no reason to stop either.
  }
}

function takesStderr(): boolean {
  try {
    return waitWritable(Fd.adopt(STDERR), 0)
  } catch {
    // No native part: this line may be the one that says so.
    return true
  }
}

/** Whether all arguments are UTF-8. Node makes others of what is not, and a command would not be what was asked for. */
export function argumentsAreText(path = '/proc/self/cmdline'): boolean {
  try {
    return isUtf8(readFileSync(path))
  } catch {
    return true
  }
}
