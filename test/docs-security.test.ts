/** The limits that docs/security.md tells of are those of luod. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { LIMITS } from '../src/daemon/limits.js'
import { LIMIT_NAMES, underWay, userLimits } from '../src/daemon/user-limits.js'
import { MAX_TURN_MS } from '../src/wire/users.js'

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
  const { files, bytes } = underWay(1_000_000)
  expect(page.replaceAll('\n', ' ')).toContain(`of one user ${files} in each direction, or a 32nd of \`nofile\``)
  expect(page.replaceAll('\n', ' ')).toContain(`no more than ${bytes / 2 ** 20} MiB in each direction`)
})

test('what is remembered of a user is as much as the page says', () => {
  const answers = LIMITS.answers.toLocaleString('en')
  const text = page.replaceAll('\n', ' ')
  expect(text).toContain(`of one user ${answers} and ${LIMITS.answers_bytes / 2 ** 20} MiB of them`)
  expect(text).toContain(`${answers} requests may be under way`)
  expect(text).toContain(`a user gets ${MAX_TURN_MS} ms in each turn`)
})
