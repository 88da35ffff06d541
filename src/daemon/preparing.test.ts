import { afterEach, expect, test } from 'vitest'
import { until } from '../../test/until.js'
import { LuoError } from '../errors.js'
import { Preparing } from './preparing.js'

let preparing: Preparing
afterEach(() => preparing.stop())

/** Work that is done after so many parts; before that it fails `failures` times. */
function replica(parts: number, failures = 0) {
  const does = { parts: 0, failures }
  const work = () => {
    if (does.failures > 0) {
      does.failures -= 1
      throw new LuoError('LUO_RECORDS', 'torn')
    }
    does.parts += 1
    return does.parts < parts
  }
  return { does, work }
}

test('work is done in parts until nothing is left, and is told once', async () => {
  const { does, work } = replica(5)
  preparing = new Preparing({ work })
  const done: unknown[] = []
  preparing.now((error) => done.push(error))
  expect(does.parts).toBe(0)
  await until(() => done.length > 0, 'it is done')
  expect(does.parts).toBe(5)
  preparing.changed()
  await until(() => does.parts === 6, 'what has changed is done')
  expect(done).toEqual([undefined])
})

test('what was torn is told to whoever asked, and is done later', async () => {
  const { does, work } = replica(1, 1)
  preparing = new Preparing({ work })
  const done: (LuoError | undefined)[] = []
  preparing.now((error) => done.push(error))
  await until(() => done.length > 0, 'it is told')
  expect(done[0]?.code).toBe('LUO_RECORDS')
  await until(() => does.parts === 1, 'it is done')
})

test('nothing is done any more when it is stopped', async () => {
  const { does, work } = replica(1)
  preparing = new Preparing({ work })
  preparing.now(() => {})
  preparing.changed()
  preparing.stop()
  preparing.changed()
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(does.parts).toBe(0)
})
