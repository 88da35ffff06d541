import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { type Crossing, decodeCrossing, encodeCrossing, encodeTimes } from './crossing.js'

const crossing: Crossing = {
  luod: '1',
  times: { frozen: 1 },
  sessions: [
    { session: '1', name: 'luod-session-1', files: [{ key: '1', token: '7' }] },
    { session: '2', files: [{ key: '2', token: '0', description: { version: 1 } }] },
  ],
}
const records = Buffer.from('records')

test('what is handed over is read as it was', () => {
  expect(decodeCrossing(encodeCrossing(crossing, records))).toEqual({ crossing, records })
})

test('later times go where the others were, and change nothing else', () => {
  const file = Buffer.from(encodeCrossing(crossing, records))
  const later = { ...crossing, times: { frozen: 1, reboot: 2 } }
  file.set(encodeTimes(later, file) ?? [])
  expect(decodeCrossing(file)).toEqual({ crossing: later, records })
})

test('times that there is no room for are refused, not written', () => {
  const file = encodeCrossing(crossing, records)
  expect(encodeTimes({ ...crossing, times: { ['t'.repeat(10_000)]: 1 } }, file)).toBeUndefined()
})

test('another version is no damage, and each changed byte is', () => {
  const file = Buffer.from(encodeCrossing(crossing, records))
  const changed = (at: number) => {
    const copy = Buffer.from(file)
    copy[at] = (copy[at] ?? 0) ^ 1
    return codeOf(() => decodeCrossing(copy))
  }
  expect(changed(8)).toBe('LUO_RECORDS_VERSION')
  for (const at of [0, 12, 16, 20, 24, 4096, 8000, file.length - 1]) expect(changed(at)).toBe('LUO_RECORDS')
  for (const length of [0, 7, 31, 4096, file.length - 1]) {
    expect(codeOf(() => decodeCrossing(file.subarray(0, length)))).toBe('LUO_RECORDS')
  }
})

test('what is no crossing is refused by what is wrong with it', () => {
  for (const wrong of [null, [], { luod: 1 }, { luod: '1', times: { a: 'b' }, sessions: [] }]) {
    expect(codeOf(() => decodeCrossing(encodeCrossing(wrong as unknown as Crossing, records)))).toBe('LUO_RECORDS')
  }
})
