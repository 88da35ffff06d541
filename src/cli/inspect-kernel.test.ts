import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { readKernelHandover } from './inspect-kernel.js'

const GOLDEN = new URL('../../test/golden/', import.meta.url).pathname
const folder = mkdtempSync(join(tmpdir(), 'luo-kho-'))
afterAll(() => rmSync(folder, { recursive: true }))

let trees = 0
/** A debugfs of KHO with these golden files. */
function debugfs(files: Record<string, string>): string {
  const root = join(folder, String(trees++))
  for (const side of ['out', 'in']) mkdirSync(join(root, side, 'sub_fdts'), { recursive: true })
  for (const [to, from] of Object.entries(files)) copyFileSync(join(GOLDEN, from), join(root, to))
  return root
}

describe('what a kernel shows of its handover', () => {
  test('is read of a kernel after a kexec, the tree without its end and the freed memory included', () => {
    const root = debugfs({
      'out/fdt': 'kho-out-cut.bin',
      'out/sub_fdts/LUO': 'luo-ser.bin',
      'in/fdt': 'kho-in.bin',
      'in/sub_fdts/LUO': 'luo-ser-freed.bin',
    })
    writeFileSync(join(root, 'out/scratch_phys'), '0x1000\n0x10000000\n')
    writeFileSync(join(root, 'out/scratch_len'), '0x800000\n0x4000000\n')
    expect(readKernelHandover(root)).toEqual({
      out: {
        tree: {
          memory_map: '6455296',
          subtrees: [
            { name: 'LUO', address: '5492736', size: '32' },
            { name: 'kexec-metadata', address: '6488064', size: '73' },
          ],
        },
        shown: [{ name: 'LUO', bytes: 32 }],
        luo: { liveupdate_number: '1', sessions: '0', flbs: '10768384' },
      },
      in: {
        tree: {
          memory_map: '5722112',
          subtrees: [
            { name: 'LUO', address: '14241792', size: '32' },
            { name: 'kexec-metadata', address: '5754880', size: '73' },
          ],
        },
        shown: [{ name: 'LUO', bytes: 32 }],
        luo: undefined,
      },
      scratch: [
        { address: '4096', bytes: '8388608' },
        { address: '268435456', bytes: '67108864' },
      ],
    })
  })

  test('of a kernel that was given nothing has no incoming side', () => {
    expect(readKernelHandover(debugfs({ 'out/fdt': 'kho-in.bin' }))).toMatchObject({ in: undefined, scratch: [] })
  })

  test('that was started by a kexec has its subtrees without a tree', () => {
    const { out } = readKernelHandover(debugfs({ 'in/fdt': 'kho-in.bin', 'out/sub_fdts/LUO': 'luo-ser.bin' }))
    expect(out).toMatchObject({ tree: undefined, shown: [{ name: 'LUO', bytes: 32 }], luo: { liveupdate_number: '1' } })
  })

  test('is ENOENT where there is none, and says what to do', () => {
    expect(codeOf(() => readKernelHandover(join(folder, 'none')))).toBe('ENOENT')
    expect(() => readKernelHandover(join(folder, 'none'))).toThrow('is debugfs mounted')
  })
})
