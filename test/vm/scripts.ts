/** The scripts of test/vm/inside, and what those answer that run on an emulated device as well. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
const SCRIPTS = fileURLToPath(new URL('./inside', import.meta.url))
const SUITE = fileURLToPath(new URL('../conformance', import.meta.url))
/** Where scripts find the suite: beside them. */
const SUITE_BESIDE = 'suite'
const SUITE_FILES = ['engine.ts', 'script.ts', 'words.ts']

/** The scripts as JavaScript. What they import of src is the build's: it is what is tested, and needs no compiling. */
export function translateScripts(to: string): void {
  for (const name of readdirSync(SCRIPTS)) translate(join(SCRIPTS, name), to)
  mkdirSync(join(to, SUITE_BESIDE))
  for (const name of SUITE_FILES) translate(join(SUITE, name), join(to, SUITE_BESIDE))
  writeFileSync(join(to, 'package.json'), '{"type":"module"}')
}

function translate(path: string, to: string): void {
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 }
  const { outputText } = ts.transpileModule(readFileSync(path, 'utf8'), { compilerOptions })
  const text = outputText
    .replaceAll(/'(\.\.\/)+src\//g, `'${PROJECT}/dist/`)
    .replaceAll("'../../conformance/", `'./${SUITE_BESIDE}/`)
  writeFileSync(join(to, basename(path).replace(/\.ts$/, '.js')), text)
}

/** Of `device.ts`: what each check is answered. The scripts of the conformance suite have what a backend is asked. */
export const CHECKS = {
  'open a file that is no device': 'ENOENT',
  'open twice': 'EBUSY',
  preserve: 'ok',
  'preserve no file': 'EBADF',
  'preserve at no token': 'EINVAL',
  adopt: 'a outgoing',
  'adopt what is no session': 'ENOTTY',
  'preserve through a closed one': 'EBADF',
  'create through a closed one': 'EBADF',
}

/** The answers by the names of the checks. */
export function answers(json: readonly Record<string, unknown>[]): Record<string, unknown> {
  return Object.fromEntries(json.filter(({ check }) => check).map(({ check, answer }) => [check, answer]))
}
