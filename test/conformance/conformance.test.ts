/**
 * One suite for the semantics of the device. What Linux answers to each script (`expected/`, made in a virtual machine)
 * is what an emulated device answers, errno for errno, and what the engine does: or there is a row in
 * docs/deviations.md. `test/vm` asks Linux again.
 */
import { readFileSync } from 'node:fs'
import { beforeAll, describe, expect, test } from 'vitest'
import { runEmulated } from './emulated.js'
import { compared, runOnEngine } from './engine.js'
import { RANDOM_SCRIPTS, randomScripts, seedOf } from './random.js'
import { type Answers, formatAnswers, readExpected, subjects, withDeviations } from './script.js'

const LIMIT_MS = 120_000
const golden = subjects()
const seed = seedOf(process.env.LUO_FUZZ_SEED)
const random = randomScripts(seed, RANDOM_SCRIPTS)
let emulated: Map<string, Answers>

beforeAll(async () => {
  emulated = await runEmulated([...golden.flatMap(({ scripts }) => scripts), ...random])
}, LIMIT_MS)

const formatted = (answers: Answers | undefined) => formatAnswers(answers ?? [])

describe.each(golden)('$name', ({ name, scripts }) => {
  const kernel = readExpected(name)

  test('has the answers of Linux to the scripts as they are', () => {
    const asked = scripts.map((script) => [script.name, script.parts.map((part) => part.map(({ text }) => text))])
    const answered = [...kernel].map(([key, parts]) => [key, parts.map((part) => part.map(({ text }) => text))])
    expect(answered, 'expected/ is old: see README.md').toEqual(asked)
  })

  test.each(scripts)('an emulated device: $name', (script) => {
    const expected = withDeviations(script, kernel.get(script.name) ?? [])
    expect(formatted(emulated.get(script.name))).toBe(formatted(expected))
  })

  test.each(scripts)('the engine: $name', (script) => {
    const defects: string[] = []
    const engine = runOnEngine(script, (message) => defects.push(message))
    const { expected, answered } = compared(withDeviations(script, kernel.get(script.name) ?? []), script, engine)
    expect(formatAnswers(answered)).toBe(formatAnswers(expected))
    expect(defects).toEqual([])
  })
})

test.each(random)(
  `engine and emulated device answer the same to ${RANDOM_SCRIPTS} scripts, ${seed}: $name`,
  (script) => {
    const defects: string[] = []
    const device = emulated.get(script.name) ?? []
    const { expected, answered } = compared(
      device,
      script,
      runOnEngine(script, (message) => defects.push(message)),
    )
    expect(formatAnswers(answered)).toBe(formatAnswers(expected))
    expect(defects).toEqual([])
  },
)

test('each deviation on purpose has its row in docs/deviations.md, and is one', () => {
  const rows = readFileSync(new URL('../../docs/deviations.md', import.meta.url), 'utf8')
  for (const { name, scripts } of golden) {
    const kernel = readExpected(name)
    for (const script of scripts) {
      script.parts.forEach((part, at) => {
        part.forEach(({ text, emulated: note }, index) => {
          if (!note) return
          expect(rows, `the row "${note.row}" of "${text}"`).toContain(`\n| ${note.row} |`)
          expect(kernel.get(script.name)?.[at]?.[index]?.answer, text).not.toBe(note.answer)
        })
      })
    }
  }
})

test('the engine is asked for most of it', () => {
  const count = (answers: Answers) => answers.flat().length
  let asked = 0
  let all = 0
  for (const { name, scripts } of golden) {
    const kernel = readExpected(name)
    for (const script of scripts) {
      const answers = kernel.get(script.name) ?? []
      all += count(answers)
      asked += count(
        compared(
          answers,
          script,
          runOnEngine(script, () => {}),
        ).answered,
      )
    }
  }
  expect(asked / all).toBeGreaterThan(0.6)
})
