import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { KEPT_KINDS, kindRows, REFUSED_KINDS } from './kinds.js'
import { kindsPage } from './kinds-page.js'

test('docs/kinds.md is what kinds.ts says; if not: npm run generate', () => {
  expect(readFileSync(new URL('../../docs/kinds.md', import.meta.url), 'utf8')).toBe(kindsPage())
})

test('no text of the table breaks a table', () => {
  const texts = kindRows().flatMap(({ what, reason, crosses, properties }) => [
    what,
    reason ?? '-',
    ...Object.values(crosses ?? {}),
    ...Object.entries(properties ?? {}).flat(),
  ])
  expect(texts.filter((text) => text === '' || /[|\n]/.test(text))).toEqual([])
})

test('the rows are all kinds, kept ones first', () => {
  const rows = kindRows()
  expect(rows.map(({ kind }) => kind)).toEqual([...Object.keys(KEPT_KINDS), ...Object.keys(REFUSED_KINDS)])
  for (const row of rows) {
    expect(Object.keys(row.properties ?? {}).length > 0).toBe(row.kept)
    expect(row.reason === undefined).toBe(row.kept)
  }
})
