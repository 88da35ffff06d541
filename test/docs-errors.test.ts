/** docs/errors.md and docs/exit-codes.md have every code, and none that does not exist. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { EXIT } from '../src/cli/context.js'
import { LUO_CODES } from '../src/errors.js'

const PROJECT = new URL('../', import.meta.url)
const LUOCTL = fileURLToPath(new URL('dist/cli/main.js', PROJECT))

function read(path: string): string {
  return readFileSync(new URL(path, PROJECT), 'utf8')
}

/** Names of the commands that this help lists. */
function commands(...args: string[]): string[] {
  const help = execFileSync(process.execPath, [LUOCTL, ...args, '--help'], { encoding: 'utf8' })
  const [, list = ''] = /^Commands:\n((?: .*\n)+)/m.exec(help) ?? []
  return [...list.matchAll(/^ {2}(\w+)/gm)].map(([, name]) => [...args, name].join(' '))
}

/** `| code | name |` rows in a part of a document. */
function codes(text: string): string[] {
  return [...text.matchAll(/^\| (\d+) \| `(\w+)` \| \S/gm)].map(([, code, name]) => `${name} ${code}`)
}

test('every LUO_ code has a row with its meaning and what to do, and every row is a code', () => {
  const rows = [...read('docs/errors.md').matchAll(/^\| `(LUO_\w+)` \| [^|]+\. \| [^|]+\. \|$/gm)]
  expect(rows.map(([, code]) => code)).toEqual(Object.keys(LUO_CODES))
})

test('no document names a code that does not exist', () => {
  // Variables of the environment, and a name in the code, that look like codes.
  const others = ['LUO_SOCKET', 'LUO_WORKLOAD', 'LUO_TICKET', 'LUO_CODES', 'LUO_']
  for (const path of ['docs/errors.md', 'docs/exit-codes.md', 'docs/update.md', 'docs/protocol.md']) {
    for (const [code] of read(path).matchAll(/\bLUO_\w*/g)) {
      expect([...Object.keys(LUO_CODES), ...others], `${code} in ${path}`).toContain(code)
    }
  }
})

test('every exit code of luoctl is there under its name', () => {
  const [luoctl = ''] = read('docs/exit-codes.md').split('\n## luod\n')
  expect(codes(luoctl)).toEqual(Object.entries(EXIT).map(([name, code]) => `${name} ${code}`))
})

test('every command of luoctl has a row with its exit codes, and every row is of a command', () => {
  const [, table = ''] = read('docs/exit-codes.md').split('| command | codes |\n')
  const rows = [...table.matchAll(/^\| (`[^|]+`) \| \S/gm)].flatMap(([, names]) =>
    [...String(names).matchAll(/`([^`]+)`/g)].map(([, name]) => String(name)),
  )
  const known = commands().concat(commands('kexec'))
  expect(known.length).toBeGreaterThan(15)
  const named = new Set(rows.map((row) => row.replace(/ ?--.*/, '')).filter((name) => name !== ''))
  expect([...named].sort()).toEqual(known.sort())
})

test('every exit code of luod is there', () => {
  const [, luod = ''] = read('docs/exit-codes.md').split('\n## luod\n')
  // It starts a daemon when it is imported, so its text is read.
  const source = /^const EXIT = \{(.*)\}/m.exec(read('src/daemon/main.ts'))?.[1] ?? ''
  const real = [...source.matchAll(/: (\d+)/g)].map(([, code]) => code)
  expect(real.length).toBeGreaterThan(1)
  expect([...luod.matchAll(/^\| (\d+) \| \S/gm)].map(([, code]) => code)).toEqual(real)
})
