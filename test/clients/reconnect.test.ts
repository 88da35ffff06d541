/**
 * The examples in C and Python, updated again and again while all connections to luod, theirs and those of `luoctl
 * run`, are cut every few milliseconds. No visitor notices, and no number is lost or told twice.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { connect } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { eventually, PROJECT, Stage } from '../daemon/stage.js'
import { freePort } from '../free-port.js'
import { CLIENTS, compile, HERE } from './build.js'

const CUT_EVERY_MS = 40
const VISITS = 20

function visit(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect(port, '127.0.0.1')
    socket.on('data', (data) => {
      text += data
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(Number(text.split(' ')[0])))
  })
}

test('updates from C to Python to Python to C, with connections that are cut all the time', async () => {
  await using stage = await Stage.start()
  const port = await freePort()
  const counter = compile(join(CLIENTS, 'c/example-counter.c'), stage.directory, 'counter')
  const luoctl = join(PROJECT, 'dist/cli/main.js')
  const c = [counter, String(port)]
  const python = ['python3', '-B', join(CLIENTS, 'python/example_counter.py'), String(port)]
  const proxied = join(stage.directory, 'proxy.sock')
  const children: ChildProcess[] = []
  let output = ''
  const start = (program: string, args: string[]) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data) => (output += data))
    children.push(child)
    return child
  }
  try {
    const proxy = start(process.execPath, [join(HERE, 'proxy.mjs'), proxied, stage.socket])
    await eventually(
      () => output,
      (text) => text.includes('ready'),
      'there is no proxy',
    )
    const run = start(process.execPath, [luoctl, 'run', 'count', '--socket', proxied, '--', ...c])
    const running = async () => (await stage.call('Show', { workload: 'count' })).workload.state
    await eventually(running, (state) => state === 'running', 'it does not run')
    const cutting = setInterval(() => proxy.kill('SIGUSR2'), CUT_EVERY_MS)
    let visited = 0
    const visitSome = async () => {
      for (let count = 0; count < VISITS; count++) expect(await visit(port)).toBe(++visited)
    }
    try {
      for (const next of [python, python, c]) {
        await visitSome()
        const update = [luoctl, 'update', 'count', '--socket', proxied, '--', ...next]
        const { stdout } = await promisify(execFile)(process.execPath, update)
        expect(stdout).toContain('count: updated in')
      }
      await visitSome()
    } finally {
      clearInterval(cutting)
    }
    expect(run.exitCode).toBeNull()
    expect((await stage.call('Show', { workload: 'count' })).workload).toMatchObject({ generation: 4 })
    expect(output).not.toMatch(/Sanitizer|Traceback|runtime error/)
  } finally {
    for (const child of children.reverse()) child.kill('SIGTERM')
  }
}, 60_000)
