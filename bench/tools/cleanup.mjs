/** Everything that the benchmark starts or makes ends with it, on every path: processes first, then directories. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A Unix socket's path has 107 bytes at most; a longer temporary directory is passed over. */
const MAX_TMPDIR_BYTES = 70
/** Services end, and pm2 is killed, in this time. */
const INTERRUPT_LIMIT_MS = 12_000
const children = new Set()
const directories = new Set()
const undos = new Set()

/** As `child_process.spawn`; killed at the end if it still runs. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, options)
  children.add(child)
  child.once('exit', () => children.delete(child))
  child.once('error', () => children.delete(child))
  return child
}

/** Ends a child that `start` has made. */
export async function stop(child, signal = 'SIGTERM', limitMs = 5_000) {
  if (!children.has(child)) return
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill(signal)
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  await ended
  clearTimeout(timer)
}

export function temporaryDirectory(name) {
  const base = Buffer.byteLength(tmpdir()) > MAX_TMPDIR_BYTES ? '/tmp' : tmpdir()
  const directory = mkdtempSync(join(base, `luo-bench-${name}-`))
  directories.add(directory)
  return directory
}

export function removeDirectory(directory) {
  rmSync(directory, { recursive: true, force: true })
  directories.delete(directory)
}

/**
 * `undo` runs when the benchmark is interrupted, unless what this answers was called before. It may answer a promise.
 */
export function atEnd(undo) {
  undos.add(undo)
  return () => undos.delete(undo)
}

async function interrupted(code) {
  const limit = new Promise((resolve) => setTimeout(resolve, INTERRUPT_LIMIT_MS))
  await Promise.race([Promise.allSettled([...undos].map(async (undo) => undo())), limit])
  process.exit(code)
}

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
})
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
]) {
  process.once(signal, () => interrupted(code))
}
