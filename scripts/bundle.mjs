// After the compiler: luod in one file, and beside it the code that V8 has made of it, so that it starts in half the time.
// luod's modules stay where they are, for whoever imports them. Nothing is renamed: messages and stacks are as written.
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

const DIST = fileURLToPath(new URL('../dist/daemon', import.meta.url))
const MAIN = `${DIST}/main.js`
const CODE_LIMIT_MS = 20_000
/** No luod needs them to start, and some do later: loading them takes Node milliseconds. */
const LATE = new Set(['node:child_process', 'node:crypto', 'node:net'])

const written = readFileSync(new URL('luod-main.mjs', import.meta.url))
// What it writes takes the place of what the compiler wrote.
if (written.equals(readFileSync(MAIN))) throw new Error(`${MAIN} is bundled already; compile it first: npm run build`)

const bundle = await rolldown({
  input: MAIN,
  platform: 'node',
  // What is installed beside this package.
  external: ['koffi', 'prom-client'],
  plugins: [{ name: 'late modules', resolveId: (id) => (LATE.has(id) ? `\0${id}` : undefined), load: late }],
})
const { output } = await bundle.generate({ format: 'cjs', codeSplitting: false, keepNames: true, comments: false })
await bundle.close()
writeFileSync(`${DIST}/luod.cjs`, asScript(output[0].code))
writeFileSync(MAIN, written)
// Of the build before.
rmSync(`${DIST}/luod.code`, { force: true })
// Without it luod starts all the same: where it cannot run it is not started either.
const args = [fileURLToPath(new URL('code-cache.mjs', import.meta.url)), DIST]
spawnSync(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'], timeout: CODE_LIMIT_MS })

/** A function that `luod-main.mjs` calls: code out of a cache has no `import` of its own. In ASCII, which V8 reads in half the time. */
function asScript(code) {
  const body = code
    .replace(/^#!.*/, '')
    .replace(/\bimport\(/g, '__import(')
    .replace(/[^\0-\x7f]/g, (at) => `\\u${at.charCodeAt(0).toString(16).padStart(4, '0')}`)
  return `(function (require, __import, __filename) { 'use strict';${body}\n})`
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
