import { expect, test } from 'vitest'
import { kindRows } from '../handlers/kinds.js'
import type { Context } from './context.js'
import { kindsCommand } from './kinds.js'

async function output(json: boolean): Promise<string[]> {
  const lines: string[] = []
  const context: Context = { json, socket: '/nowhere', out: (line) => lines.push(line), err: () => {} }
  expect(await kindsCommand(context)).toBe(0)
  return lines
}

test('prints each kind in a line, without a luod', async () => {
  const lines = await output(false)
  for (const { kind } of kindRows()) expect(lines.filter((line) => line.startsWith(`${kind} `))).toHaveLength(1)
})

test('prints the table as JSON, in one line', async () => {
  const [line = '', ...more] = await output(true)
  expect(more).toEqual([])
  expect(JSON.parse(line)).toEqual({ kinds: JSON.parse(JSON.stringify(kindRows())) })
})
