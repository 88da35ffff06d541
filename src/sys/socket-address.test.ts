import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { addressText, decodeAddress, encodeAddress, type InternetAddress, interfaceIndex } from './socket-address.js'

test.each<[InternetAddress, string, string]>([
  [{ family: 'ipv4', address: '192.0.2.1', port: 80 }, '02000050c00002010000000000000000', '192.0.2.1:80'],
  [
    { family: 'ipv6', address: '2001:db8::7', port: 8080 },
    '0a001f900000000020010db800000000000000000000000700000000',
    '[2001:db8::7]:8080',
  ],
  [{ family: 'ipv6', address: '::', port: 1 }, `0a000001${'00'.repeat(24)}`, '[::]:1'],
  [
    { family: 'ipv6', address: '::ffff:192.0.2.1', port: 1 },
    '0a0000010000000000000000000000000000ffffc000020100000000',
    '[::ffff:192.0.2.1]:1',
  ],
  [
    { family: 'ipv6', address: 'fe80::1', port: 1, flowInfo: 9, interface: 'lo' },
    `0a00000100000009fe8000000000000000000000000000010${interfaceIndex('lo')}000000`,
    '[fe80::1%lo]:1',
  ],
  [
    { family: 'ipv6', address: '1:2:3:4:5:6:7:8', port: 65535 },
    '0a00ffff000000000001000200030004000500060007000800000000',
    '[1:2:3:4:5:6:7:8]:65535',
  ],
])('%j is the bytes of the kernel, and back', (address, hex, text) => {
  expect(Buffer.from(encodeAddress(address)).toString('hex')).toBe(hex)
  expect(decodeAddress(Buffer.from(hex, 'hex'))).toEqual(address)
  expect(addressText(address)).toBe(text)
})

test('what is no address is EINVAL, and an interface that is not there ENODEV', () => {
  for (const hex of ['', '02', '0200', '0a00', `0100${'00'.repeat(26)}`]) {
    expect(codeOf(() => decodeAddress(Buffer.from(hex, 'hex')))).toBe('EINVAL')
  }
  const six = { family: 'ipv6', address: 'fe80::1', port: 1 } as const
  expect(codeOf(() => decodeAddress(Buffer.from(`0a00${'00'.repeat(22)}ffffff0f`, 'hex')))).toBe('ENODEV')
  expect(codeOf(() => encodeAddress({ ...six, interface: 'nothing0' }))).toBe('ENODEV')
  expect(codeOf(() => encodeAddress({ ...six, interface: 'lo\0x' }))).toBe('ENODEV')
  for (const address of ['', 'fe80::1%lo', '1.2.3.4', 'x', ':::']) {
    expect(codeOf(() => encodeAddress({ ...six, address }))).toBe('EINVAL')
  }
  expect(codeOf(() => encodeAddress({ family: 'ipv4', address: '::1', port: 1 }))).toBe('EINVAL')
  expect(codeOf(() => encodeAddress({ ...six, port: 65536 }))).toBe('EINVAL')
})
