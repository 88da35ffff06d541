// Runs what the docs show. In each Markdown file, in order: a block "```js title=server.mjs" becomes a file, a block
// "```sh run" is run by bash in the same project, which has installed this package as the README's block "```sh
// install" says, in a new directory beside a clone. Blocks of one file share one shell, so that `cd`, variables and
// background jobs go on. A command that fails is a failure. At the end of the README's run, its example is updated once
// more with load on it.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const PROJECT = new URL('..', import.meta.url).pathname
const LIMIT_MS = 90_000
const LOAD_CONNECTIONS = 16
const LOAD_MS = 1_500

/** One page of docs/, such as `library.md`, instead of everything. */
const [only] = process.argv.slice(2)
const root = mkdtempSync(join(tmpdir(), 'luo-docs-'))
const folder = join(root, 'project')
let failures = 0
const { NODE_OPTIONS, LUO_SOCKET, LUO_WORKLOAD, ...inherited } = process.env
const env = { ...inherited, LUO_SOCKET: join(folder, 'luod.sock'), PWD: folder }

function report(name, problem) {
  if (problem === undefined) return console.log(`ok: ${name}`)
  failures += 1
  console.log(`FAILED: ${name}: ${problem}`)
}

function blocks(path) {
  const found = []
  for (const [, info, body] of readFileSync(path, 'utf8').matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)) {
    const title = /title=(\S+)/.exec(info)?.[1]
    if (title) found.push({ kind: 'file', title, body })
    else if (/^sh run\b/.test(info)) found.push({ kind: 'run', body })
    else if (/^sh install\b/.test(info)) found.push({ kind: 'install', body })
  }
  return found
}

function install() {
  const [block] = blocks(join(PROJECT, 'README.md')).filter(({ kind }) => kind === 'install')
  if (!block) throw new Error('the README does not say how to install it')
  mkdirSync(folder)
  symlinkSync(PROJECT, join(root, 'liveupdate'))
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'example', private: true, type: 'module' }))
  // It is built.
  const pack = 'npm() { case $1 in pack) command npm "$@" --ignore-scripts;; *) command npm "$@";; esac; }'
  const quiet = { npm_config_audit: 'false', npm_config_fund: 'false', npm_config_loglevel: 'error' }
  execFileSync('bash', ['-euc', `${pack}\n${block.body}`], { cwd: folder, env: { ...env, ...quiet }, stdio: 'inherit' })
}

