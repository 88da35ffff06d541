/**
 * Each command of luoctl, as a process, against a luod that says what a script has, and then is gone. It ends in time,
 * with a code that docs/exit-codes.md has for it, and says of a failure one line; with --json what it prints is JSON.
 * Nothing that it is told reaches a terminal as anything but text, its memory has a limit, and no file and no process is
 * left.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { eventually } from '../daemon/stage.js'
import { HostileLuod } from '../hostile-luod.js'
import { PROJECT } from '../project.js'
import { COMMANDS } from './luoctl-conversations.js'
import { decodeScript, type Script, scriptsOf } from './scripts.js'
import type { LiveTarget } from './target.js'

const LUOCTL = join(PROJECT, 'dist/cli/main.js')
/** A luod that is not asked for so long, and has not more to say, is gone. */
const PATIENCE_MS = 100
/** The notifier has to start first. */
const EMULATE_PATIENCE_MS = 500
const RECONNECT = '200ms'
/** Whoever has not ended so long after its beginning hangs. */
const HANG_MS = 25_000
const MAX_OUTPUT_BYTES = 64 * 2 ** 20
const MAX_HEAP_MIB = 256
/** Of Node itself, what comes in one message, and what was made of it. */
const MAX_RSS_KIB = 400 * 1_024

/** Of a process that ends by itself: what it has used at most, and what of luod's memory is still open. */
const REPORT = `import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
process.on('exit', () => {
  const open = readdirSync('/proc/self/fd').map((fd) => {
    try { return readlinkSync('/proc/self/fd/' + fd) } catch { return '' }
  })
  // What may wait is closed in another thread, which nobody waits for; memory never does.
  const left = open.filter((path) => path.startsWith('/memfd:hostile'))
  const rss = Number(/VmHWM: *(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8').replace(/\\t/g, ' '))[1])
  writeFileSync(process.env.LUO_FUZZ_REPORT, JSON.stringify({ rss, left }))
})`

interface Ended {
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
}

class LuoctlTarget implements LiveTarget {
  readonly inputs = fc
    .tuple(scriptsOf(COMMANDS, Object.keys(COMMANDS) as (keyof typeof COMMANDS)[], true), fc.boolean())
    .map(([input, json]) => {
      const { what, ...script } = JSON.parse(Buffer.from(input).toString()) as Script
      return new Uint8Array(Buffer.from(JSON.stringify({ what: json ? `--json ${what}` : what, ...script })))
    })
  readonly #folder = mkdtempSync(join(tmpdir(), 'luo-fuzz-luoctl-'))
  #count = 0

