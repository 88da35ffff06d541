import { expect, test } from 'vitest'
import { isLuoError } from '../errors.js'
import { parseMetricsAddress } from './metrics-server.js'

test('a Unix socket, or a port of the loopback interface', () => {
  expect(parseMetricsAddress('unix:/run/luod/metrics.sock')).toEqual({ path: '/run/luod/metrics.sock' })
  expect(parseMetricsAddress('127.0.0.1:9464')).toEqual({ host: '127.0.0.1', port: 9464 })
  expect(parseMetricsAddress('127.1.2.3:1')).toEqual({ host: '127.1.2.3', port: 1 })
  expect(parseMetricsAddress('[::1]:65535')).toEqual({ host: '::1', port: 65_535 })
})

test.each([
  ...['0.0.0.0:9464', '[::]:9464', '10.0.0.1:9464', 'localhost:9464', 'example.com:9464', '127.0.0.1.example.com:9464'],
  ...['127.1:9464', '128.0.0.1:9464', '[::ffff:127.0.0.1]:9464', '::1:9464', '[fe80::1]:9464', '127.0.0.1\n:9464'],
])('%j is not of this machine alone, and refused', (text) => {
  expect(() => parseMetricsAddress(text)).toThrow('for this machine only')
})

test.each(['', '9464', ':9464', '127.0.0.1', '127.0.0.1:', '127.0.0.1:0', '127.0.0.1:65536', '127.0.0.1:-1', 'unix:'])(
  '%j is no address, and the message says how one is written',
  (text) => {
    try {
      parseMetricsAddress(text)
    } catch (error) {
      if (!isLuoError(error, 'LUO_INVALID_PARAMETER')) throw error
      return expect(error.message).toContain('write unix:')
    }
    throw new Error('it was taken')
  },
)

test('a path must be absolute, and fit into a socket address', () => {
  expect(() => parseMetricsAddress('unix:metrics.sock')).toThrow('absolute')
  expect(() => parseMetricsAddress('unix:/a\0b')).toThrow('absolute')
  expect(() => parseMetricsAddress(`unix:/${'x'.repeat(200)}`)).toThrow('bytes')
})
