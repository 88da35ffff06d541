import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { LIMIT_NAMES, parseLimits, userLimits } from './user-limits.js'

const MACHINE = { nofile: 65_536, shared: true, memory: 8 * 2 ** 30 }

function refusal(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (isLuoError(error, 'LUO_INVALID_PARAMETER')) return error.message
    throw error
  }
  throw new Error('nothing was refused')
}

test('limits are read with their units, and the last of one name counts', () => {
  expect(parseLimits([])).toEqual({})
  expect(parseLimits(['files=12', 'bytes=3GiB', 'sessions=1', 'files=13'])).toEqual({
    files: 13,
    bytes: 3 * 2 ** 30,
    sessions: 1,
  })
  const bytes = ['5', '5KiB', '5MiB', '5GiB', '5TiB'].map((text) => parseLimits([`bytes=${text}`]).bytes)
  expect(bytes).toEqual([5, 5 * 2 ** 10, 5 * 2 ** 20, 5 * 2 ** 30, 5 * 2 ** 40])
})

test.each([
  ...['', 'files', 'files=', '=5', 'files=0', 'files=-1', 'files=1.5', 'files=1e3', 'files=0x10', 'files=5MiB'],
  ...['bytes=5MB', 'bytes=5 GiB', 'bytes=9007199254740992', 'bytes=9999999TiB', 'files=99999999999', 'files=5\n'],
  ...['watchers=NaN', 'connections==5'],
])('%j is refused, and says how it is written', (text) => {
  expect(refusal(() => parseLimits([text]))).toContain('write NAME=N')
})

test.each(['file=5', 'FILES=5', '__proto__=5', 'constructor=5'])('%s names no limit, and the list is told', (text) => {
  expect(refusal(() => parseLimits([text]))).toContain(LIMIT_NAMES.join(', '))
})

test('without options a user has the defaults, and as many bytes as the machine', () => {
  expect(userLimits({}, MACHINE)).toEqual({
    connections: 256,
    workloads: 64,
    sessions: 1_024,
    files: 16_384,
    bytes: MACHINE.memory,
    watchers: 32,
  })
})

test('a luod for every user gives one of them half of its files, its own luod all but the reserve', () => {
  expect(userLimits({}, { ...MACHINE, nofile: 20_000 }).files).toBe(10_000)
  expect(userLimits({}, { ...MACHINE, nofile: 10_000, shared: false }).files).toBe(7_952)
  expect(userLimits({}, { ...MACHINE, nofile: 120, shared: false }).files).toBe(60)
})

test('sessions are descriptors too: a luod that may open few has few', () => {
  expect(userLimits({}, { ...MACHINE, nofile: 1_024 }).sessions).toBe(128)
  expect(userLimits({ sessions: 300 }, { ...MACHINE, nofile: 1_024 }).sessions).toBe(300)
})

test('files can be set up to what luod can hold, and not over it', () => {
  const machine = { ...MACHINE, nofile: 20_000 }
  expect(userLimits({ files: 17_952 }, machine).files).toBe(17_952)
  expect(refusal(() => userLimits({ files: 17_953 }, machine))).toMatch(/files=17953: 17952 go.*20000.*LimitNOFILE/)
  expect(refusal(() => userLimits({ files: 61 }, { ...machine, nofile: 120 }))).toContain('60 go')
})
