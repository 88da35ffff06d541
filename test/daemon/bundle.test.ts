/**
 * luod and luoctl as they are built, in one file each, with the code that V8 has made of it: what does not fit is not
 * used.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Script } from 'node:vm'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { NEW_SPACE } from '../../src/daemon/standby.js'

const PROJECT = fileURLToPath(new URL('../..', import.meta.url))
const BUILT = ['main.js', 'luod.cjs', 'luod.code']
const CODE_AT = 8

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'luod-bundle-'))
  cpSync(join(PROJECT, 'package.json'), join(folder, 'package.json'))
  symlinkSync(join(PROJECT, 'node_modules'), join(folder, 'node_modules'))
})
afterAll(() => rmSync(folder, { recursive: true }))
beforeEach(() => {
  for (const name of BUILT) cpSync(join(PROJECT, 'dist/daemon', name), at(name))
})

const at = (name: string) => join(folder, 'dist/daemon', name)

function help(): string {
  const { stdout, stderr, status } = spawnSync(process.execPath, [at('main.js'), '--help'], { encoding: 'utf8' })
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  return stdout
}

test.each([
  ['daemon', 'luod'],
  ['cli', 'luoctl'],
])('the Node that has built it takes the code (%s/%s)', (of, name) => {
  const built = (end: string) => join(PROJECT, 'dist', of, `${name}.${end}`)
  const cachedData = readFileSync(built('code')).subarray(CODE_AT)
  const script = new Script(readFileSync(built('cjs'), 'latin1'), { filename: built('cjs'), cachedData })
  expect(script.cachedDataRejected).toBe(false)
})

test('a luod that stands by is started so that it takes the code made for it', () => {
  const file = (end: string) => JSON.stringify(join(PROJECT, `dist/daemon/luod.${end}`))
  const program = `const { readFileSync } = require('node:fs'), { Script } = require('node:vm')
    const cachedData = readFileSync(${file('next.code')}).subarray(${CODE_AT}), filename = ${file('cjs')}
    process.exit(new Script(readFileSync(filename, 'latin1'), { filename, cachedData }).cachedDataRejected ? 1 : 0)`
  expect(spawnSync(process.execPath, [NEW_SPACE, '-e', program]).status).toBe(0)
})

test.each<[string, () => void]>([
  ['missing', () => rmSync(at('luod.code'))],
  ['empty', () => writeFileSync(at('luod.code'), '')],
  [
    'damaged',
    () => {
      const bytes = readFileSync(at('luod.code'))
      bytes.fill(0xff, bytes.length >> 1)
      writeFileSync(at('luod.code'), bytes)
    },
  ],
])('it starts when the code is %s', (_, spoil) => {
  spoil()
  expect(help()).toMatch(/^luod: keeps the state of services/)
})

test('code of another build of the same length is not used', () => {
  const source = readFileSync(at('luod.cjs'), 'latin1')
  const other = source.replace('luod: keeps the state of services', 'luod: KEEPS the state of services')
  expect(other).not.toBe(source)
  writeFileSync(at('luod.cjs'), other, 'latin1')
  expect(help()).toMatch(/^luod: KEEPS/)
})
