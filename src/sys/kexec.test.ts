import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds } from './fd.js'
import { openFile } from './file-reader.js'
import { kexecPermission, loadKernel, MAX_COMMAND_LINE_BYTES, writableMounts } from './kexec.js'
import { createMemfd } from './memfd.js'

describe('kexec', () => {
  test('a command line that the kernel would cut, or take another for, is refused here', () => {
    using kernel = createMemfd('no-kernel')
    const load = (commandLine: string) => codeOf(() => loadKernel({ kernel, commandLine }))
    expect(load('x'.repeat(MAX_COMMAND_LINE_BYTES))).toBe('EINVAL')
    expect(load('a\0b')).toBe('EINVAL')
  })

  test('a file that is no kernel, or that may not be loaded, is refused by the kernel', () => {
    const before = countOpenFds()
    using kernel = openFile('/proc/self/status')
    const code = codeOf(() => loadKernel({ kernel, commandLine: 'quiet' }))
    expect(['EPERM', 'ENOEXEC', 'ENOSYS', 'EINVAL']).toContain(code)
    kernel.close()
    expect(countOpenFds()).toBe(before)
  })

  test('what is permitted can be asked', () => {
    const { mayReboot, loadDisabled } = kexecPermission()
    expect([typeof mayReboot, typeof loadDisabled]).toEqual(['boolean', 'boolean'])
  })

  test('file systems on devices that are writable are found, each once, and with odd names', () => {
    const mounts = [
      '/dev/vda1 / ext4 rw,relatime 0 0',
      'proc /proc proc rw,nosuid 0 0',
      '/dev/vdb /mnt/a\\040b ext4 rw 0 0',
      '/dev/vdc /ro ext4 ro,errors=remount-rw 0 0',
      '/dev/vda1 / ext4 rw 0 0',
      'tmpfs /run tmpfs rw 0 0',
      '',
    ]
    expect(writableMounts(mounts.join('\n'))).toEqual(['/', '/mnt/a b'])
  })
})
