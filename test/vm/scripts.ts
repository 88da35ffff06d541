/** The scripts of test/vm/inside, and what those answer that run on an emulated device as well. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
const SCRIPTS = fileURLToPath(new URL('./inside', import.meta.url))

/** The scripts as JavaScript. What they import of src is the build's: it is what is tested, and needs no compiling. */
export function translateScripts(to: string): void {
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 }
  for (const name of readdirSync(SCRIPTS)) {
    const { outputText } = ts.transpileModule(readFileSync(join(SCRIPTS, name), 'utf8'), { compilerOptions })
    writeFileSync(join(to, name.replace(/\.ts$/, '.js')), outputText.replaceAll("'../../../src/", `'${PROJECT}/dist/`))
  }
  writeFileSync(join(to, 'package.json'), '{"type":"module"}')
}

/** Of `device.ts`: what each check is answered. */
export const CHECKS = {
  'open a file that is no device': 'ENOENT',
  'open twice': 'EBUSY',
  'create the same again': 'EEXIST',
  'create without a name': 'EINVAL',
  'create with too long a name': 'EINVAL',
  'create with the longest name': 'ok',
  'retrieve what is not there': 'ENOENT',
  preserve: 'ok',
  'preserve at the same token': 'EEXIST',
  'preserve the same file': 'EBUSY',
  'preserve no file': 'EBADF',
  'preserve at no token': 'EINVAL',
  'retrieve from an outgoing one': 'EINVAL',
  'finish an outgoing one': 'EINVAL',
  adopt: 'a outgoing',
  'adopt what is no session': 'ENOTTY',
  'preserve through a closed one': 'EBADF',
  'create through a closed one': 'EBADF',
}

/** The answers by the names of the checks. */
export function answers(json: readonly Record<string, unknown>[]): Record<string, unknown> {
  return Object.fromEntries(json.filter(({ check }) => check).map(({ check, answer }) => [check, answer]))
}
