/**
 * luod replaced while it holds everything: by an upgrade, and by its standby when it is killed. Programs that use the
 * client library notice nothing.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { RECORDS_VERSION } from '../../src/abi/records.js'
import { openSession } from '../../src/client/index.js'
import type { Methods } from '../../src/protocol/types.js'
import { closeAll, Fd } from '../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../src/sys/memfd.js'
import { inheritStdio } from '../../src/sys/node.js'
import { connectUnix, receive, send } from '../../src/sys/unix.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { eventually, failure } from './stage.js'

type Status = Methods['Status']['output']

const PROJECT = fileURLToPath(new URL('../..', import.meta.url))
const LUOD = join(PROJECT, 'dist/daemon/main.js')
const HELD_OPEN = join(PROJECT, 'test/daemon/held-open.mjs')
const LUOCTL = join(PROJECT, 'dist/cli/main.js')

let directory: string
let socket: string
let first: ChildProcess
let log = ''

async function ask<T>(use: (client: VarlinkClient) => Promise<T>): Promise<T> {
  const client = await VarlinkClient.connect(socket)
  try {
    return await use(client)
  } finally {
    client.close()
  }
}

const status = () => ask(async (client) => (await client.call('Status', {})).parameters)

/** Another one than `not` answers, and has a standby. */
const whole = (not?: number) =>
  eventually(
    () => status().catch(() => undefined),
    (seen) => seen !== undefined && seen.pid !== not && (seen.protection.kind === 'none' || seen.protection.ready),
    'luod is not whole',
  ) as Promise<Status>

function start(...args: string[]): void {
  startWith([], ...args)
}

function startWith(node: readonly string[], ...args: string[]): void {
  first = spawn(process.execPath, [...node, LUOD, '--socket', socket, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  first.stderr?.on('data', (chunk) => {
    log += chunk
  })
}

/** One of luod whose main file is this code. */
function build(name: string, code: string): string {
  const main = join(directory, name, 'dist/daemon/main.js')
  mkdirSync(join(directory, name, 'dist/daemon'), { recursive: true })
  writeFileSync(main, code, { mode: 0o644 })
  return join(directory, name)
}

/** Answers how it failed: LUO_GONE is the end of the luod that was asked, and the pid that of the other one. */
async function upgrade(to?: string): Promise<{ code: string; pid: number }> {
  let pid = 0
  const request = { id: randomUUID(), ...(to === undefined ? {} : { to }) }
  const asked = ask(async (client) => {
    for await (const { parameters } of client.stream('Upgrade', request)) {
      if (parameters.phase === 'ready') pid = parameters.pid
    }
  })
  return { code: await failure(asked), pid }
}

function alive(pid: number): boolean {
  try {
    // What is dead and not waited for yet counts as gone.
    process.kill(pid, 0)
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))
  } catch {
    return false
  }
}

const gone = (pid: number) =>
  eventually(
    () => alive(pid),
    (seen) => !seen,
    `pid ${pid} is still there`,
  )

function memory(text: string): Fd {
  const fd = createMemfd('standby-test')
  writeAt(fd, Buffer.from(text), 0)
  return fd
}

/** Which sockets a process has. */
function socketsOf(pid: number | undefined): Set<string> {
  const found = new Set<string>()
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const target = readlinkSync(`/proc/${pid}/fd/${fd}`)
      if (target.startsWith('socket:')) found.add(target)
    } catch {
      // It was closed meanwhile.
    }
  }
  return found
}

/** Connects so many times, and waits until the standby has copies of all of luod's ends. */
async function connectCopied(count: number, { pid, protection }: Status) {
  const before = socketsOf(pid)
  const clients = Array.from({ length: count }, () => connectUnix(socket))
  const ours = await eventually(
    () => [...socketsOf(pid)].filter((one) => !before.has(one)),
    (seen) => seen.length === count,
    'luod does not accept',
  )
  await eventually(
    () => socketsOf(protection.pid),
    (seen) => ours.every((one) => seen.has(one)),
    'the standby has no copies',
  )
  return { clients, ours }
}

/** Resolves when the other side has ended it, whatever it sent before. */
const endOf = (client: Fd) =>
  eventually(
    () => receive(client)?.bytes.length,
    (bytes) => bytes === 0,
    'the connection does not end',
  )

async function contentOf(session: { retrieve(token: number): Promise<number> }, token: number): Promise<string> {
  using fd = Fd.adopt(await session.retrieve(token))
  const bytes = new Uint8Array(64)
  return Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString()
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'luo-standby-'))
  socket = join(directory, 'luod.sock')
  log = ''
})

afterEach(async () => {
  const last = await status().catch(() => undefined)
  if (last) {
    process.kill(last.pid, 'SIGTERM')
    await gone(last.pid)
    if (last.protection.pid !== undefined) await gone(last.protection.pid)
  } else first.kill('SIGKILL')
  rmSync(directory, { recursive: true, force: true })
  expect(log).not.toContain('defect')
})

