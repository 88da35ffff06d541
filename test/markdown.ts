/** For tests that compare a document with what is so. */
import { expect } from 'vitest'

/** The text between this heading, a whole line, and the next one that is as high or higher. */
export function sectionOf(text: string, heading: string): string {
  const lines = text.split('\n')
  const start = lines.indexOf(heading)
  expect(start, `the heading ${heading}`).toBeGreaterThan(-1)
  const level = heading.indexOf(' ')
  const rest = lines.slice(start + 1)
  const end = rest.findIndex((line) => /^#+ /.test(line) && line.indexOf(' ') <= level)
  return rest.slice(0, end < 0 ? undefined : end).join('\n')
}

/** Rows of the first table that begins with this head, as cells without backquotes. */
export function tableOf(text: string, head: string): string[][] {
  const lines = text.split('\n')
  const start = lines.indexOf(head)
  expect(start, `the table ${head}`).toBeGreaterThan(-1)
  const rest = lines.slice(start + 2)
  const end = rest.findIndex((line) => !line.startsWith('|'))
  return rest.slice(0, end < 0 ? undefined : end).map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.replaceAll('`', '').trim()),
  )
}

/** What is in the blocks of code of this language. */
export function blocksOf(text: string, language: string): string[] {
  return [...text.matchAll(/^```(\w*).*\n([\s\S]*?)^```$/gm)].flatMap(([, of, body = '']) =>
    of === language ? body : [],
  )
}
