import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import {
  decodeMachineAnswer,
  decodeMachineRequest,
  encodeMachineAnswer,
  encodeMachineRequest,
  FLAG_NO_FILE,
  MACHINE_MESSAGE_BYTES,
  MACHINE_OBJECTS,
  MACHINE_OPERATIONS,
} from './machine.js'

const MAX = 2n ** 64n - 1n

test('golden bytes', () => {
  const request = encodeMachineRequest({
    operation: 'preserve',
    flags: FLAG_NO_FILE,
    inode: 2n,
    token: MAX,
    name: 'ab',
  })
  expect(Buffer.from(request).toString('hex')).toBe(
    `05000000010000000200000000000000ffffffffffffffff6162${'00'.repeat(62)}`,
  )
  const answer = encodeMachineAnswer({ errno: 17, object: 'incoming', inode: 3n, name: '' })
  expect(Buffer.from(answer).toString('hex')).toBe(`11000000030000000300000000000000${'00'.repeat(72)}`)
})

test.each(MACHINE_OPERATIONS)('a request to %s comes back as it was', (operation) => {
  const request = { operation, flags: 0, inode: MAX, token: 0n, name: 'n'.repeat(64) }
  expect(decodeMachineRequest(encodeMachineRequest(request))).toEqual(request)
})

test.each(MACHINE_OBJECTS)('an answer about %s comes back as it was', (object) => {
  const answer = { errno: 0xffffffff, object, inode: 1n, name: 'ü' }
  expect(decodeMachineAnswer(encodeMachineAnswer(answer))).toEqual(answer)
})

test('what does not fit is a breach of the protocol', () => {
  for (const length of [0, 1, MACHINE_MESSAGE_BYTES - 1, MACHINE_MESSAGE_BYTES + 1]) {
    expect(codeOf(() => decodeMachineRequest(new Uint8Array(length)))).toBe('LUO_PROTOCOL')
    expect(codeOf(() => decodeMachineAnswer(new Uint8Array(length)))).toBe('LUO_PROTOCOL')
  }
  const bytes = new Uint8Array(MACHINE_MESSAGE_BYTES).fill(0xff)
  expect(codeOf(() => decodeMachineRequest(bytes))).toBe('LUO_PROTOCOL')
  expect(codeOf(() => decodeMachineAnswer(bytes))).toBe('LUO_PROTOCOL')
})

test('a name that is too long is never written', () => {
  const name = 'n'.repeat(65)
  expect(codeOf(() => encodeMachineAnswer({ errno: 0, object: 'none', inode: 0n, name }))).toBe('EINVAL')
})
