#!/usr/bin/env node
/**
 * Are the tests of `src/core` any good? Plants the bugs of `test/mutations/core.mjs` one at a time, in copies of the
 * sources, and runs the tests on each: one that no test notices has survived, and that is a failure. So is a bug that
 * cannot be planted any more, because the code has changed, and one that breaks more than a test.
 *
 *     node scripts/mutations.mjs [--json]
 */
import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { MUTATIONS } from '../test/mutations/core.mjs'

const PROJECT = resolve(import.meta.dirname, '..')
const SOURCES = ['package.json', 'tsconfig.json', 'src/errors.ts', 'src/abi', 'src/core', 'test/code-of.ts']
/** A bug that makes the tests run for ever. */
const LIMIT_MS = 120_000
/** Each run is the same, and shorter than that of CI. */
const ENVIRONMENT = { ...process.env, LUO_FUZZ_RUNS: '300', LUO_FUZZ_SEED: '1' }
// One thread, so that the runs themselves can share the processors; nothing is written beside the copy.
const CONFIG = `export default {
  cacheDir: 'cache',
  test: {
    include: ['src/core/**/*.test.ts'],
    pool: 'threads',
    isolate: false,
    fileParallelism: false,
    bail: 1,
    // A slow machine is no bug: only the limit of the whole run counts.
    testTimeout: ${LIMIT_MS},
    reporters: ['json'],
    outputFile: 'result.json',
  },
}
`

const { values: options } = parseArgs({ options: { json: { type: 'boolean', default: false } } })
const work = mkdtempSync(join(tmpdir(), 'luo-mutations-'))
const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  rmSync(work, { recursive: true, force: true, maxRetries: 5 })
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))

function copyOfSources(name) {
  const copy = join(work, name)
  mkdirSync(copy)
  for (const source of SOURCES) cpSync(join(PROJECT, source), join(copy, source), { recursive: true })
  symlinkSync(join(PROJECT, 'node_modules'), join(copy, 'node_modules'))
  writeFileSync(join(copy, 'vitest.config.mjs'), CONFIG)
  return copy
}

/** Killed by the name of a test, survived, or broken in another way. */
async function runTests(copy) {
  const result = join(copy, 'result.json')
  rmSync(result, { force: true })
  const vitest = join(copy, 'node_modules', 'vitest', 'vitest.mjs')
  const child = spawn(process.execPath, [vitest, 'run'], { cwd: copy, env: ENVIRONMENT, stdio: 'ignore' })
  running.add(child)
  const limit = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS)
  const code = await new Promise((done, failed) => {
    child.once('error', failed)
    child.once('exit', done)
  })
  clearTimeout(limit)
  running.delete(child)
  let files
  try {
    files = JSON.parse(readFileSync(result, 'utf8')).testResults
  } catch {
    return { outcome: 'broken', by: `the tests ended with ${code ?? 'a signal'} and no result` }
  }
  const failed = files.flatMap((file) => file.assertionResults).find((one) => one.status === 'failed')
  if (failed) return { outcome: 'killed', by: failed.fullName }
  if (code === 0) return { outcome: 'survived', by: '' }
  const message = files.find((file) => file.message)?.message ?? 'no test failed, and yet they did'
  return { outcome: 'broken', by: message.split('\n')[0] }
}

async function plant(copy, { file, find, replace, breaks }) {
  const path = join(copy, file)
  const text = readFileSync(path, 'utf8')
  const started = performance.now()
  // By a function: the replacement may have a dollar sign in it.
  writeFileSync(
    path,
    text.replace(find, () => replace),
  )
  const result = await runTests(copy)
  writeFileSync(path, text)
  return { breaks, file, ...result, seconds: Math.round((performance.now() - started) / 100) / 10 }
}

/** Each must be there once. */
function unplantable() {
  return MUTATIONS.flatMap(({ breaks, file, find }) => {
    const times = readFileSync(join(PROJECT, file), 'utf8').split(find).length - 1
    return times === 1 ? [] : [`${file} has this ${times} times, and must have it once (${breaks}):\n${find}`]
  })
}

async function main() {
  const gone = unplantable()
  if (gone.length > 0)
    throw new Error(`test/mutations/core.mjs does not fit the code any more.\n\n${gone.join('\n\n')}`)
  const copies = Array.from({ length: Math.min(availableParallelism(), MUTATIONS.length) }, (_, index) =>
    copyOfSources(String(index)),
  )
  const [first] = copies
  const clean = await runTests(first)
  if (clean.outcome !== 'survived') throw new Error(`the tests fail without any bug: ${clean.by}`)
  const results = []
  let next = 0
  const worker = async (copy) => {
    while (next < MUTATIONS.length) {
      const index = next++
      const result = await plant(copy, MUTATIONS[index])
      results[index] = result
      if (options.json) continue
      console.log(`${result.outcome.padEnd(8)}  ${String(result.seconds).padStart(5)} s  ${result.breaks}`)
      if (result.by) console.log(`${' '.repeat(19)}${result.by}`)
    }
  }
  await Promise.all(copies.map(worker))
  const killed = results.filter(({ outcome }) => outcome === 'killed').length
  if (options.json) console.log(JSON.stringify({ mutations: results.length, killed, results }, undefined, 2))
  else console.log(`${killed} of ${results.length} killed`)
  return killed === results.length ? 0 : 1
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
}
