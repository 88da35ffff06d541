/**
 * The driver under `luoctl emulate`, part by part, with `luoctl kexec --emulated` between: all on one machine of a luod
 * of its own, which ends with it.
 */
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { PROJECT } from '../project.js'
import { until } from '../until.js'
import { type Answers, formatScripts, parseOutputs, type Script } from './script.js'

const LUOCTL = join(PROJECT, 'dist/cli/main.js')
const DRIVER = join(PROJECT, 'test/conformance/driver')
const MACHINE = 'conformance'
const LIMIT_MS = 60_000
const MAX_OUTPUT = 2 ** 24

const run = promisify(execFile)

/** One program for every kernel: static. */
export function compileDriver(to: string): void {
  const sources = readdirSync(DRIVER).filter((file) => file.endsWith('.c'))
  const args = ['-Wall', '-Wextra', '-Werror', '-O1', '-static', '-pthread', '-o', to]
  execFileSync('cc', [...args, ...sources.map((file) => join(DRIVER, file))], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
}

export const partsOf = (scripts: readonly Script[]) => Math.max(...scripts.map(({ parts }) => parts.length))

/** What an emulated device answers to all of them, by their names. */
export async function runEmulated(scripts: readonly Script[]): Promise<Map<string, Answers>> {
  const folder = mkdtempSync(join(tmpdir(), 'luo-conformance-'))
  const socket = join(folder, 'luod.sock')
  const luoctl = async (...args: string[]) => {
    const env = { ...process.env, LUO_SOCKET: socket }
    const options = { env, cwd: '/', timeout: LIMIT_MS, maxBuffer: MAX_OUTPUT }
    return (await run(process.execPath, [LUOCTL, ...args], options)).stdout
  }
  try {
    const driver = join(folder, 'driver')
    const cases = join(folder, 'cases')
    compileDriver(driver)
    writeFileSync(cases, formatScripts(scripts), 'latin1')
    const outputs: string[] = []
    for (let part = 0; part < partsOf(scripts); part++) {
      if (part > 0) await luoctl('kexec', '--emulated', '--machine', MACHINE)
      outputs.push(await luoctl('emulate', '--machine', MACHINE, '--', driver, cases, String(part)))
    }
    return parseOutputs(outputs)
  } finally {
    if (existsSync(socket)) {
      await luoctl('machines', '--end', MACHINE).catch(() => {})
      await until(() => !existsSync(socket), 'the private luod ends')
    }
    rmSync(folder, { recursive: true })
  }
}
