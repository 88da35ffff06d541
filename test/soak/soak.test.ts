/** What the soak test relies on. The soak test itself is `npm run soak`. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { KEPT_KINDS } from '../../src/handlers/kinds.js'
import { FAULTS } from '../faults/table.js'
import { growth } from './measure.js'
import { choosePlan } from './plan.js'
import { Random } from './random.js'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const C_CLIENT = fileURLToPath(new URL('../../clients/c/liveupdate.c', import.meta.url))

test('its versions make files of every kind that luod keeps, and of no other', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-kinds-'))
  try {
    const program = join(folder, 'version')
    execFileSync('cc', ['-o', program, join(HERE, 'version.c'), join(HERE, 'kinds.c'), C_CLIENT])
    const lines = execFileSync(program, ['kinds'], { cwd: folder, encoding: 'utf8' }).trim().split('\n')
    expect(lines.map((line) => line.split(' ')[0]).sort()).toEqual(Object.keys(KEPT_KINDS).sort())
    // What any machine has.
    expect(lines).toEqual(expect.arrayContaining(['memfd yes', 'tcp yes', 'unix yes', 'pipe yes', 'file yes']))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test('the same seed makes the same plans, and another seed others', () => {
  const plans = (seed: string) => {
    const random = new Random(seed)
    return Array.from({ length: 200 }, () => choosePlan(random).name)
  }
  expect(plans('1 0 7')).toEqual(plans('1 0 7'))
  expect(plans('1 0 7')).not.toEqual(plans('1 0 8'))
})

test('every fault of the table is planned, and what is not a fault too', () => {
  const random = new Random('all')
  const names = new Set(Array.from({ length: 20_000 }, () => choosePlan(random).name))
  for (const { number } of FAULTS) expect(names).toContain(`fault ${number}`)
  expect(names.size).toBe(FAULTS.length + 6)
})

test('random numbers are in their range and reach its ends', () => {
  const random = new Random('range')
  const seen = new Set(Array.from({ length: 1_000 }, () => random.between(3, 6)))
  expect([...seen].sort()).toEqual([3, 4, 5, 6])
  expect(() => random.pick([])).toThrow('nothing')
})

test.each([
  ['one sample', [5], 0],
  ['a start that is high', [90, 10, 10, 10, 10, 10, 10, 10], 0],
  ['a leak', [1, 2, 3, 4, 5, 6, 7, 8], 4],
  ['one outlier at the end', [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 99], 0],
] as const)('the growth of %s', (_, values, expected) => {
  expect(growth(values)).toBe(expected)
})
