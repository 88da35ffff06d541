/**
 * The conformance suite on the kernel's device as a backend of luod (`src/backends/kernel.ts`), in a virtual machine,
 * over real kexecs: what it answers is what Linux answers to the driver's calls, and to scripts at random what the
 * engine does.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { partsOf } from '../conformance/emulated.js'
import { compared, type EngineAnswer, runOnEngine } from '../conformance/engine.js'
import { RANDOM_SCRIPTS, randomScripts, seedOf } from '../conformance/random.js'
import {
  type Answers,
  formatAnswers,
  formatScripts,
  readExpected,
  type Script,
  subjects,
} from '../conformance/script.js'
import { MACHINE_FOLDER, MACHINE_LIMIT_MS, possible, runMachine } from './machine.js'

const golden = subjects()
const seed = seedOf(process.env.LUO_FUZZ_SEED)
const random = randomScripts(seed, RANDOM_SCRIPTS)
/** By the names of the scripts, part by part. */
const answered = new Map<string, EngineAnswer[][]>()

beforeAll(async () => {
  if (!possible) return
  const scripts = [...golden.flatMap((subject) => subject.scripts), ...random]
  const folder = mkdtempSync(join(tmpdir(), 'luo-vm-'))
  try {
    const cases = join(folder, 'cases')
    writeFileSync(cases, formatScripts(scripts), 'latin1')
    const args = (part: number) => [`${MACHINE_FOLDER}/cases`, String(part)]
    const boots = Array.from({ length: partsOf(scripts) }, (_, part) => ({ script: 'conformance', args: args(part) }))
    const ran = (await runMachine({ boots, files: [cases] })).flat()
    for (const { script, answers } of ran.flatMap(({ json }) => json)) {
      const name = String(script)
      answered.set(name, [...(answered.get(name) ?? []), answers as EngineAnswer[]])
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}, MACHINE_LIMIT_MS)

function expectSame(script: Script, kernel: Answers): void {
  const same = compared(kernel, script, answered.get(script.name) ?? [])
  expect(formatAnswers(same.answered)).toBe(formatAnswers(same.expected))
}

describe.each(golden)('$name', ({ name, scripts }) => {
  test.runIf(possible).each(scripts)('$name', (script) => {
    expectSame(script, readExpected(name).get(script.name) ?? [])
  })
})

test.runIf(possible).each(random)(`the engine answers the same to scripts at random, ${seed}: $name`, (script) => {
  const engine = runOnEngine(script, (message) => expect.fail(message))
  const answers = engine.map((part, at) =>
    part.map((given, index) => ({
      text: script.parts[at]?.[index]?.text ?? '',
      answer: 'answer' in given ? given.answer : given.reason,
    })),
  )
  expectSame(script, answers)
})

test.runIf(possible)('every script was run to its end', () => {
  for (const { name, parts } of [...golden.flatMap(({ scripts }) => scripts), ...random]) {
    expect(answered.get(name)?.length, name).toBe(parts.length)
  }
})
