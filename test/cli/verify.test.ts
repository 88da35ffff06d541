/**
 * `luoctl inspect --verify` of a luod that runs, at rest and under load; and what it says that a recovery keeps is
 * kept.
 */
import { execFile } from 'node:child_process'
import { readdirSync, readlinkSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { RECORD_TYPES } from '../../src/abi/records.js'
import { verifyRecords } from '../../src/abi/records-verify.js'
import type { Fd } from '../../src/sys/fd.js'
import { fileSize, readAt, writeAt } from '../../src/sys/memfd.js'
import { Replaceable } from '../daemon/replaced.js'
import { NOBODY, Stage } from '../daemon/stage.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const isRoot = process.getuid?.() === 0

interface Verdict {
  sound: boolean
  counts?: string
  findings: { what: string; key: string; why: string }[]
  kept: Record<string, { records: number; kept: number }>
}

function verify(socket: string, file: string[] = []): Promise<{ code: number; verdict: Verdict }> {
  const args = [LUOCTL, '--json', '--socket', socket, 'inspect', '--verify', ...file]
  return new Promise((resolve, reject) => {
    execFile(process.execPath, args, (error, stdout, stderr) => {
      if (stdout === '') reject(new Error(stderr))
      else resolve({ code: error ? Number(error.code) : 0, verdict: JSON.parse(stdout) as Verdict })
    })
  })
}

async function populate(stage: Stage, uid?: number) {
  const puppet = await stage.puppet(uid === undefined ? {} : { uid })
  const { session } = await puppet.join('web', ['*'], { keep_ms: 60_000 })
  for (const name of ['a', 'b']) await puppet.do('memfd', { name, size: 4096 })
  const files = [
    { token: '1', fd: 0 },
    { token: '2', fd: 1 },
  ]
  await puppet.call('Preserve', { id: 'p', session, files, fds: 2 }, { send: ['a', 'b'] })
  return { puppet, session }
}

/** The records of a luod, as root may open them. */
function recordsPath(pid: number): string {
  const folder = `/proc/${pid}/fd`
  const found = readdirSync(folder).find((fd) => readlinkSync(`${folder}/${fd}`).startsWith('/memfd:luod-records'))
  return `${folder}/${found}`
}

test('a luod at rest is sound, and counts what is recorded, of every user', async () => {
  await using stage = await Stage.start()
  await populate(stage)
  if (isRoot) await populate(stage, NOBODY)
  const { code, verdict } = await verify(stage.socket)
  expect([code, verdict.findings, verdict.counts]).toEqual([0, [], 'compared'])
  expect(verdict.kept.file).toEqual(isRoot ? { records: 4, kept: 4 } : { records: 2, kept: 2 })
})

test('a luod in which something changes all the time is sound at each moment', async () => {
  await using stage = await Stage.start()
  const { puppet, session } = await populate(stage)
  let busy = true
  const work = (async () => {
    for (let n = 0; busy; n++) {
      const files = [{ token: '9', fd: 0 }]
      await puppet.do('memfd', { name: 'c', size: 1 })
      await puppet.call('Preserve', { id: `p${n}`, session, files, fds: 1 }, { send: ['c'] })
      await puppet.call('Unpreserve', { id: `u${n}`, session, tokens: ['9'] })
    }
  })()
  try {
    for (let round = 0; round < 2; round++) {
      const { code, verdict } = await verify(stage.socket)
      expect([code, verdict.findings]).toEqual([0, []])
    }
  } finally {
    busy = false
    await work
  }
})

test.runIf(isRoot)('records that something has written to are damaged, in luod and from outside', async () => {
  await using stage = await Stage.start()
  await populate(stage)
  const path = recordsPath(stage.luod.pid ?? 0)
  expect((await verify(stage.socket, [path])).code).toBe(0)
  const file = await open(path, 'r+')
  try {
    const bytes = await file.readFile()
    const at = bytes.indexOf('"kind":"memfd"')
    await file.write(Buffer.from('X'), 0, 1, at + 2)
    for (const args of [[], [path]]) {
      const { code, verdict } = await verify(stage.socket, args)
      expect(code).toBe(5)
      expect(verdict.findings[0]?.why).toContain('its checksum is wrong')
      // luod itself counts it still.
      const counted = verdict.findings.filter(({ what }) => what === 'count').map(({ why }) => why)
      expect(counted).toEqual(args.length === 0 ? ['luod counts 2 files, and 1 are recorded'] : [])
    }
  } finally {
    await file.close()
  }
})

test('what would be kept is what is kept', async () => {
  const marks = ['"kind":"memfd"', '"custody"', '"generation"', '"accepts"', '"inode"', '"digest"']
  for (const mark of marks) {
    await using luod = await Replaceable.start()
    await populate(luod.stage)
    const puppet = await luod.stage.puppet()
    const made = await puppet.call('CreateSession', { id: 'c', name: 'other', keep_ms: 60_000 }, { keep: ['other'] })
    await puppet.do('memfd', { name: 'd', size: 1 })
    const { session } = made.session
    await puppet.call('Preserve', { id: 'd', session, files: [{ token: '1', fd: 0 }], fds: 1 }, { send: ['d'] })
    let expected: ReturnType<typeof verifyRecords> | undefined
    const damage = (fds: Map<string, Fd>) => {
      const fd = fds.get('records')
      if (!fd) throw new Error('there are no records')
      const bytes = Buffer.alloc(fileSize(fd))
      readAt(fd, bytes, 0)
      const at = bytes.lastIndexOf(mark)
      bytes.write('X', at + 1)
      writeAt(fd, bytes.subarray(at, at + 2), at)
      expected = verifyRecords(bytes)
    }
    const findings = await luod.replace({ mode: 'recover', change: damage })
    expect(findings.map(({ what, key }) => `${what}/${key}`)).toEqual(
      expect.arrayContaining(expected?.findings.map(({ what, key }) => `${what}/${key}`) ?? []),
    )
    const records = luod.daemon.vault.entries().get('records')
    if (!records) throw new Error('there are no records')
    const bytes = new Uint8Array(fileSize(records))
    readAt(records, bytes, 0)
    const after = verifyRecords(bytes)
    const count = (which: 'records' | 'kept', from = after) =>
      RECORD_TYPES.filter((type) => type !== 'history').map((type) => [type, from.kept.get(type)?.[which]])
    expect([mark, count('records')]).toEqual([mark, count('kept', expected)])
    expect(after.findings).toEqual([])
  }
})
