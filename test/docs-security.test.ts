/** The limits that docs/security.md tells of are those of luod. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { LIMITS } from '../src/daemon/limits.js'
import { filesUnderWay, LIMIT_NAMES, userLimits } from '../src/daemon/user-limits.js'

const page = readFileSync(new URL('../docs/security.md', import.meta.url), 'utf8')

test('each limit of a user is in the table, with its default', () => {
  const [, table = ''] = page.split('| limit | default | why |')
  const rows = [...(table.split('\n\n')[0] ?? '').matchAll(/^\| (\w+) \| ([^|]+) \|/gm)].map(([, name, value]) => [
    name,
    value,
  ])
  const memory = 2 ** 40
  const limits = userLimits({}, { nofile: 1_000_000, shared: true, memory })
  const told = LIMIT_NAMES.map((name) => [name, limits[name] === memory ? 'memory of the machine' : `${limits[name]}`])
  expect(rows).toEqual(told)
  expect(page).toContain(`${filesUnderWay(1_000_000)} in each direction`)
})

test('what is remembered of a user is as much as the page says', () => {
  const answers = LIMITS.answers.toLocaleString('en')
  const text = page.replaceAll('\n', ' ')
  expect(text).toContain(`of one user ${answers} and ${LIMITS.answers_bytes / 2 ** 20} MiB of them`)
  expect(text).toContain(`${answers} requests may be under way`)
})