async function runDocument(name, path) {
  const all = blocks(path).filter(({ kind }) => kind !== 'install')
  if (all.length === 0) return
  const script = all.map((block) =>
    block.kind === 'file' ? `cat > '${block.title}' <<'END_OF_BLOCK'\n${block.body}END_OF_BLOCK\n` : `${block.body}\n`,
  )
  const file = join(folder, `${name}.sh`)
  writeFileSync(file, `set -euo pipefail\n${script.join('')}`)
  // A group of its own: what runs in the background is ended with it, through npx too.
  const shell = spawn('bash', [file], { cwd: folder, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [shell.stdout, shell.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }
  const late = setTimeout(() => endGroup(shell.pid, 'SIGKILL'), LIMIT_MS)
  const [code, signal] = await once(shell, 'exit')
  clearTimeout(late)
  for (let count = 0; endGroup(shell.pid, count < 50 ? 'SIGTERM' : 'SIGKILL'); count++) await sleep(100)
  report(`${name}: ${all.length} blocks`, code === 0 ? undefined : `${signal ?? code}\n${output}`)
}

/** False when nothing of the group is left. */
function endGroup(pid, signal) {
  try {
    return process.kill(-pid, signal)
  } catch {
    return false
  }
}

/** The README's example, updated while clients with open connections ask all the time. */
async function updateUnderLoad() {
  const luoctl = join(folder, 'node_modules/.bin/luoctl')
  const service = spawn(luoctl, ['run', 'web', '--', process.execPath, 'server.mjs'], {
    cwd: folder,
    env,
    stdio: 'inherit',
  })
  const agent = new Agent({ keepAlive: true, maxSockets: LOAD_CONNECTIONS })
  const counts = { answered: 0, failed: 0, connections: new Set() }
  const ask = () =>
    new Promise((resolve) => {
      const request = get({ port: 8080, agent }, (response) => {
        counts.connections.add(request.socket.localPort)
        let body = ''
        response.on('data', (chunk) => {
          body += chunk
        })
        response.on('end', () => resolve(body))
      })
      request.on('error', () => resolve(undefined))
    })
  try {
    while ((await ask()) === undefined) await sleep(50)
    const end = performance.now() + LOAD_MS
    counts.connections.clear()
    const client = async () => {
      while (performance.now() < end) {
        if ((await ask()) === undefined) counts.failed += 1
        else counts.answered += 1
      }
    }
    const clients = Array.from({ length: LOAD_CONNECTIONS }, client)
    await sleep(LOAD_MS / 3)
    const update = spawn(luoctl, ['update', 'web'], { cwd: folder, env, stdio: 'inherit' })
    const code = await new Promise((resolve) => update.once('exit', resolve))
    await Promise.all(clients)
    const { answered, failed, connections } = counts
    const fine = code === 0 && failed === 0 && answered > 0 && connections.size <= LOAD_CONNECTIONS
    const seen = `code ${code}, ${answered} answered, ${failed} failed, ${connections.size} connections`
    report(`the example under load: ${seen}`, fine ? undefined : seen)
  } finally {
    agent.destroy()
    service.kill()
    await new Promise((resolve) => service.once('exit', resolve))
  }
}

function requireWorks() {
  const code = "const { join, LuoError } = require('liveupdate'); if (!join || !LuoError) process.exit(1)"
  const { status, stderr } = spawnSync(process.execPath, ['-e', code], { cwd: folder, env, encoding: 'utf8' })
  report("require('liveupdate')", status === 0 ? undefined : stderr)
}

/** As strict as there is, for each way in which TypeScript looks for modules. */
function typesWork() {
  writeFileSync(
    join(folder, 'adopter.mts'),
    `import { createServer } from 'node:net'
import { isLuoError, join, type Live, type LuoCode, LuoError, type Memory, Refusal } from 'liveupdate'
import type { Register } from 'liveupdate/plugin'
import { fakeLive, startInTest, updateInTest } from 'liveupdate/testing'

const live: Live = await join({ workload: process.env.NAME, accepts: undefined, keepMs: undefined })
const memory: Memory = await live.memory('hits', { size: 8, max: undefined, format: undefined })
await live.serve(createServer(), { host: process.env.HOST, movable: (socket) => socket.readableLength === 0 })
live.on('prepare', ({ purpose }) => {
  if (purpose === 'kexec') throw new Refusal('not now')
})
const code: LuoCode = 'LUO_GONE'
const error: unknown = new LuoError(code, memory.name)
export const register: Register = () => {}
export const all = [fakeLive, startInTest, updateInTest, isLuoError(error, code) && error.params]
`,
  )
  for (const [module, moduleResolution] of [
    ['node16', 'node16'],
    ['nodenext', 'nodenext'],
    ['esnext', 'bundler'],
  ]) {
    const how = { module, moduleResolution, target: 'es2022', lib: 'es2023', types: 'node' }
    const given = Object.entries({ ...how, typeRoots: join(PROJECT, 'node_modules/@types') }).flat()
    const flags = ['strict', 'exactOptionalPropertyTypes', 'noUncheckedIndexedAccess', 'noEmit']
    const args = [
      ...given.map((text, index) => (index % 2 === 0 ? `--${text}` : text)),
      ...flags.map((flag) => `--${flag}`),
    ]
    const tsc = join(PROJECT, 'node_modules/typescript/bin/tsc')
    const { status, stdout } = spawnSync(process.execPath, [tsc, ...args, 'adopter.mts'], {
      cwd: folder,
      encoding: 'utf8',
    })
    report(`types, ${moduleResolution}`, status === 0 ? undefined : stdout)
  }
}

try {
  install()
  if (only === undefined) {
    requireWorks()
    typesWork()
    await runDocument('README', join(PROJECT, 'README.md'))
    await updateUnderLoad()
    await runDocument('clients', join(PROJECT, 'clients/README.md'))
  }
  const pages = readdirSync(join(PROJECT, 'docs')).filter((name) => name.endsWith('.md') && name === (only ?? name))
  for (const name of pages) await runDocument(name, join(PROJECT, 'docs', name))
} finally {
  rmSync(root, { recursive: true, force: true })
}
process.exitCode = failures === 0 ? 0 : 1
