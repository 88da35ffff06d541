import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { identifyKernel } from './kernel-image.js'

/** A setup header as arch/x86/boot.rst has it. */
function bzImage({ relocatable = 1, version = '7.3.4-luo (root@vm) #2' } = {}): Buffer {
  const bytes = Buffer.alloc(4096)
  bytes.write('HdrS', 0x202)
  bytes.writeUInt16LE(0x3000 - 0x2800, 0x20e)
  bytes.writeUInt8(relocatable, 0x234)
  bytes.writeUInt32LE(2047, 0x238)
  bytes.write(`${version}\0`, 0x200 + 0x800)
  return bytes
}
const starting = (text: string, at = 0) =>
  Buffer.concat([Buffer.alloc(at), Buffer.from(text, 'latin1'), Buffer.alloc(64)])
const unknown = { version: undefined, relocatable: undefined, commandLineBytes: undefined }

describe('a kernel', () => {
  test('as a bzImage says its version and what it takes', () => {
    const version = '7.3.4-luo (root@vm) #2'
    expect(identifyKernel(bzImage(), 'k')).toEqual({
      format: 'bzImage',
      version,
      relocatable: true,
      commandLineBytes: 2047,
    })
    expect(identifyKernel(bzImage({ relocatable: 0 }), 'k').relocatable).toBe(false)
    expect(identifyKernel(bzImage().subarray(0, 0x240), 'k').version).toBeUndefined()
  })

  test('in other forms is known by how it begins', () => {
    expect(identifyKernel(starting('ARM\x64', 56), 'k')).toEqual({ format: 'arm64 Image', ...unknown })
    expect(identifyKernel(starting('MZ'), 'k')).toEqual({ format: 'PE', ...unknown })
    expect(identifyKernel(starting('\x7fELF'), 'k')).toEqual({ format: 'ELF', ...unknown })
  })

  test('is no other file, however short', () => {
    for (const bytes of [Buffer.alloc(0), starting('no kernel'), Buffer.from('M'), bzImage().subarray(0, 0x203)]) {
      expect(codeOf(() => identifyKernel(bytes, 'k'))).toBe('ENOEXEC')
    }
  })
})
