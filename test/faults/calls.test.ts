/**
 * What the kernel may answer to luod: each call of libc that luod makes for a session's life fails once, for want of
 * descriptors, memory or space, or does half of what it was asked for. The request is answered, whoever asked can go on, and
 * nothing is left of it: no descriptor, no file, no damage in the records.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyRecords } from '../../src/abi/records-verify.js'
import { Daemon } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { userLimits } from '../../src/daemon/user-limits.js'
import { isLuoError } from '../../src/errors.js'
import { closeAll } from '../../src/sys/fd.js'
import { type Call, type Interference, interfere } from '../../src/sys/ffi.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { listenUnix } from '../../src/sys/unix.js'
import { eventually, type Puppet, Stage } from '../daemon/stage.js'

const WANT_DESCRIPTORS = ['fcntl', 'memfd_create', 'socketpair', 'accept4', 'syscall'] as const
const WANT_SPACE = ['pwrite', 'ftruncate', 'fallocate'] as const
const WANT_MEMORY = [...WANT_DESCRIPTORS, 'recvmsg', 'sendmsg', 'epoll_ctl', 'mmap'] as const
/** Watching one file less, or a watched one in another way, takes no memory. */
const EPOLL_CTL_ADD = 1
const FAILURES: readonly [
  string,
  readonly Call[],
  (args: readonly (number | unknown)[]) => ReturnType<Interference>,
][] = [
  ['EMFILE', WANT_DESCRIPTORS, () => 'EMFILE'],
  ['ENOSPC', WANT_SPACE, () => 'ENOSPC'],
  ['ENOMEM', WANT_MEMORY, () => 'ENOMEM'],
  ['EINTR', ['recvmsg', 'sendmsg', 'pwrite', 'accept4'], () => 'EINTR'],
  ['a short write', ['pwrite'], ([fd, bytes, length, offset]) => [fd, bytes, Number(length) >> 1, offset] as never],
]

const log: string[] = []
let stage: Stage
let puppet: Puppet
let round = 0

beforeAll(async () => {
  const registry = await loadHandlers([])
  stage = await Stage.around((socket) => {
    Daemon.begin({
      ...{ version: '1', nofile: 20_000, registry, listener: listenUnix(socket, 0o666) },
      limits: userLimits({}, { nofile: 20_000, shared: true, memory: 2 ** 30 }),
      replacement: {
        protection: { kind: 'none', ready: false, lost: 0 },
        settled: () => undefined,
        upgrade: () => Promise.reject(new Error()),
      },
      log: (_, message) => log.push(message),
    })
  })
  puppet = await stage.puppet()
  await puppet.do('memfd', { name: 'memory', size: 4096 })
})
afterAll(() => stage[Symbol.asyncDispose]())

/** A session's life, over a connection of its own. Answers the codes of what failed. */
async function live(): Promise<string[]> {
  round += 1
  const codes: string[] = []
  const on = `connection-${round}`
  const name = `session-${round}`
  const id = (what: string) => `${what}-${round}`
  const attempt = async <T>(work: Promise<T>): Promise<T | undefined> => {
    try {
      return await work
    } catch (error) {
      if (!isLuoError(error)) throw error
      codes.push(error.code)
      return undefined
    }
  }
  const connected = await attempt(puppet.do('connect', { on, path: stage.socket }).then(() => true))
  const made =
    connected && (await attempt(puppet.call('CreateSession', { id: id('create'), name }, { on, keep: [name] })))
  if (made) {
    const { session } = made.session
    const files = [{ token: '7', fd: 0, format: 'bytes/1' }]
    await attempt(puppet.call('Preserve', { id: id('preserve'), session, files, fds: 1 }, { on, send: ['memory'] }))
    await attempt(puppet.call('Retrieve', { session, offset: 0 }, { on }))
    await attempt(puppet.call('Unpreserve', { id: id('drop'), session, tokens: ['7'] }, { on }))
    await attempt(puppet.call('ReleaseSession', { id: id('release'), session, force: true }, { on }))
    await attempt(puppet.do('close', { name }))
  }
  if (connected) await puppet.do('disconnect', { on })
  return codes
}

/** With nothing left but what was there before. */
async function descriptors(): Promise<number> {
  const client = await stage.client()
  try {
    const { open_fds } = await eventually(
      async () => (await client.call('Status', {})).parameters,
      ({ sessions, files, connections }) => sessions + files === 0 && connections === 1,
      `something is left: ${log.join('\n')}`,
    )
    const { fds } = await client.call('Inspect', {})
    try {
      for (const fd of fds.slice(0, 1)) {
        const bytes = new Uint8Array(fileSize(fd))
        readAt(fd, bytes, 0)
        expect(verifyRecords(bytes).findings).toEqual([])
      }
    } finally {
      closeAll(fds)
    }
    return open_fds
  } finally {
    client.close()
  }
}

test.each(FAILURES)('%s at each call costs one request at most', async (_, calls, instead) => {
  await live()
  const before = await descriptors()
  const made: Call[] = []
  interfere((call) => {
    made.push(call)
    return undefined
  })
  expect(await live()).toEqual([])
  interfere(undefined)
  const places = made.flatMap((call, at) => (calls.includes(call) ? [at] : []))
  expect(places.length).toBeGreaterThan(0)
  for (const place of places) {
    let at = 0
    let struck: Call | undefined
    interfere((call, args) => {
      if (struck !== undefined || at++ < place || !calls.includes(call)) return undefined
      if (call === 'epoll_ctl' && args[1] !== EPOLL_CTL_ADD) return undefined
      struck = call
      return instead(args)
    })
    await live()
    interfere(undefined)
    expect(await live(), `after ${struck} at ${place}`).toEqual([])
    expect(await descriptors(), `after ${struck} at ${place}`).toBeLessThanOrEqual(before)
  }
  expect(log.filter((line) => /defect|TypeError/.test(line))).toEqual([])
})
