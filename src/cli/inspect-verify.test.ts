/** `luoctl inspect --verify FILE`, with files that are whole, cut off, half written, and with bits that are others. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { encodeCrossing } from '../abi/crossing.js'
import { HandoverMemory } from '../abi/handover-memory.js'
import { writeImage } from '../abi/kho.js'
import { encodeLuo } from '../abi/luo.js'
import { encodeMemfd } from '../abi/memfd.js'
import { type Change, Records } from '../abi/records.js'
import { MemoryStorage } from '../abi/records-memory.js'
import { verifyRecords } from '../abi/records-verify.js'
import { isLuoError } from '../errors.js'
import { countOpenFds } from '../sys/fd.js'
import { inspectCommand } from './inspect.js'
import { recordsFile } from './inspect-formats.js'
import { verifyCommand } from './inspect-verify.js'

const GOLDEN = new URL('../../test/golden/', import.meta.url)
const folder = mkdtempSync(join(tmpdir(), 'luo-verify-'))
afterAll(() => rmSync(folder, { recursive: true }))

let files = 0
function fileOf(bytes: Uint8Array): string {
  const path = join(folder, String(files++))
  writeFileSync(path, bytes)
  return path
}

const session = { uid: 0, name: 'w\x1beb', custody: 'held', keep_ms: 0, created_at: 1 }
const file = { session: '1', token: '7', kind: 'memfd', compatible: 'memfd', bytes: 1, data: '0' }
const SOUND: readonly Change[] = [
  { type: 'meta', key: '0', value: { version: '1', pid: 1, started_at: 1, next_session: 1024 } },
  { type: 'session', key: '1', value: session },
  { type: 'file', key: '1', value: file },
]

function recordsOf(transactions: readonly (readonly Change[])[]): Uint8Array {
  const storage = new MemoryStorage()
  const records = Records.create(storage)
  for (const changes of transactions) records.transaction(changes)
  return storage.bytes
}

interface Verdict {
  code: number
  sound: boolean
  findings: { what: string; key: string; why: string }[]
  kept?: Record<string, { records: number; kept: number }>
  lines: string[]
}

/** As JSON and as text, which agree; or the code that it fails with. */
async function verify(bytes: Uint8Array): Promise<Verdict | string> {
  const path = fileOf(bytes)
  const run = async (json: boolean) => {
    const lines: string[] = []
    const context = { json, socket: '/nowhere', out: (line: string) => void lines.push(line), err: () => {} }
    return { code: await verifyCommand(context, path), lines }
  }
  try {
    const { code, lines } = await run(true)
    expect(lines).toHaveLength(1)
    const verdict = JSON.parse(lines[0] ?? '') as Verdict
    const text = await run(false)
    expect(text.code).toBe(code)
    expect(code).toBe(verdict.sound ? 0 : 5)
    expect(verdict.sound).toBe(verdict.findings.length === 0)
    return { ...verdict, code, lines: text.lines.map((line) => line.replace(path, 'FILE')) }
  } catch (error) {
    if (isLuoError(error)) return error.code
    throw error
  }
}

const sound = async (bytes: Uint8Array) => {
  const verdict = await verify(bytes)
  return typeof verdict === 'string' ? verdict : verdict.sound
}

function flipped(bytes: Uint8Array, at: number): Uint8Array {
  const copy = bytes.slice()
  copy[at] = (copy[at] ?? 0) ^ 0x10
  return copy
}

function image(): Uint8Array {
  const memory = new HandoverMemory()
  const folio = memory.allocate(new Uint8Array(4096).fill(1))
  const data = encodeMemfd(memory, {
    ...{ position: 0n, size: 4096n, seals: 0, flags: 0 },
    folios: [{ address: folio, index: 0n, dirty: true, upToDate: true }],
  })
  const sessions = [{ name: 'web', files: [{ compatible: 'memfd-v2', data, token: '1' }] }]
  const luo = encodeLuo(memory, { liveupdateNumber: 7n, sessions, flbs: [] })
  const { size, pieces } = writeImage(memory, { luo })
  const bytes = new Uint8Array(Number(size))
  for (const piece of pieces) bytes.set(piece.bytes, Number(piece.address))
  return bytes
}

const CROSSING = {
  luod: '1.2',
  times: { frozen: 1, wrong: 1e300 },
  sessions: [{ session: '1', name: 'luod-session-1', files: [{ key: '1', token: '7' }] }],
}

