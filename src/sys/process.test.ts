import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { countOpenFds } from './fd.js'
import { checked } from './ffi.js'
import { descendants, reapOthers } from './process.js'

const PR_SET_CHILD_SUBREAPER = 36
const SYS_PRCTL = process.arch === 'x64' ? 157 : 167

let openAtStart: number

/** The state letter of a process, and its parent; undefined when there is none. */
function look(pid: number): { state: string; parent: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const [state = '', parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { state, parent: Number(parent) }
  } catch {
    return undefined
  }
}

/** A grandchild whose parent is gone: it became ours. Answers its pid. */
async function orphan(command: string): Promise<number> {
  const script = `"$0" "$@" >/dev/null 2>&1 & echo $!`
  const { stdout } = await promisify(execFile)('sh', ['-c', script, ...command.split(' ')])
  const pid = Number(stdout)
  await vi.waitFor(() => expect(look(pid)?.parent).toBe(process.pid))
  return pid
}

const zombie = (pid: number) => vi.waitFor(() => expect(look(pid)).toEqual({ state: 'Z', parent: process.pid }))
const nobody = () => false

beforeAll(async () => {
  // As if this were process 1.
  checked('become a subreaper', 'syscall', SYS_PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  openAtStart = countOpenFds()
})

describe('reaping', () => {
  test('takes an orphan that has ended, and only that', async () => {
    const living = await orphan('sleep 60')
    const dead = await orphan('sleep 0.05')
    await zombie(dead)
    expect(reapOthers(nobody)).toBe(1)
    expect(look(dead)).toBe(undefined)
    expect(look(living)?.state).not.toBe('Z')
    process.kill(living, 'SIGKILL')
    await zombie(living)
    expect(reapOthers(nobody)).toBe(1)
    expect(existsSync(`/proc/${living}`)).toBe(false)
  })

  test('takes many in one go', async () => {
    const pids = await Promise.all(Array.from({ length: 8 }, () => orphan('sleep 0.1')))
    for (const pid of pids) await zombie(pid)
    expect(reapOthers(nobody)).toBe(8)
    expect(pids.filter((pid) => look(pid))).toEqual([])
  })

  test('takes one whose name looks like the end of its line in /proc', async () => {
    const named = `sh -c 'printf "x) S 1 (y" > /proc/$$/comm; sleep 0.05; :' >/dev/null 2>&1 & echo $!`
    const { stdout } = await promisify(execFile)('sh', ['-c', named])
    await zombie(Number(stdout))
    expect(readFileSync(`/proc/${Number(stdout)}/stat`, 'latin1')).toContain('(x) S 1 (y)')
    expect(reapOthers(nobody)).toBe(1)
  })

  test('leaves the exit of a child that the runtime waits for to the runtime', async () => {
    const child = spawn('sh', ['-c', 'exit 7'], { stdio: 'ignore' })
    // No turn of the loop in between: the runtime has not been told of its end yet.
    while (look(child.pid ?? 0)?.state !== 'Z') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
    expect(reapOthers((pid) => pid === child.pid)).toBe(0)
    const [code] = await once(child, 'exit')
    expect(code).toBe(7)
  })

  test('finds nothing when there is nothing', () => {
    expect(reapOthers(nobody)).toBe(0)
  })

  test('asks about its own children only', async () => {
    const child = spawn('sh', ['-c', 'sleep 60 & echo $!; wait'], { stdio: ['ignore', 'pipe', 'ignore'] })
    const [line] = await once(child.stdout, 'data')
    const asked: number[] = []
    reapOthers((pid) => {
      asked.push(pid)
      return true
    })
    expect(asked).toContain(child.pid)
    expect(asked).not.toContain(Number(line))
    child.kill('SIGKILL')
    await once(child, 'exit')
    process.kill(Number(line), 'SIGKILL')
    await zombie(Number(line))
    expect(reapOthers(nobody)).toBe(1)
    child.stdout.destroy()
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})

test('descendants are children and their children, and not those that have ended', async () => {
  const shell = spawn('sh', ['-c', 'sleep 60 & echo $!; wait'], { stdio: ['ignore', 'pipe', 'ignore'] })
  const [line] = await once(shell.stdout, 'data')
  const child = Number(String(line))
  const found = descendants(process.pid)
  expect(found).toContain(shell.pid)
  expect(found.indexOf(child)).toBeGreaterThan(found.indexOf(shell.pid ?? 0))
  process.kill(child, 'SIGKILL')
  await once(shell, 'exit')
  expect(descendants(process.pid)).not.toContain(child)
})
