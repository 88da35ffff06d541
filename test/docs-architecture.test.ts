/** The tables of docs/architecture.md: every folder is there, and who may import what is what the check enforces. */
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { expect, test } from 'vitest'

const PROJECT = new URL('../', import.meta.url)
const TEXT = readFileSync(new URL('docs/architecture.md', PROJECT), 'utf8')
const { forbidden } = createRequire(import.meta.url)('../.dependency-cruiser.cjs') as {
  forbidden: { name: string; comment?: string }[]
}

const words = (text: string) => [...text.matchAll(/`(\w+)`/g)].map(([, word]) => word)

test('every folder of src is there, with what it is', () => {
  const written = [...TEXT.matchAll(/^\| `src\/(\w+)` \| \S/gm)].map(([, folder]) => folder)
  const folders = readdirSync(new URL('src', PROJECT), { withFileTypes: true }).filter((entry) => entry.isDirectory())
  expect(written.sort()).toEqual(folders.map(({ name }) => name).sort())
})

test('who may import what is what the check of imports enforces', () => {
  const written = [...TEXT.matchAll(/^\| `(\w+)` \| (.+) \|$/gm)].flatMap(([, folder, others = '']) =>
    words(others).length > 0 || others === '-' ? [[folder, words(others).sort()]] : [],
  )
  const enforced = forbidden.flatMap(({ comment = '' }) => {
    const [, folder, all = ''] = /^src\/(\w+) may import (.+)$/.exec(comment) ?? []
    const others = all.split(', ').filter((name) => name !== 'errors' && name !== folder)
    return folder ? [[folder, others.map((name) => name.replace(/\/.*/, '')).sort()]] : []
  })
  expect(enforced.length).toBeGreaterThan(5)
  expect(Object.fromEntries(written)).toMatchObject(Object.fromEntries(enforced))
})
