/**
 * Every link of a document leads to a file that is there, and to a heading of it; every path that it names is there.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const PROJECT = fileURLToPath(new URL('../', import.meta.url))
const FOLDERS = ['.', 'docs', 'clients', 'examples/kv', 'test/conformance', 'test/golden']
const pages = FOLDERS.flatMap((folder) =>
  readdirSync(join(PROJECT, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name)),
)

const prose = (page: string) => readFileSync(join(PROJECT, page), 'utf8').replaceAll(/^```[\s\S]*?^```$/gm, '')

/** As GitHub makes them. */
const anchors = (page: string) =>
  [...prose(page).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  )

test.each(pages)('%s', (page) => {
  for (const [, link = ''] of prose(page).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:/.test(link)) continue
    const [file, anchor] = link.split('#')
    const target = file ? join(dirname(page), file) : page
    expect(existsSync(join(PROJECT, target)), link).toBe(true)
    if (anchor) expect(anchors(target), link).toContain(anchor)
  }
  for (const [, path = ''] of prose(page).matchAll(/`((?:src|test|docs|scripts|bench|clients|examples)\/[\w./-]+)`/g)) {
    expect(existsSync(join(PROJECT, path)), path).toBe(true)
  }
})

test('the README leads to every page', () => {
  const linked = [...prose('README.md').matchAll(/\]\((docs\/[^)#]+)/g)].map(([, link]) => link)
  expect(pages.filter((page) => page.startsWith('docs/') && !linked.includes(page))).toEqual([])
})