describe('records', () => {
  test('that are sound are said to be, and what a recovery keeps', async () => {
    const verdict = await verify(recordsOf([SOUND]))
    expect(verdict).toMatchObject({ sound: true, kept: { file: { records: 1, kept: 1 } } })
    expect((verdict as Verdict).lines.slice(0, 6)).toEqual([
      'FILE: luod-records 3, 65536 bytes: sound',
      '',
      'TYPE      RECORDS  A RECOVERY KEEPS',
      'meta      1        1',
      'workload  0        0',
      'session   1        1',
    ])
  })

  test('with an entry that is another one: it is said, with what else is lost', async () => {
    const bytes = recordsOf([SOUND])
    const at = Buffer.from(bytes).indexOf('custody')
    const verdict = (await verify(flipped(bytes, at))) as Verdict
    expect(verdict.code).toBe(5)
    expect(verdict.findings).toEqual([
      {
        what: 'records',
        key: '',
        why: expect.stringMatching(/^the entry at \d+, of session 1: its checksum is wrong; that record is not there$/),
      },
      { what: 'file', key: '1', why: 'its session, session 1, is not there' },
    ])
    expect(verdict.kept).toMatchObject({ session: { records: 0, kept: 0 }, file: { records: 1, kept: 0 } })
    expect(verdict.lines[0]).toBe('FILE: luod-records 3, 65536 bytes: damaged, 2 findings')
    expect(verdict.lines).toContain('  file 1: its session, session 1, is not there')
  })

  test('of which a transaction was written and does not count yet are as before it', async () => {
    const bytes = recordsOf([SOUND, [{ type: 'session', key: '2', value: { ...session, name: 'other' } }]])
    const before = recordsOf([SOUND])
    const half = Buffer.from(bytes)
    half.set(before.subarray(0, 64))
    expect(await verify(half)).toMatchObject({ sound: true, kept: { session: { records: 1, kept: 1 } } })
    // The other way round, which no luod leaves behind.
    const early = Buffer.from(before)
    early.set(bytes.subarray(0, 64))
    expect(await sound(early)).toBe(false)
  })

  test('that are cut off are damaged, wherever it is; and of another version they are that', async () => {
    const bytes = recordsOf([SOUND])
    const used = bytes.findLastIndex((byte) => byte !== 0) + 1
    for (const length of [8, 17, 63, 64, 65, 100, used - 1]) {
      expect([length, await sound(bytes.subarray(0, length))]).toEqual([length, false])
    }
    expect(await sound(bytes.subarray(0, 7))).toBe('LUO_RECORDS')
    expect(await sound(flipped(bytes, 8))).toBe('LUO_RECORDS_VERSION')
  })

  test('that somebody writes to are read until they stay the same', () => {
    let reads = 0
    const reader = (until: number) => ({ size: 1, read: () => Uint8Array.of(Math.min(reads++, until)) })
    expect(recordsFile(reader(5))).toEqual(Uint8Array.of(5))
    reads = 0
    expect(codeOf(() => recordsFile(reader(1_000)))).toBe('EBUSY')
  })
})

describe('what crosses a kexec', () => {
  test('is shown, and is sound when it is what is recorded', async () => {
    const bytes = encodeCrossing(CROSSING, recordsOf([SOUND]))
    expect(await sound(bytes)).toBe(true)
    const lines: string[] = []
    const context = { json: false, socket: '/nowhere', out: (line: string) => void lines.push(line), err: () => {} }
    const path = fileOf(bytes)
    expect(await inspectCommand(context, path)).toBe(0)
    expect(lines.slice(0, 8)).toEqual([
      `${path}: what luod 1.2 hands over, version 1, ${bytes.length} bytes`,
      '  frozen  1970-01-01T00:00:00.001Z',
      '  wrong  1e+300',
      '',
      '  session 1: 1 files, luod-session-1',
      '    KEY  TOKEN  CROSSES',
      '    1    7      by the kernel',
      '',
    ])
    expect(lines).toContain('session: 1')
    expect(lines.join()).not.toContain('\x1b')
  })

  test('is damaged when a byte is another one, it is cut off, or it is not what is recorded', async () => {
    const bytes = encodeCrossing(CROSSING, recordsOf([SOUND]))
    for (const at of [12, 16, 20, 24, 4096, 5000, bytes.length - 1]) {
      expect([at, await sound(flipped(bytes, at))]).toEqual([at, false])
    }
    for (const length of [8, 31, 4096, bytes.length - 1]) {
      expect([length, await sound(bytes.subarray(0, length))]).toEqual([length, false])
    }
    expect(await sound(flipped(bytes, 8))).toBe('LUO_RECORDS_VERSION')
    const other = { ...CROSSING, sessions: [{ ...CROSSING.sessions[0], session: '1', files: [] }] }
    expect(await verify(encodeCrossing(other, recordsOf([SOUND])))).toMatchObject({
      findings: [{ what: 'file', key: '1', why: 'it is recorded, and does not cross' }],
    })
  })
})

describe('an image', () => {
  test('is sound as a whole, or nothing of it is kept', async () => {
    const bytes = image()
    expect(await sound(bytes)).toBe(true)
    for (const at of [20, 4096, bytes.length - 4096]) {
      expect([at, await sound(flipped(bytes, at))]).toEqual([at, false])
    }
    for (const length of [10, 64, 8192, bytes.length - 1]) {
      expect([length, await sound(bytes.subarray(0, length))]).toEqual([length, false])
    }
    const damaged = (await verify(flipped(bytes, 4096))) as Verdict
    expect(damaged.lines.at(-1)).toBe('  nothing of it is kept: it is taken as a whole or not at all')
  })

  test('written in part has no header yet', async () => {
    const bytes = image()
    bytes.fill(0, 0, 64)
    expect(await sound(bytes)).toBe('LUO_RECORDS')
  })
})

test('there may be more findings than a call has arguments', () => {
  const changes = Array.from({ length: 130_000 }, (_, key): Change => ({ type: 'file', key: String(key), value: {} }))
  expect(verifyRecords(recordsOf([changes])).findings.length).toBeGreaterThan(changes.length)
})

test("a kernel's tree and luo_ser are verified as far as they go, and nothing stays open", async () => {
  const before = countOpenFds()
  const run = (name: string) =>
    verifyCommand({ json: true, socket: '', out: () => {}, err: () => {} }, new URL(name, GOLDEN).pathname)
  expect(await run('kho-in.bin')).toBe(0)
  expect(await run('kho-out-cut.bin')).toBe(5)
  expect(await run('luo-ser.bin')).toBe(0)
  expect(countOpenFds()).toBe(before)
})
