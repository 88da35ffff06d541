/** The limits that docs/security.md tells of are those of luod. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
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
