import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import type { HeldFile } from '../handlers/held-file.js'
import { Faults, parseFaults } from './failing-handlers.js'

const file = {} as HeldFile

function wrapped(...faults: string[]) {
  const all = new Faults()
  all.set(parseFaults(faults))
  const handler = all.wrap({
    compatible: 'test-v1',
    canPreserve: () => true,
    preserve: () => ({ data: 1n }),
    unpreserve: () => {},
    retrieve: () => file,
    finish: () => {},
  })
  return { all, handler }
}

test('the Nth call fails, or every one', () => {
  const { handler } = wrapped('preserve:ENOMEM@2', 'freeze:EBUSY')
  expect([1, 2, 3].map(() => codeOf(() => handler.preserve(file)))).toEqual([undefined, 'ENOMEM', undefined])
  expect([1, 2].map(() => codeOf(() => handler.freeze?.({ data: 1n }, file)))).toEqual(['EBUSY', 'EBUSY'])
})

test('the file of one token fails, in every operation', () => {
  const { all, handler } = wrapped('preserve:EIO@token=7', 'freeze:EIO@token=0x8', 'retrieve:EIO@token=9')
  expect(codeOf(() => all.during(7n, () => handler.preserve(file)))).toBe('EIO')
  expect(codeOf(() => all.during(8n, () => handler.preserve(file)))).toBeUndefined()
  expect(codeOf(() => handler.freeze?.({ data: 1n }, file))).toBe('EIO')
  expect(codeOf(() => all.during(9n, () => handler.retrieve(1n)))).toBe('EIO')
  expect(codeOf(() => all.during(8n, () => handler.retrieve(1n)))).toBeUndefined()
})

test('a finish is refused before anything is finished, and other faults count anew', () => {
  const { all, handler } = wrapped('finish:EAGAIN@1', 'deserialize:EINVAL')
  const finishing = { data: 1n, retrieved: 'no' as const, file: undefined }
  expect(codeOf(() => handler.canFinish?.(finishing))).toBe('EAGAIN')
  expect(handler.canFinish?.(finishing)).toBe(true)
  expect(codeOf(() => all.check('deserialize'))).toBe('EINVAL')
  all.set([])
  expect(codeOf(() => all.check('deserialize'))).toBeUndefined()
})

test.each([
  '',
  'preserve',
  'preserve:',
  'preserve:NOMEM',
  'preserve:ENONSENSE',
  'unpreserve:EIO',
  'preserve:EIO@0',
  'preserve:EIO@-1',
  'preserve:EIO@1.5',
  'preserve:EIO@token=',
  'preserve:EIO@token=18446744073709551616',
  'preserve:EIO@1@2',
  'deserialize:EIO@token=1',
  ' preserve:EIO',
])('"%s" is no fault', (text) => {
  expect(() => parseFaults([text])).toThrow(/fail|fault/)
})

test('there is a limit', () => {
  expect(codeOf(() => parseFaults(Array(65).fill('freeze:EIO')))).toBe('LUO_INVALID_PARAMETER')
})
