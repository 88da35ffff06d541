// After the compiler: luod and luoctl in one file each, and beside it the code that V8 has made of that, so that they
// start in half the time. Their modules stay where they are, for whoever imports them. Nothing is renamed: messages and
// stacks are as written.
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

const DIST = new URL('../dist/', import.meta.url)
const CODE_LIMIT_MS = 20_000
/** Nobody needs them to start, and some do later: loading them takes Node milliseconds. */
const LATE = new Set(['node:child_process', 'node:crypto', 'node:net'])

await bundled('daemon', 'luod')
await bundled('cli', 'luoctl')

async function bundled(folder, name) {
  const main = fileURLToPath(new URL(`${folder}/main.js`, DIST))
  const script = fileURLToPath(new URL(`${folder}/${name}.cjs`, DIST))
  const code = (end) => fileURLToPath(new URL(`${folder}/${name}.${end}`, DIST))
  const written = readFileSync(new URL('bundle-main.mjs', import.meta.url), 'utf8').replaceAll('NAME', name)
  // What it writes takes the place of what the compiler wrote.
  if (readFileSync(main, 'utf8') === written)
    throw new Error(`${main} is bundled already; compile it first: npm run build`)
  const bundle = await rolldown({
    input: main,
    platform: 'node',
    // What is installed beside this package.
    external: ['koffi', 'commander', 'prom-client'],
    plugins: [{ name: 'late modules', resolveId: (id) => (LATE.has(id) ? `\0${id}` : undefined), load: late }],
  })
  const { output } = await bundle.generate({ format: 'cjs', codeSplitting: false, keepNames: true, comments: false })
  await bundle.close()
  writeFileSync(script, asScript(output[0].code))
  writeFileSync(main, written)
  makeCode('code-cache.mjs', main, script, code('code'))
  if (name === 'luod') makeCode('code-cache-next.mjs', main, script, code('next.code'))
}

/** Without it they start all the same: where they cannot run they are not started either. */
function makeCode(by, main, script, code) {
  // Of the build before.
  rmSync(code, { force: true })
  const args = [fileURLToPath(new URL(by, import.meta.url)), main, script, code]
  // Not to be taken for a service, should the build be part of one.
  const env = { ...process.env, NOTIFY_SOCKET: '' }
  spawnSync(process.execPath, args, { stdio: 'ignore', timeout: CODE_LIMIT_MS, env })
}

/**
 * A function that `bundle-main.mjs` calls: code out of a cache has no `import` of its own. In ASCII, which V8 reads in
 * half the time.
 */
function asScript(code) {
  const body = code
    .replace(/^#!.*/, '')
    .replace(/\bimport\(/g, '__import(')
    .replace(/[^\0-\x7f]/g, (at) => `\\u${at.charCodeAt(0).toString(16).padStart(4, '0')}`)
  return `(function (require, __import, __filename) { 'use strict'; const exports = {};${body}\n})`
}

/** What such a module exports, as functions that load it when they are called. */
function late(id) {
  if (!id.startsWith('\0node:')) return undefined
  const name = id.slice(1)
  return Object.entries(process.getBuiltinModule(name))
    .filter(([, value]) => typeof value === 'function')
    .map(([key]) => {
      const found = `process.getBuiltinModule('${name}').${key}`
      return `export function ${key}(...all) { return new.target ? new (${found})(...all) : ${found}(...all) }`
    })
    .join('\n')
}