/** Sessions and files are there, with what is in them, and can be used on. */
async function goesOn(replace: () => Promise<unknown>): Promise<void> {
  const session = await openSession('kept', { socket, keepMs: 60_000 })
  const files = [memory('one'), memory('two')]
  const [one, two] = files as [Fd, Fd]
  await session.preserve(1, inheritStdio(one), 'test/1')
  const before = await ask(async (client) => (await client.call('Sessions', {})).parameters.sessions)
  await replace()
  await session.preserve(2, inheritStdio(two))
  expect([await contentOf(session, 1), await contentOf(session, 2)]).toEqual(['one', 'two'])
  expect(await failure(session.preserve(3, inheritStdio(one)))).toBe('EBUSY')
  const [after] = await ask(async (client) => (await client.call('Sessions', {})).parameters.sessions)
  expect(after).toMatchObject({ session: before[0]?.session, name: 'kept', custody: 'held', files: 2 })
  await session.unpreserve(1, 2)
  session.close()
  await eventually(
    () => ask(async (client) => (await client.call('Sessions', {})).parameters.total),
    (total) => total === 0,
    'the last close is not seen',
  )
  closeAll(files)
}

describe('an upgrade', () => {
  test('is done by another process, and the one before ends', async () => {
    start()
    const { pid, open_fds: before } = await whole()
    await goesOn(async () => {
      const { pid: successor } = await upgrade()
      const now = await whole(pid)
      expect(now).toMatchObject({ pid: successor, takeover: { how: 'upgrade', from_pid: pid, findings: 0 } })
      await gone(pid)
    })
    // As many descriptors as before: nothing is kept of the way.
    await eventually(
      async () => (await status()).open_fds,
      (open) => open <= before,
      'descriptors are left',
    )
  })

  test('is done again and again, and also while a standby is there', async () => {
    start('--standby')
    let { pid } = await whole()
    await goesOn(async () => {
      for (let count = 0; count < 3; count++) {
        const { protection } = await whole()
        await upgrade()
        const now = await whole(pid)
        await gone(protection.pid ?? 0)
        pid = now.pid
      }
    })
  })

  test('is for luod that is whole: what is no build, crashes or hangs is refused, and luod goes on', async () => {
    start('--standby')
    const { pid, protection } = await whole()
    const says = (text: string) =>
      `import { Socket } from 'node:net'\nimport { writeSync } from 'node:fs'\nwriteSync(3, ${JSON.stringify(text)})\nsetInterval(() => {}, 1000)\n`
    const code = async (to: string) => (await upgrade(to)).code
    await goesOn(async () => {
      expect(await code(join(directory, 'nothing'))).toBe('ENOENT')
      expect(await code(directory)).toBe('ENOENT')
      expect(await code(build('crash', 'process.exit(1)'))).toBe('LUO_GONE')
      expect(await code(build('other', says('{"what":1}')))).toBe('LUO_PROTOCOL')
      expect(await code(build('newer', says('{"hello":{"version":"9","pid":1,"records":[99]}}')))).toBe(
        'LUO_RECORDS_VERSION',
      )
      // As one said it that could not be next beside another one.
      const older = { version: '0', pid: 1, records: [RECORDS_VERSION], machines: [1], connections: true }
      expect(await code(build('older', says(JSON.stringify({ hello: older }))))).toBe('LUO_UNSUPPORTED')
      expect(await code(build('refuses', says('{"failed":{"code":"EIO","message":"no"}}')))).toBe('LUO_RECORDS')
    })
    // Not even the standby is another one.
    const now = await whole()
    expect([now.pid, now.protection.pid, now.protection.lost]).toEqual([pid, protection.pid, 0])
  })

  test('to an older build, which cannot be next beside another one, is possible where there is none', async () => {
    start()
    await whole()
    const heard = join(directory, 'heard')
    const dist = (name: string) => JSON.stringify(join(PROJECT, 'dist', name))
    const code = `
      import { writeFileSync } from 'node:fs'
      import { Fd } from ${dist('sys/fd.js')}
      import { receive, send } from ${dist('sys/unix.js')}
      const line = Fd.adopt(3)
      const say = (message) => send(line, Buffer.from(JSON.stringify(message)))
      say({ hello: { version: '0', pid: 1, records: [${RECORDS_VERSION}], machines: [1], connections: true } })
      setInterval(() => {
        const { bytes, fds } = receive(line) ?? {}
        if (!bytes) return
        writeFileSync(${JSON.stringify(heard)}, Buffer.from(bytes).toString() + ' and files: ' + fds.length)
        say({ failed: { code: 'EIO', message: 'no' } })
        process.exit()
      }, 1)`
    expect((await upgrade(build('older', code))).code).toBe('LUO_RECORDS')
    // All that such a build knows of it.
    expect(readFileSync(heard, 'utf8')).toBe('{"heir":true} and files: 0')
  })

  test('is refused where others could put their code in its place', async () => {
    start()
    await whole()
    mkdirSync(join(directory, 'open/dist/daemon'), { recursive: true, mode: 0o755 })
    const main = join(directory, 'open/dist/daemon/main.js')
    writeFileSync(main, '')
    chmodSync(main, 0o666)
    symlinkSync(main, join(directory, 'link.js'))
    for (const to of [join(directory, 'open'), main, join(directory, 'link.js')]) {
      expect((await upgrade(to)).code).toBe('EPERM')
    }
  })

  test('by luoctl says for how long nobody was served', async () => {
    start()
    const { pid } = await whole()
    const child = spawn(process.execPath, [LUOCTL, '--socket', socket, '--json', 'upgrade'])
    let out = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    const code = await new Promise((resolve) => child.once('close', resolve))
    const last = JSON.parse(out.trim().split('\n').at(-1) ?? '')
    expect([code, last.old_pid, last.new_pid]).toEqual([0, pid, (await whole(pid)).pid])
    expect(last.pause_ms).toBeGreaterThan(0)
  })
})

