import { describe, expect, test } from 'vitest'
import { decodeName } from '../abi/bytes.js'
import { LuoError } from '../errors.js'
import type { Phase } from '../protocol/types.js'
import {
  clean,
  errorLines,
  formatBytes,
  phaseLine,
  printable,
  table,
  timelineRows,
  usageLines,
  workloadDetails,
  workloadRows,
} from './format.js'

const TIMELINE: Phase[] = [
  { phase: 'starting', at_ms: 0 },
  { phase: 'joined', at_ms: 41.2, who: 12 },
  { phase: 'preparing', at_ms: 41.3 },
  { phase: 'restoring', at_ms: 43.3, who: 11 },
  { phase: 'committing', at_ms: 45, who: 12 },
  { phase: 'committed', at_ms: 45.5, who: 11 },
]

test('sizes have binary units', () => {
  expect([0, 1023, 1024, 1536, 256 * 2 ** 20].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1 KiB',
    '1.5 KiB',
    '256 MiB',
  ])
})

test('control and direction characters of others cannot drive the terminal', () => {
  expect(clean('a\u001b[2Jb\nc\u202ed')).toBe('a?[2Jb?c?d')
})

test('a line of JSON that would drive a terminal is another line of the same value', () => {
  const value = { name: 'a\u001b[2J\u007f\u009b31m\u2028\u202e\u2066é\u{1f600}' }
  const line = printable(JSON.stringify(value), true)
  expect(line).toBe('{"name":"a\\u001b[2J\\u007f\\u009b31m\\u2028\\u202e\\u2066é\u{1f600}"}')
  expect(JSON.parse(line)).toEqual(value)
  expect(printable('a\u001b[2J\u007f\u009b31m\u2028\u202e\u2066é', false)).toBe('a?[2J??31m???é')
})

test('bytes of a name that are not UTF-8 are shown by their numbers', () => {
  expect(clean(decodeName(Uint8Array.of(0x61, 0xff, 0xc3, 0xa9, 0x80)))).toBe('a\\xffé\\x80')
})

test('a table pads to the widest cell and leaves no trailing blanks', () => {
  expect(
    table(
      ['A', 'B'],
      [
        ['long', ''],
        ['x', 'yy'],
      ],
    ),
  ).toEqual(['A     B', 'long', 'x     yy'])
})

test('a session may have more files than a call has arguments', () => {
  const counts = { files: 150_000, bytes: '0', keep_ms: 0 }
  const workload = {
    ...counts,
    name: 'w',
    uid: 0,
    state: 'running',
    supervised: true,
    generation: 1,
    sessions: 1,
  } as const
  const session = { ...counts, session: '1', name: 's', uid: 0, custody: 'held', age_ms: 0 } as const
  const file = { token: '1', kind: 'k', compatible: 'c' }
  const content = { session, files: Array.from({ length: counts.files }, () => file) }
  expect(workloadDetails({ ...workload, formats: [] }, [content]).at(-1)).toBe('    1      k     -     -       -')
})

test('one cell without end does not make the others as wide', () => {
  const wide = 'w'.repeat(500_000)
  const lines = table(['A', 'B'], [[wide, 'b'], ...Array.from({ length: 10_000 }, () => ['x', 'b'])])
  expect(lines[1]).toBe(`${wide}  b`)
  expect(lines[2]).toBe('x  b')
  expect(new Set(lines.slice(2)).size).toBe(1)
})

test('a timeline says how long each phase took and who was waited for', () => {
  const rows = timelineRows(TIMELINE)
  expect(rows.map((row) => row.took_ms?.toFixed(1))).toEqual(['41.2', '0.1', '2.0', '1.7', '0.5', undefined])
  expect(rows[0]?.waited_for).toBe('the new version (pid 12) to start and join')
  expect(rows[2]?.waited_for).toBe('the old version (pid 11) to let go of its state')
  expect(rows.at(-1)?.waited_for).toBeUndefined()
})

test('a phase line shows the reason and the code', () => {
  const phase: Phase = { phase: 'rolledBack', at_ms: 5, who: 7, reason: 'busy', code: 'LUO_REFUSED' }
  expect(phaseLine(phase)).toBe('    5.0 ms  rolledBack (pid 7): busy (LUO_REFUSED)')
})

describe('errors', () => {
  test('are one line with the code, then the advice', () => {
    expect(errorLines(new LuoError('LUO_UPDATING', 'update web: busy'))).toEqual([
      'luoctl: update web: busy (LUO_UPDATING)',
      '  An update, an upgrade of luod or a kexec is under way. Wait for it, or abort it.',
    ])
  })

  test('show where to read on for what was given wrongly, and the end of what is long', () => {
    const [line = '', ...more] = errorLines(new LuoError('LUO_INVALID_PARAMETER', `open ${'x'.repeat(5_000)}: gone`))
    expect(line).toMatch(/^luoctl: open x{100}…\S*: gone|^luoctl: open x{100}… gone/)
    expect(more).toEqual(['  luoctl COMMAND --help shows examples.'])
  })

  test('with an errno have no advice', () => {
    expect(errorLines(new LuoError('ENOENT', 'read x'))).toEqual(['luoctl: read x (ENOENT)'])
  })
})

test('limits that nothing is counted for share lines', () => {
  const names = Array.from({ length: 12 }, (_, index) => `limit_${index}`)
  const limits = { files: 10, ...Object.fromEntries(names.map((name) => [name, 1_000_000])) }
  const usage = [{ uid: 7, connections: 1, workloads: 0, sessions: 0, files: 3, bytes: 2 ** 20, watchers: 0 }]
  const lines = usageLines({ limits, usage })
  expect(lines).toContain('    files 3 of 10')
  const others = lines.slice(lines.findIndex((line) => line.startsWith('  other limits limit_0 1000000,')))
  expect(others.length).toBeLessThan(5)
  expect(others.every((line) => line.length <= 100)).toBe(true)
  const items = others
    .map((line) => line.replace(/^ +(other limits )?/, ''))
    .join(' ')
    .split(', ')
  expect(items).toEqual(names.map((name) => `${name} 1000000`))
  expect(usageLines({ limits: { files: 10 }, usage })).toHaveLength(7)
})

test('no workloads: it says how to start one', () => {
  expect(workloadRows([])[0]).toContain('luoctl run')
})

test('what is said of a workload stands in one column', () => {
  const workload = {
    ...{
      name: 'web',
      uid: 0,
      state: 'running' as const,
      supervised: true,
      generation: 1,
      keep_ms: 0,
      formats: ['a/1'],
    },
    ...{ sessions: 0, files: 0, bytes: '0', after: ['db'], update: 'u', pid: 7 },
  }
  const [, ...facts] = workloadDetails(workload, [])
  expect(facts).toHaveLength(6)
  for (const fact of facts) expect(fact).toMatch(/^ {2}(?=.{13} {2}\S)\S.{12} {2}\S/)
})
