/**
 * The conformance suite on a real kernel, in a virtual machine, over real kexecs. Linux answers what `expected/` says,
 * which `LUO_CONFORMANCE_UPDATE=1` writes anew, and to scripts made at random what the engine answers.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { beforeAll, describe, expect, test } from 'vitest'
import { partsOf } from '../conformance/emulated.js'
import { compared, runOnEngine } from '../conformance/engine.js'
import { RANDOM_SCRIPTS, randomScripts, seedOf } from '../conformance/random.js'
import {
  type Answers,
  EXPECTED,
  formatAnswers,
  formatScripts,
  parseOutputs,
  readExpected,
  subjects,
} from '../conformance/script.js'
import { runOnLinux } from './linux.js'
import { MACHINE_LIMIT_MS, possible } from './machine.js'

const golden = subjects()
const seed = seedOf(process.env.LUO_FUZZ_SEED)
const random = randomScripts(seed, RANDOM_SCRIPTS)
let linux = new Map<string, Answers>()

beforeAll(async () => {
  if (!possible) return
  const scripts = [...golden.flatMap((subject) => subject.scripts), ...random]
  linux = parseOutputs(await runOnLinux(formatScripts(scripts), partsOf(scripts)))
  if (!process.env.LUO_CONFORMANCE_UPDATE) return
  mkdirSync(EXPECTED, { recursive: true })
  for (const { name, scripts } of golden) {
    const texts = scripts.map((script) => `== ${script.name}\n${formatAnswers(linux.get(script.name) ?? [])}`)
    const head = '# What Linux answers, written by test/vm/conformance.test.ts. Not to be changed by hand.\n'
    writeFileSync(`${EXPECTED}${name}.txt`, head + texts.join(''))
  }
}, MACHINE_LIMIT_MS)

describe.each(golden)('$name', ({ name, scripts }) => {
  test.runIf(possible).each(scripts)('$name', (script) => {
    const kernel = readExpected(name).get(script.name)
    expect(formatAnswers(linux.get(script.name) ?? [])).toBe(formatAnswers(kernel ?? []))
  })
})

test.runIf(possible).each(random)(
  `Linux and the engine answer the same to scripts at random, ${seed}: $name`,
  (script) => {
    const kernel = linux.get(script.name) ?? []
    const engine = runOnEngine(script, (message) => expect.fail(message))
    const { expected, answered } = compared(kernel, script, engine)
    expect(formatAnswers(answered)).toBe(formatAnswers(expected))
  },
)
