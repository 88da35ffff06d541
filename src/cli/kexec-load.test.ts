import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import type { KernelImage } from '../abi/kernel-image.js'
import { checkLoad, type Running, warningsFor } from './kexec-load.js'

const IMAGE: KernelImage = { format: 'bzImage', version: '7.3', relocatable: true, commandLineBytes: 100 }
const RUNNING: Running = { commandLine: 'liveupdate=on kho=on', liveUpdate: true, initrd: true, availableBytes: 1000 }
const load = (image: Partial<KernelImage>, what: { commandLine?: string; bytes?: number } = {}) =>
  codeOf(() => checkLoad('k', { ...IMAGE, ...image }, { commandLine: 'quiet', bytes: 10, ...what }, RUNNING))
const codes = (line: string, hasInitrd = true, running: Partial<Running> = {}) =>
  warningsFor(line, hasInitrd, { ...RUNNING, ...running }).map(({ code }) => code)

describe('before a kernel is loaded', () => {
  test('what the kernel would refuse, or what is no use, is refused', () => {
    expect(load({})).toBeUndefined()
    expect(load({ relocatable: false })).toBe('ENOEXEC')
    expect(load({ relocatable: undefined })).toBeUndefined()
    expect(load({}, { commandLine: 'x'.repeat(100) })).toBeUndefined()
    expect(load({}, { commandLine: 'x'.repeat(101) })).toBe('EINVAL')
    expect(load({ commandLineBytes: undefined }, { commandLine: 'x'.repeat(2047) })).toBeUndefined()
    expect(load({ commandLineBytes: 10_000 }, { commandLine: 'x'.repeat(2048) })).toBe('EINVAL')
    expect(load({}, { bytes: 1000 })).toBeUndefined()
    expect(load({}, { bytes: 1001 })).toBe('ENOMEM')
  })

  test('a command line that switches live update off is warned about, where there is something to lose', () => {
    expect(codes('liveupdate=on kho=on')).toEqual([])
    expect(codes('quiet')).toEqual(['LIVEUPDATE_OFF', 'KHO_OFF'])
    expect(codes('liveupdate=on liveupdate=off kho=on')).toEqual(['LIVEUPDATE_OFF'])
    expect(codes('liveupdate=on', true, { commandLine: 'liveupdate=on' })).toEqual([])
    expect(codes('liveupdate=on kho=off', true, { commandLine: 'liveupdate=on' })).toEqual(['KHO_OFF'])
    expect(codes('quiet', true, { liveUpdate: false })).toEqual([])
  })

  test('so is an initrd that is left out', () => {
    expect(codes('liveupdate=on kho=on', false)).toEqual(['NO_INITRD'])
    expect(codes('liveupdate=on kho=on', false, { initrd: false })).toEqual([])
  })
})
