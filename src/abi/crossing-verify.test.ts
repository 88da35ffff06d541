import { expect, test } from 'vitest'
import type { Crossing } from './crossing.js'
import { checkCrossed } from './crossing-verify.js'
import type { Json, RecordType } from './records.js'

const entries = new Map<RecordType, Map<string, Json>>([
  ['session', new Map([['1', {}]])],
  [
    'file',
    new Map([
      ['1', { session: '1', token: '7' }],
      ['2', { session: '1', token: '8' }],
      ['4', { session: '1', token: '9', until: 'update' }],
    ]),
  ],
])
const byKernel = { key: '1', token: '7' }
const byValue = { key: '2', token: '8', description: { kind: 'file' } }
const crossing = (files: Crossing['sessions'][number]['files'], session = '1', name?: string): Crossing => ({
  ...{ luod: '1', times: {} },
  sessions: [{ session, files, ...(name === undefined ? {} : { name }) }],
})

test('what crosses is what is recorded', () => {
  expect(checkCrossed(crossing([byKernel, byValue], '1', 'luod-session-1'), entries)).toEqual([])
})

test.each([
  ['a file that does not cross', crossing([byKernel], '1', 'k'), ['2'], /does not cross/],
  ['a file that crosses twice', crossing([byKernel, byKernel, byValue], '1', 'k'), ['1'], /twice/],
  [
    'a file that nobody recorded',
    crossing([byKernel, byValue, { key: '3', token: '3' }], '1', 'k'),
    ['3'],
    /no record/,
  ],
  ['another token', crossing([{ ...byKernel, token: '9' }, byValue], '1', 'k'), ['1'], /recorded is 7 of 1/],
  ['no session of the kernel', crossing([byKernel, byValue]), ['1'], /no session of the kernel/],
  ['a session that nobody recorded', crossing([byKernel, byValue], '2', 'k'), ['2', '1', '2'], /no record|recorded is/],
])('%s is said', (_, crossed, keys, why) => {
  const findings = checkCrossed(crossed, entries)
  expect(findings.map(({ key }) => key)).toEqual(keys)
  for (const finding of findings) expect(finding.why).toMatch(why)
})
