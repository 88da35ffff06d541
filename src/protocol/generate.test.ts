import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { generateTypes } from './generate.js'
import { parseInterface } from './idl.js'
import { INTERFACE_TEXT } from './interface.js'

const fromHere = (path: string) => fileURLToPath(new URL(path, import.meta.url))

function formatted(text: string): string {
  const args = ['format', `--stdin-file-path=${fromHere('./types.ts')}`]
  return execFileSync(fromHere('../../node_modules/.bin/biome'), args, {
    cwd: fromHere('../..'),
    input: text,
    encoding: 'utf8',
  })
}

test('types.ts is what interface.ts says; if not: npm run generate', () => {
  const generated = generateTypes(parseInterface(INTERFACE_TEXT))
  expect(formatted(readFileSync(fromHere('./types.ts'), 'utf8'))).toBe(formatted(generated))
})

test('each kind of the interface language has its type', () => {
  const text = `interface a.b
type Color (red, green)
type Point (
  a: bool, b: int, c: float, d: string, e: object, f: Color, g: ?string, h: []int, i: [](x, y), j: []?int, k: [string]int,
  l: (m: int, n: ?(o: string)), p: (), q: ?[]Color
)
method Get() -> (point: Point)`
  expect(generateTypes(parseInterface(text)).split('\n').slice(2)).toEqual([
    "export type Color = 'red' | 'green'",
    '',
    'export interface Point {',
    '  a: boolean',
    '  b: number',
    '  c: number',
    '  d: string',
    '  e: unknown',
    '  f: Color',
    '  g?: string',
    '  h: number[]',
    "  i: ('x' | 'y')[]",
    '  j: (number)[]',
    '  k: Record<string, number>',
    '  l: {',
    '    m: number',
    '    n?: {',
    '      o: string',
    '    }',
    '  }',
    '  p: Record<string, never>',
    '  q?: Color[]',
    '}',
    '',
    'export interface Methods {',
    '  Get: { input: Record<string, never>; output: {',
    '    point: Point',
    '  } }',
    '}',
    '',
  ])
})
