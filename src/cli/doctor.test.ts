import { expect, test } from 'vitest'
import { checks, type Facts } from './doctor.js'
import type { KernelFacts } from './doctor-kernel.js'

const GOOD_KERNEL: KernelFacts = {
  config: new Map(['CONFIG_KEXEC_FILE', 'CONFIG_KEXEC_HANDOVER', 'CONFIG_LIVEUPDATE'].map((key) => [key, 'y'])),
  commandLine: 'root=/dev/vda liveupdate=on kho=on',
  device: { exists: true, usable: true, holders: [{ pid: 7, comm: 'luod' }] },
  kho: true,
  kexec: { mayReboot: true, loadDisabled: false, lockdown: 'none', loaded: false },
}
const GOOD: Facts = {
  platform: 'linux',
  node: 'v20.20.0',
  kernel: '6.18.2',
  memfd: undefined,
  nofile: { soft: 1024, hard: 20_000 },
  socket: {
    path: '/run/luod/liveupdate.sock',
    uid: 0,
    directory: { link: false, uid: 0, mode: 0o40700 },
    reachable: { version: '0.1.0', pid: 7 },
  },
  forKernel: GOOD_KERNEL,
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
    socket: { ...GOOD.socket, directory: { link: true, uid: 0, mode: 0 }, reachable: { error: 'gone' } },
    forKernel: {
      config: new Map([['CONFIG_KEXEC_HANDOVER', 'y']]),
      commandLine: 'liveupdate=off',
      device: { exists: false },
      kho: undefined,
      kexec: { mayReboot: false, loadDisabled: false, lockdown: undefined, loaded: false },
    },
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
    socket: { ...GOOD.socket, directory: { link: false, uid: 0, mode: value } },
  })
  expect(find(mode(0o40777), 'socket folder')?.status).toBe('fail')
  expect(find(mode(0o41777), 'socket folder')?.status).toBe('ok')
})

/** The checks about kernel updates, with these facts in place of good ones. */
function kernel(facts: Partial<KernelFacts>, name: string): string {
  const { status, message, advice } = find({ ...GOOD, forKernel: { ...GOOD_KERNEL, ...facts } }, name) ?? {}
  return [status, message, advice].filter((part) => part !== undefined).join(' | ')
}

test('a kernel without live update names the options it lacks', () => {
  const config = new Map([['CONFIG_KEXEC_HANDOVER', 'y']])
  expect(kernel({ config }, 'kernel config')).toContain('without CONFIG_KEXEC_FILE and CONFIG_LIVEUPDATE')
})

test('a kernel that hides its configuration is judged by its device', () => {
  expect(kernel({ config: undefined }, 'kernel config')).toMatch(/^ok/)
  expect(kernel({ config: undefined, device: { exists: false } }, 'kernel config')).toMatch(/^warn/)
})

test('the command line has to switch on what the kernel does not by itself', () => {
  expect(kernel({ commandLine: 'quiet' }, 'kernel command line')).toContain('boot with liveupdate=on kho=on')
  expect(kernel({ commandLine: 'liveupdate=on kho=on kho=off' }, 'kernel command line')).toContain('without kho=on')
  const config = new Map([...(GOOD_KERNEL.config ?? []), ['CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT', 'y'] as const])
  expect(kernel({ config, commandLine: 'liveupdate=1' }, 'kernel command line')).toMatch(/^ok/)
})

test('a device that is not there although all is right may lack memory', () => {
  expect(kernel({ device: { exists: false } }, 'live update device')).toContain('kho_scratch=')
  expect(kernel({ device: { exists: false }, commandLine: '' }, 'live update device')).not.toContain('kho_scratch=')
})

test('who has the device is named', () => {
  expect(kernel({}, 'live update device')).toContain('process 7 (luod) has it')
  expect(kernel({ device: { exists: true, usable: false, holders: [] } }, 'live update device')).toContain('as root')
})

test('each thing that forbids a kexec is named', () => {
  const kexec = { mayReboot: true, loadDisabled: false, lockdown: undefined, loaded: true }
  expect(kernel({ kexec }, 'kexec')).toBe('ok | permitted; a kernel is loaded')
  expect(kernel({ kexec: { ...kexec, mayReboot: false } }, 'kexec')).toContain('CAP_SYS_BOOT')
  expect(kernel({ kexec: { ...kexec, loadDisabled: true } }, 'kexec')).toContain('kexec_load_disabled')
  expect(kernel({ kexec: { ...kexec, lockdown: 'integrity' } }, 'kexec')).toContain('locked down (integrity)')
})

test('elsewhere than on Linux there is one failure that says so', () => {
  expect(checks({ ...GOOD, platform: 'darwin' })).toHaveLength(1)
})