describe('a standby', () => {
  test('serves when luod is killed, with everything, and has a standby in its turn', async () => {
    start('--standby')
    const { pid, protection } = await whole()
    await goesOn(async () => {
      process.kill(pid, 'SIGKILL')
      expect(await whole(pid)).toMatchObject({
        pid: protection.pid,
        takeover: { how: 'crash', from_pid: pid, findings: 0 },
      })
    })
  })

  test('ends the connections of the luod that was killed, should the kernel take its time', async () => {
    startWith(['--import', HELD_OPEN], '--standby')
    const before = await whole()
    await goesOn(async () => {
      const { clients } = await connectCopied(1, before)
      // Its connections, and the line, stay open when it is dead: as if the kernel never came to close them.
      process.kill(before.pid, 'SIGUSR2')
      const holder = await eventually(
        () => Number(/held open by (\d+)/.exec(log)?.[1]),
        (seen) => seen > 0,
        'nobody holds them open',
      )
      try {
        process.kill(before.pid, 'SIGKILL')
        for (const client of clients) await endOf(client)
        expect(await whole(before.pid)).toMatchObject({ takeover: { how: 'crash', findings: 0 } })
      } finally {
        process.kill(holder, 'SIGKILL')
        closeAll(clients)
      }
    })
  })

  test('keeps no connection open that luod closes, and none that its client closes', async () => {
    start('--standby')
    const before = await whole()
    const { clients, ours } = await connectCopied(1, before)
    const [client] = clients as [Fd]
    send(client, Buffer.from('no message\0'))
    await endOf(client)
    const { pid, protection } = before
    const { size } = socketsOf(protection.pid)
    for (let round = 0; round < 10; round++) {
      const many = await connectCopied(100, before)
      ours.push(...many.ours)
      closeAll(many.clients)
    }
    await eventually(
      () => [pid, protection.pid].flatMap((one) => [...socketsOf(one)]).filter((one) => ours.includes(one)),
      (left) => left.length === 0,
      'connections are left',
    )
    expect(ours.length).toBe(1_001)
    // It may be in the middle of its rehearsal, at both times.
    await eventually(
      () => socketsOf(protection.pid).size,
      (now) => now <= size,
      'the standby keeps sockets',
    )
    client.close()
  })

  test('looks for itself when it is told that luod ends: one that is stopped is not dead', async () => {
    start('--standby')
    const { pid, protection } = await whole()
    await goesOn(async () => {
      process.kill(pid, 'SIGSTOP')
      try {
        process.kill(protection.pid ?? 0, 'SIGURG')
        // It has the signal, and has looked at what there is to look at, when it sleeps again.
        await eventually(
          () => readFileSync(`/proc/${protection.pid}/status`, 'latin1'),
          (text) => /^State:\s+S/m.test(text) && /^ShdPnd:\s+0+$/m.test(text),
          'the standby does not look',
        )
      } finally {
        process.kill(pid, 'SIGCONT')
      }
      expect(await status()).toMatchObject({ pid, protection: { pid: protection.pid, ready: true, lost: 0 } })
    })
  })

  test('is started again when it is killed, and luod goes on', async () => {
    start('--standby')
    const { pid, protection } = await whole()
    await goesOn(async () => {
      process.kill(protection.pid ?? 0, 'SIGKILL')
      const now = await eventually(
        status,
        (seen) => seen.protection.ready && seen.protection.pid !== protection.pid,
        'no other standby',
      )
      expect([now.pid, now.protection.lost]).toEqual([pid, 1])
    })
  })

  test('that hangs is given up, and costs a request a moment at most', async () => {
    start('--standby')
    const { protection } = await whole()
    process.kill(protection.pid ?? 0, 'SIGSTOP')
    const session = await openSession('many', { socket })
    const files = Array.from({ length: 400 }, (_, index) => memory(String(index)))
    // As many as its queue holds, and more.
    for (const [index, file] of files.entries()) await session.preserve(index, inheritStdio(file))
    await eventually(
      status,
      (seen) => seen.protection.ready && seen.protection.pid !== protection.pid,
      'no other standby',
    )
    expect(await contentOf(session, 399)).toBe('399')
    session.close()
    closeAll(files)
  })

  test('ends with luod when that is told to end', async () => {
    start('--standby')
    const { pid, protection } = await whole()
    process.kill(pid, 'SIGTERM')
    await gone(pid)
    await gone(protection.pid ?? 0)
    expect(await failure(status())).toBe('ENOENT')
  })
})
