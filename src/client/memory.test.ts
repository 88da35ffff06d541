import { expect, test } from 'vitest'
import { createMemfd } from '../sys/memfd.js'
import { PreservedMemory } from './memory.js'

const GIB = 2 ** 30

test('of memory that is too large for one ArrayBuffer, a successor has its windows before it has the memory', async () => {
  const size = 5 * GIB
  const reserved = await PreservedMemory.reserve({ size })
  const windows = [0, 2, 4].map((at) => reserved?.window(at * GIB, Math.min(2 * GIB, size - at * GIB)))
  const fd = createMemfd('large', { size })
  const memory = PreservedMemory.open('large', fd, { format: undefined, max: size }, () => undefined, reserved)
  const opened = [0, 2, 4].map((at) => memory.window(at * GIB, Math.min(2 * GIB, size - at * GIB)))
  opened.forEach((window, index) => {
    expect(window).toBe(windows[index])
  })
  expect(() => memory.buffer).toThrow(/use window/)
  memory.close()
  expect(windows.map((window) => window?.byteLength)).toEqual([0, 0, 0])
})
