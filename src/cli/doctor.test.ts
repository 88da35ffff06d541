import { expect, test } from 'vitest'
import { checks, type Facts } from './doctor.js'

const GOOD: Facts = {
  platform: 'linux',
  node: 'v20.20.0',
  kernel: '6.18.2',
  memfd: undefined,
  nofile: { soft: 1024, hard: 20_000 },
  socket: {
    path: '/run/luod/liveupdate.sock',
    uid: 0,
    directory: { exists: true, link: false, uid: 0, mode: 0o40700 },
    reachable: { version: '0.1.0', pid: 7 },
  },
  deviceExists: true,
  config: undefined,
}
const find = (facts: Facts, name: string) => checks(facts).find((check) => check.name === name)

test('a good machine is ok throughout', () => {
  expect(checks(GOOD).every((check) => check.status === 'ok')).toBe(true)
})

test('every warning and failure says what to do', () => {
  const bad: Facts = {
    ...GOOD,
    node: 'v18.1.0',
    kernel: '4.19.0',
    memfd: 'no koffi',
    nofile: { soft: 64, hard: 64 },
    socket: { ...GOOD.socket, directory: { exists: true, link: true, uid: 0, mode: 0 }, reachable: { error: 'gone' } },
    deviceExists: false,
  }
  const results = checks(bad)
  expect(results.filter((check) => check.status === 'ok')).toEqual([])
  expect(results.every((check) => check.advice)).toBe(true)
})

test('older kernels are warned about feature by feature', () => {
  expect(find({ ...GOOD, kernel: '6.9.0' }, 'same file')?.status).toBe('warn')
  expect(find({ ...GOOD, kernel: '6.9.0' }, 'peer identity')?.status).toBe('ok')
  expect(find({ ...GOOD, kernel: '6.4.0' }, 'peer identity')?.status).toBe('warn')
})

test('a folder that others can write is a failure, a sticky one is not', () => {
  const mode = (value: number): Facts => ({
    ...GOOD,
    socket: { ...GOOD.socket, directory: { exists: true, link: false, uid: 0, mode: value } },
  })
  expect(find(mode(0o40777), 'socket folder')?.status).toBe('fail')
  expect(find(mode(0o41777), 'socket folder')?.status).toBe('ok')
})

test('a kernel without live update names the options it lacks', () => {
  const facts = { ...GOOD, deviceExists: false, config: new Map([['CONFIG_KEXEC_HANDOVER', 'y']]) }
  expect(find(facts, 'kernel updates')?.message).toContain('without CONFIG_LIVEUPDATE')
})

test('elsewhere than on Linux there is one failure that says so', () => {
  expect(checks({ ...GOOD, platform: 'darwin' })).toHaveLength(1)
})
