import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64 } from '../sys/seccomp.js'
import { ARM64_CALLS, CALLS, emulationFilter, filterFor } from './filter.js'

const HOLD = 0x7fc00000
const ALLOW = 0x7fff0000
const O_RDWR = 2
const O_CREAT = 0o100
const O_NOCTTY = 0o400
const O_CLOEXEC = 0o2000000
const O_PATH = 0o10000000

/** What the kernel would do with the program, instruction by instruction. */
function decide(program: Uint8Array, call: { number: number; arch?: number; args?: number[] }): number {
  const { number, arch = AUDIT_ARCH_X86_64, args = [] } = call
  const data = new DataView(new ArrayBuffer(64))
  data.setUint32(0, number, true)
  data.setUint32(4, arch, true)
  args.forEach((value, index) => {
    data.setBigUint64(16 + index * 8, BigInt(value), true)
  })
  const code = new DataView(program.buffer, program.byteOffset)
  let register = 0
  for (let at = 0; at < program.length / 8; at++) {
    const operation = code.getUint16(at * 8, true)
    const k = code.getUint32(at * 8 + 4, true)
    const jump = (taken: boolean) => {
      at += code.getUint8(at * 8 + (taken ? 2 : 3))
    }
    if (operation === 0x20) register = data.getUint32(k, true)
    else if (operation === 0x54) register = (register & k) >>> 0
    else if (operation === 0x15) jump(register === k)
    else if (operation === 0x35) jump(register >= k)
    else if (operation === 0x06) return k
    else throw new Error(`instruction 0x${operation.toString(16)}`)
  }
  throw new Error('the program has no end')
}

test.each([
  ['open for reading and writing', { number: CALLS.open, args: [0, O_RDWR] }, HOLD],
  ['openat, close-on-exec', { number: CALLS.openat, args: [0, 0, O_RDWR | O_CLOEXEC] }, HOLD],
  ['openat for reading alone', { number: CALLS.openat, args: [0, 0, 0] }, HOLD],
  ['a library: for reading, close-on-exec', { number: CALLS.openat, args: [0, 0, O_CLOEXEC] }, ALLOW],
  ['a source: for reading, no terminal', { number: CALLS.openat, args: [0, 0, O_NOCTTY] }, ALLOW],
  ['both', { number: CALLS.open, args: [0, O_NOCTTY | O_CLOEXEC] }, ALLOW],
  ['whatever it would make, close-on-exec', { number: CALLS.openat, args: [0, 0, O_CLOEXEC | O_CREAT] }, HOLD],
  ['other flags beside', { number: CALLS.openat, args: [0, 0, O_CLOEXEC | O_PATH] }, ALLOW],
  ['openat2', { number: CALLS.openat2, args: [0, 0, 0] }, HOLD],
  ['creat', { number: CALLS.creat, args: [0, 0o600] }, HOLD],
  ["live update's ioctl", { number: CALLS.ioctl, args: [3, 0xba41] }, HOLD],
  ['its number with other bits', { number: CALLS.ioctl, args: [3, 0x4004ba00] }, HOLD],
  ['a terminal ioctl', { number: CALLS.ioctl, args: [3, 0x5401] }, ALLOW],
  ['kexec_load', { number: CALLS.kexecLoad }, HOLD],
  ['kexec_file_load', { number: CALLS.kexecFileLoad }, HOLD],
  ['reboot', { number: CALLS.reboot }, HOLD],
  ['chroot', { number: CALLS.chroot }, HOLD],
  ['pivot_root', { number: CALLS.pivotRoot }, HOLD],
  ['setns', { number: CALLS.setns }, HOLD],
  ['read', { number: 0 }, ALLOW],
  ['read of x32', { number: 0x40000000 }, HOLD],
  ['a call of i386', { number: 3, arch: 0x40000003 }, HOLD],
])('%s', (_, call, expected) => {
  expect(decide(emulationFilter(), call)).toBe(expected)
})

test.each([
  ['openat for reading and writing', { number: ARM64_CALLS.openat, args: [0, 0, O_RDWR] }, HOLD],
  ['a library: for reading, close-on-exec', { number: ARM64_CALLS.openat, args: [0, 0, O_CLOEXEC] }, ALLOW],
  ["live update's ioctl", { number: ARM64_CALLS.ioctl, args: [3, 0xba41] }, HOLD],
  ['what is open on x86-64', { number: CALLS.open, args: [0, O_RDWR] }, ALLOW],
  ['a call of x86-64', { number: CALLS.ioctl, arch: AUDIT_ARCH_X86_64 }, HOLD],
])('arm64: %s', (_, call, expected) => {
  expect(decide(filterFor('arm64', false), { arch: AUDIT_ARCH_AARCH64, ...call })).toBe(expected)
})

test.each([
  [CALLS.openat, [0, 0, O_CLOEXEC], HOLD],
  [CALLS.open, [0, O_NOCTTY | O_CLOEXEC], HOLD],
  [0, [], ALLOW],
])('every open is held when it is asked for: call %d', (number, args, expected) => {
  expect(decide(emulationFilter({ everyOpen: true }), { number, args })).toBe(expected)
})

test('nothing is emulated on a machine where it was never run: LUO_UNSUPPORTED', () => {
  expect(codeOf(() => emulationFilter({ machine: 'arm64' }))).toBe('LUO_UNSUPPORTED')
})
