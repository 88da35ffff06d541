import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { HandoverMemory } from '../abi/handover-memory.js'
import { writeImage } from '../abi/kho.js'
import { encodeLuo } from '../abi/luo.js'
import { Records } from '../abi/records.js'
import { MemoryStorage } from '../abi/records-memory.js'
import { isLuoError } from '../errors.js'
import { countOpenFds } from '../sys/fd.js'
import { inspectCommand } from './inspect.js'

const GOLDEN = new URL('../../test/golden/', import.meta.url)
const MAIN = new URL('../../dist/cli/main.js', import.meta.url).pathname
const folder = mkdtempSync(join(tmpdir(), 'luo-inspect-'))
afterAll(() => rmSync(folder, { recursive: true }))

let files = 0
function fileOf(bytes: Uint8Array): string {
  const path = join(folder, String(files++))
  writeFileSync(path, bytes)
  return path
}

async function inspect(path: string, json = false): Promise<string[]> {
  const lines: string[] = []
  const context = { json, socket: '/nowhere', out: (line: string) => void lines.push(line), err: () => {} }
  expect(await inspectCommand(context, path)).toBe(0)
  return lines
}

async function inspectJson(path: string): Promise<unknown> {
  const lines = await inspect(path, true)
  expect(lines).toHaveLength(1)
  return JSON.parse(lines[0] ?? '')
}

async function codeOf(path: string): Promise<unknown> {
  const lines: string[] = []
  const context = { json: false, socket: '/nowhere', out: (line: string) => void lines.push(line), err: () => {} }
  try {
    return await inspectCommand(context, path)
  } catch (error) {
    expect(lines).toEqual([])
    return isLuoError(error) ? error.code : error
  }
}

function image(): Buffer {
  const memory = new HandoverMemory()
  const luo = encodeLuo(memory, {
    liveupdateNumber: 7n,
    sessions: [
      { name: 'w\x1b[2Jeb', files: [{ compatible: 'memfd-v2', data: 4096n, token: '18446744073709551615' }] },
      { name: 'empty', files: [] },
    ],
    flbs: [{ compatible: 'iommu-v1', data: 5n, count: 2n }],
  })
  return imageOf(memory, luo)
}

function imageOf(memory: HandoverMemory, luo: bigint): Buffer {
  const { size, pieces } = writeImage(memory, { luo })
  const bytes = Buffer.alloc(Number(size))
  for (const piece of pieces) bytes.set(piece.bytes, Number(piece.address))
  return bytes
}

describe('inspect', () => {
  test('shows what is in an image of an emulated kexec, and no control characters', async () => {
    const path = fileOf(image())
    expect(await inspect(path)).toEqual([
      `${path}: image of an emulated kexec, version 1, 28 KiB`,
      '  live update  7',
      '  holds        2 sessions, 1 files, 1 FLBs',
      '  memory       12.0 KiB in 4 allocations',
      '',
      '  session w?[2Jeb: 1 files',
      '    TOKEN                 COMPATIBLE  DATA',
      '    18446744073709551615  memfd-v2    4096',
      '',
      '  session empty: 0 files',
      '',
      '  FLBs',
      '    COMPATIBLE  COUNT  DATA',
      '    iommu-v1    2      5',
    ])
    expect(await inspectJson(path)).toEqual({
      format: 'luod-kho',
      version: 1,
      liveupdate_number: '7',
      sessions: [
        { name: 'w\x1b[2Jeb', files: [{ token: '18446744073709551615', compatible: 'memfd-v2', data: '4096' }] },
        { name: 'empty', files: [] },
      ],
      flbs: [{ compatible: 'iommu-v1', data: '5', count: '2' }],
      allocations: 4,
      bytes: 3 * 4096 + 32,
    })
  })

  test('shows the tree and the luo_ser of a kernel', async () => {
    const tree = new URL('kho-in.bin', GOLDEN).pathname
    expect(await inspect(tree)).toEqual([
      `${tree}: KHO tree, kho-v4, 285 bytes`,
      '  memory map at 5722112',
      '    SUBTREE         ADDRESS   BYTES',
      '    LUO             14241792  32',
      '    kexec-metadata  5754880   73',
    ])
    expect(await inspectJson(tree)).toMatchObject({ format: 'kho-v4', memory_map: '5722112' })
    const ser = new URL('luo-ser.bin', GOLDEN).pathname
    expect(await inspect(ser)).toEqual([
      `${ser}: luo_ser, luo-v5`,
      '  live update  1',
      '  sessions     none',
      '  FLBs         at 10768384',
    ])
    expect(await inspectJson(ser)).toEqual({
      format: 'luo-v5',
      liveupdate_number: '1',
      sessions: '0',
      flbs: '10768384',
    })
  })

  test('shows a session with more files than a call has arguments', async () => {
    const memory = new HandoverMemory()
    const files = Array.from({ length: 150_000 }, (_, index) => ({ compatible: 'f', data: 0n, token: String(index) }))
    const luo = encodeLuo(memory, { liveupdateNumber: 1n, sessions: [{ name: 's', files }], flbs: [] })
    expect(await inspect(fileOf(imageOf(memory, luo)))).toHaveLength(files.length + 7)
  })

  test("shows luod's records", async () => {
    const storage = new MemoryStorage()
    Records.create(storage).transaction([{ type: 'workload', key: '1', value: { name: 'web' } }])
    const path = fileOf(storage.bytes)
    expect((await inspect(path))[0]).toBe(`${path}: records version 3, 65536 bytes`)
    expect(await inspectJson(path)).toMatchObject({ format: 'luod-records', version: 3 })
  })

  test('refuses what is damaged, of another version or something else, and prints nothing', async () => {
    const before = countOpenFds()
    const damaged = image()
    damaged.writeUInt8(1, 0x1000)
    const newer = image()
    newer.writeUInt8(2, 8)
    const golden = (name: string) => readFileSync(new URL(name, GOLDEN))
    expect(await codeOf(fileOf(damaged))).toBe('LUO_RECORDS')
    expect(await codeOf(fileOf(newer))).toBe('LUO_RECORDS_VERSION')
    expect(await codeOf(fileOf(golden('kho-out-cut.bin')))).toBe('LUO_RECORDS')
    expect(await codeOf(fileOf(golden('luo-ser-freed.bin')))).toBe('LUO_RECORDS')
    expect(await codeOf(fileOf(golden('luo-ser.bin').subarray(0, 31)))).toBe('LUO_RECORDS')
    expect(await codeOf(fileOf(Buffer.from('luo-v6\0\0'.padEnd(32, '\0'))))).toBe('LUO_RECORDS_VERSION')
    expect(await codeOf(fileOf(Buffer.from('LUODREC\0')))).toBe('LUO_RECORDS')
    expect(await codeOf(fileOf(new Uint8Array(0)))).toBe('LUO_RECORDS')
    expect(await codeOf(join(folder, 'missing'))).toBe('ENOENT')
    expect(await codeOf(folder)).toBe('EINVAL')
    expect(countOpenFds()).toBe(before)
  })

  test('as a command ends with 0, or with 1 and what is wrong', () => {
    const run = (...args: string[]) => spawnSync(process.execPath, [MAIN, 'inspect', ...args], { encoding: 'utf8' })
    expect(run(fileOf(image())).status).toBe(0)
    const cut = run(new URL('kho-out-cut.bin', GOLDEN).pathname)
    expect([cut.status, cut.stdout]).toEqual([1, ''])
    expect(cut.stderr).toContain('read a device tree: it has 285 bytes, and 233 are there (LUO_RECORDS)')
  })
})
