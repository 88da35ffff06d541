/** Each term of docs/glossary.md is where it says: the file exists and contains the symbol. */
import { existsSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const PROJECT = new URL('../', import.meta.url)
const TEXT = readFileSync(new URL('docs/glossary.md', PROJECT), 'utf8')
const TERMS = [
  ...['session', 'token', 'outgoing', 'incoming', 'preserve', 'unpreserve', 'freeze', 'unfreeze', 'retrieve', 'finish'],
  ...['can_preserve', 'can_finish', 'get_id', 'file handler', 'compatible', 'session descriptor', 'adopt'],
  ...['custody', 'orphaned', 'release'],
  ...[
    'workload',
    'member',
    'successor',
    'group',
    'dependent',
    'supervisor',
    'ticket',
    'manifest',
    'claim',
    'commit',
    'rollback',
    'fencing',
  ],
  ...['drain', 'blackout', 'records', 'FLB', 'KHO', 'machine', 'notifier', 'vault', 'standby', 'takeover'],
]

const rows = TEXT.split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| term') && !line.startsWith('| ---'))
  .map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.replaceAll('`', '').trim()),
  )

/** The symbol as a word of its own, so that `preserve` is not found in `unpreserve`. */
function contains(file: string, symbol: string): boolean {
  const escaped = symbol.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`(?<![\\w$])${escaped}(?![\\w$])`).test(readFileSync(new URL(file, PROJECT), 'utf8'))
}

test('every term is there once, with a meaning', () => {
  expect(rows.map(([term]) => term)).toEqual(TERMS)
  for (const [term, meaning] of rows) expect(meaning, term).not.toBe('')
})

test.each(rows)('%s is where the glossary says', (_, __, symbol = '', file = '') => {
  if (symbol === 'not yet') return expect(file).toBe('')
  expect(existsSync(new URL(file, PROJECT)), file).toBe(true)
  expect(contains(file, symbol), `${symbol} in ${file}`).toBe(true)
})
