/**
 * What a file with a kernel in it is, by its first bytes: enough to say before a kexec that a file is none, and what it
 * asks of its command line. The layouts are those of the kernel's documentation: arch/x86/boot.rst (the setup header of
 * a bzImage), arch/arm64/booting.rst (the header of an Image). Unknown bytes are ENOEXEC.
 */
import { LuoError } from '../errors.js'
import { decodeName, viewOf } from './bytes.js'

/** What has to be read of a file. The version's text may be anywhere in the setup code. */
export const KERNEL_HEAD_BYTES = 64 * 1024

export interface KernelImage {
  /** `PE`: an EFI image without one of the other headers, which some kernels take. `ELF`: a vmlinux. */
  format: 'bzImage' | 'arm64 Image' | 'PE' | 'ELF'
  /** As `uname -r` has it, with what follows there; undefined when the file does not say. */
  version: string | undefined
  /** Whether it can be loaded at any address, as kexec needs; undefined when the file does not say. */
  relocatable: boolean | undefined
  /** The longest command line that it takes, without the NUL; undefined when the file does not say. */
  commandLineBytes: number | undefined
}

const SETUP_MAGIC_AT = 0x202
const VERSION_POINTER_AT = 0x20e
const RELOCATABLE_AT = 0x234
const COMMAND_LINE_SIZE_AT = 0x238
const SETUP_BYTES = 0x23c
/** The pointer counts from the second sector. */
const SECTOR_BYTES = 0x200
const MAX_VERSION_BYTES = 256
const ARM64_MAGIC_AT = 56

export function identifyKernel(head: Uint8Array, what: string): KernelImage {
  const isAt = (at: number, text: string) =>
    Buffer.from(head.subarray(at, at + text.length)).equals(Buffer.from(text, 'latin1'))
  const unknown = { version: undefined, relocatable: undefined, commandLineBytes: undefined }
  if (head.length >= SETUP_BYTES && isAt(SETUP_MAGIC_AT, 'HdrS')) {
    const view = viewOf(head)
    const pointer = view.getUint16(VERSION_POINTER_AT, true)
    return {
      format: 'bzImage',
      version: pointer === 0 ? undefined : textAt(head, pointer + SECTOR_BYTES),
      relocatable: view.getUint8(RELOCATABLE_AT) !== 0,
      commandLineBytes: view.getUint32(COMMAND_LINE_SIZE_AT, true),
    }
  }
  if (isAt(ARM64_MAGIC_AT, 'ARM\x64')) return { format: 'arm64 Image', ...unknown }
  if (isAt(0, 'MZ')) return { format: 'PE', ...unknown }
  if (isAt(0, '\x7fELF')) return { format: 'ELF', ...unknown }
  throw new LuoError('ENOEXEC', `load ${what}: it is no kernel (neither a bzImage, an arm64 Image, a PE image nor ELF)`)
}

function textAt(head: Uint8Array, at: number): string | undefined {
  const bytes = head.subarray(at, at + MAX_VERSION_BYTES)
  const end = bytes.indexOf(0)
  return end > 0 ? decodeName(bytes.subarray(0, end)) : undefined
}
