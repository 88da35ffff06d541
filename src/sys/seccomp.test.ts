/** What programs see of all this is tested with real ones, in test/emulate. */
import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { createMemfd } from './memfd.js'
import { AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64, buildFilter, HeldCalls } from './seccomp.js'

test('a filter has eight bytes an instruction, and x86-64 looks for x32 beside', () => {
  const other = buildFilter(AUDIT_ARCH_AARCH64, [{ number: 1 }])
  const intel = buildFilter(AUDIT_ARCH_X86_64, [{ number: 1 }])
  expect(other).toHaveLength(7 * 8)
  expect(intel).toHaveLength(9 * 8)
})

test('a rule that cannot be jumped over is refused', () => {
  const values = Array.from({ length: 300 }, (_, index) => index)
  try {
    buildFilter(AUDIT_ARCH_X86_64, [{ number: 1, when: [{ argument: 0, mask: -1, values }] }])
    expect.unreachable()
  } catch (error) {
    expect(isLuoError(error, 'EINVAL')).toBe(true)
  }
})

test('what is no listener is refused', () => {
  using file = createMemfd('no-listener')
  const calls = new HeldCalls(file)
  expect(calls.valid(1n)).toBe(false)
  expect(() => calls.receive()).toThrow(/receive a held system call/)
  expect(() => calls.answer(1n, 0n)).toThrow(/answer a held system call/)
  expect(() => calls.addFd(1n, file, { cloexec: true })).toThrow(/give a descriptor/)
})