  async check(input: Uint8Array): Promise<void> {
    const { what, answers } = decodeScript(input)
    const patience = what.includes('emulate') ? EMULATE_PATIENCE_MS : PATIENCE_MS
    const luod = new HostileLuod(join(this.#folder, String(this.#count++)), answers, patience)
    try {
      const report = `${luod.path}.report`
      const ended = await this.#run(luod.path, report, what.split(' '))
      try {
        checkEnd(what, ended)
        checkReport(readFileSync(report, 'utf8'))
      } catch (error) {
        const { stdout, stderr, ...how } = ended
        const said = `${JSON.stringify(how)}\n${stdout.slice(0, 2_000)}\n${stderr.slice(0, 2_000)}`
        throw new Error(`luoctl ${what}: ${(error as Error).message}\n${said}`, { cause: error })
      }
    } finally {
      luod.close()
    }
    await eventually(
      () => processesOf(luod.path),
      (pids) => pids.length === 0,
      `luoctl ${what} has left processes`,
    )
  }

  async #run(socket: string, report: string, args: readonly string[]): Promise<Ended> {
    const node = [
      `--max-old-space-size=${MAX_HEAP_MIB}`,
      '--import',
      `data:text/javascript,${encodeURIComponent(REPORT)}`,
    ]
    const child = spawn(process.execPath, [...node, LUOCTL, '--reconnect', RECONNECT, ...args], {
      cwd: this.#folder,
      env: { ...process.env, LUO_SOCKET: socket, LUO_FUZZ_REPORT: report },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: HANG_MS,
      killSignal: 'SIGKILL',
    })
    const said = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (data) => {
        if (said[name].length < MAX_OUTPUT_BYTES) said[name] += data
      })
    }
    const [code, signal] = await once(child, 'close')
    return { code, signal, ...said }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** They and what they start have it in their environment. */
function processesOf(socket: string): number[] {
  return readdirSync('/proc').flatMap((name) => {
    try {
      return readFileSync(`/proc/${Number(name)}/environ`, 'latin1')
        .split('\0')
        .includes(`LUO_SOCKET=${socket}`)
        ? [Number(name)]
        : []
    } catch {
      // No process, or none any more.
      return []
    }
  })
}

function checkReport(text: string): void {
  const { rss, left } = JSON.parse(text) as { rss: number; left: string[] }
  if (rss > MAX_RSS_KIB) throw new Error(`it had ${rss} KiB of memory`)
  if (left.length > 0) throw new Error(`it has left open ${left}`)
}

// --- how it may end ---------------------------------------------------------------------------------------------------

/** A line that says why it failed. */
const ERROR = /^luoctl: .* \((LUO_[A-Z_]+|E[A-Z0-9_]+)\)$/
/** Other lines for people on stderr: warnings, what to do, and of `run` its luod's. */
const SAID = /^(luoctl: |luod: | {2}\S)/
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const DRIVES = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/
const FAILED = new Set([1, 2, 4])

function checkEnd(what: string, { code, signal, stdout, stderr }: Ended): void {
  const json = what.startsWith('--json ')
  const command = commandOf(what)
  if (code === null) throw new Error(`it ended with ${signal}`)
  if (!documentedCodes(command).has(code)) throw new Error(`code ${code} is none of ${command}`)
  for (const [name, text] of Object.entries({ stdout, stderr })) {
    const found = DRIVES.exec(text)
    if (found)
      throw new Error(`${name} has ${JSON.stringify(found[0])} after ${text.slice(found.index - 80, found.index)}`)
  }
  const lines = linesOf(stderr)
  const isError = (line: string) => (json ? isJsonError(line) : ERROR.test(line))
  const errors = lines.filter(isError)
  const odd = lines.find((line) => !isError(line) && !SAID.test(line))
  if (odd !== undefined || /unexpected failure|^\s+at /m.test(stderr)) throw new Error(`stderr has ${odd}`)
  // What `run` and `doctor` say of luod is no failure of theirs.
  if (FAILED.has(code) && errors.length !== 1 && !['run', 'doctor'].includes(command))
    throw new Error(`code ${code}, and ${errors.length} errors`)
  if (json) for (const line of linesOf(stdout)) JSON.parse(line)
}

const linesOf = (text: string) => text.split('\n').filter((line) => line !== '')

function isJsonError(line: string): boolean {
  if (!line.startsWith('{')) return false
  const { code, message } = JSON.parse(line).error
  return /^(LUO_|E)[A-Z0-9_]+$/.test(code) && typeof message === 'string'
}

/** As docs/exit-codes.md calls it. */
function commandOf(what: string): string {
  const words = what.replace(/^--json /, '').split(' ')
  const longer = words.slice(0, 2).join(' ')
  return TABLE.has(longer) ? longer : (words[0] ?? '')
}

/** Of the table there, by what is between backticks in the first column. */
const TABLE = new Map(
  readFileSync(join(PROJECT, 'docs/exit-codes.md'), 'utf8')
    .split('\n')
    .flatMap((line): [string, Set<number>][] => {
      const [, commands = '', codes = ''] = line.split('|')
      const numbers = (codes.match(/\b\d+\b/g) ?? []).map(Number)
      return [...commands.matchAll(/`([^`]+)`/g)].map(([, name = '']) => [name, new Set(numbers)])
    }),
)
/** Beside those of the table, any of them. */
const ANY = [1, 2]
/** The code of what they run, which ends well. */
const RUN = new Set(['run', 'emulate'])

function documentedCodes(command: string): Set<number> {
  const own = TABLE.get(command)
  if (!own) throw new Error(`docs/exit-codes.md says nothing of ${command}`)
  return new Set([...own, ...ANY, ...(RUN.has(command) ? [0] : [])])
}

export async function luoctl(): Promise<LiveTarget> {
  return new LuoctlTarget()
}
