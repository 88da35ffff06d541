import { expect, test } from 'vitest'
import type { ForeignSession } from '../backends/kernel.js'
import { LuoError } from '../errors.js'
import { MAX_MESSAGE_BYTES } from '../protocol/messages.js'
import type { Methods } from '../protocol/types.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd } from '../sys/memfd.js'
import type { Peer } from '../wire/server.js'
import { Answers } from './answers.js'
import { kernelSessions, MAX_LISTED, openKernelSession, type SessionOpener } from './kernel-sessions.js'

const ROOT = { uid: 0, gid: 0, pid: 1 } as Peer
const SOMEBODY = { uid: 1000, gid: 1000, pid: 1 } as Peer

type Input = Methods['OpenKernelSession']['input']

/** Answers with a file of its own for each session. */
class FakeDevice implements SessionOpener {
  readonly opened: string[] = []

  createSession(name: string): Fd {
    return this.#open('outgoing', name)
  }

  retrieveSession(name: string): Fd {
    if (name === 'gone') throw new LuoError('ENOENT', 'retrieve session gone: ENOENT')
    return this.#open('incoming', name)
  }

  #open(direction: string, name: string): Fd {
    this.opened.push(`${direction} ${name}`)
    return createMemfd(name)
  }
}

function asking(device: SessionOpener | undefined, answers: Pick<Answers, 'once'> = new Answers()) {
  return (input: Partial<Input>, peer: Peer = ROOT) =>
    openKernelSession(device, answers, { input: { id: 'a', name: 's', direction: 'outgoing', ...input }, peer })
}

function foreign(count: number, name: string): ForeignSession[] {
  return Array.from({ length: count }, (_, pid) => ({ pid, comm: 'vmm', name, direction: 'outgoing' as const }))
}

test('a session goes out with the answer, and nothing of it stays', async () => {
  const device = new FakeDevice()
  const ask = asking(device)
  const before = countOpenFds()
  const { output, fds = [] } = await ask({})
  expect(output).toEqual({ fds: 1, session_fd: 0 })
  expect(countOpenFds() - before).toBe(fds.length)
  fds[0]?.close()
  const other = await ask({ id: 'b', direction: 'incoming' })
  other.fds?.[0]?.close()
  expect(device.opened).toEqual(['outgoing s', 'incoming s'])
  expect(countOpenFds()).toBe(before)
})

test('the same request again opens nothing: its descriptor has gone out', async () => {
  const device = new FakeDevice()
  const ask = asking(device)
  const both = await Promise.allSettled([ask({}), ask({})])
  expect(both[1]).toMatchObject({ status: 'rejected', reason: { code: 'LUO_REPEATED' } })
  await expect(ask({})).rejects.toMatchObject({ code: 'LUO_REPEATED' })
  expect(device.opened).toEqual(['outgoing s'])
  if (both[0]?.status === 'fulfilled') both[0].value.fds?.[0]?.close()
})

test('what the kernel refuses has not been answered', async () => {
  const ask = asking(new FakeDevice())
  const gone = () => ask({ name: 'gone', direction: 'incoming' })
  await expect(gone()).rejects.toMatchObject({ code: 'ENOENT' })
  await expect(gone()).rejects.toMatchObject({ code: 'ENOENT' })
})

test('a session whose answer cannot be recorded is let go', async () => {
  const before = countOpenFds()
  const commit = () => {
    throw new LuoError('ENOSPC', 'the records are full')
  }
  await expect(asking(new FakeDevice(), new Answers({ commit, touch: () => {} }))({})).rejects.toMatchObject({
    code: 'ENOSPC',
  })
  expect(countOpenFds()).toBe(before)
})

test.each([
  ['by somebody else', {}, SOMEBODY, 'EPERM', /uid 1000/],
  ['of luod itself', { name: 'luod-internal' }, ROOT, 'EPERM', /luod's own/],
  ['of systemd', { name: 'systemd' }, ROOT, 'EPERM', /systemd's own/],
  [
    'of systemd, that has come',
    { name: 'systemd-fdstore', direction: 'incoming' as const },
    ROOT,
    'EPERM',
    /systemd's own/,
  ],
  ['without a name', { name: '' }, ROOT, 'EINVAL', /0 bytes/],
  ['with too long a name', { name: 'ä'.repeat(32) }, ROOT, 'EINVAL', /64 bytes/],
])('it is not opened %s', async (_, input, peer, code, message) => {
  const device = new FakeDevice()
  await expect(asking(device)(input, peer)).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
  expect(device.opened).toEqual([])
})

test('without the device there is none', async () => {
  await expect(asking(undefined)({})).rejects.toMatchObject({ code: 'LUO_UNSUPPORTED' })
})

test("the list has sessions of others, and not luod's own", () => {
  const sessions: ForeignSession[] = [
    { pid: 7, comm: 'vmm', name: 'guest', direction: 'incoming' },
    { pid: 8, comm: 'vmm', name: 'hidden', direction: undefined },
    { pid: 9, comm: 'node', name: 'luod-internal', direction: 'outgoing' },
  ]
  expect(kernelSessions(ROOT, () => ({ sessions, complete: true }))).toEqual({
    sessions: [
      { pid: 7, command: 'vmm', name: 'guest', direction: 'incoming' },
      { pid: 8, command: 'vmm', name: 'hidden' },
    ],
    complete: true,
  })
  expect(() => kernelSessions(SOMEBODY, () => ({ sessions, complete: true }))).toThrow(/uid 1000 may not/)
})

test('a list that is too long is cut, says so, and fits into a message', () => {
  const all = (count: number) =>
    kernelSessions(ROOT, () => ({ sessions: foreign(count, '\x01'.repeat(63)), complete: true }))
  expect(all(MAX_LISTED)).toMatchObject({ complete: true })
  const { sessions, complete } = all(MAX_LISTED + 1)
  expect([sessions.length, complete]).toEqual([MAX_LISTED, false])
  expect(JSON.stringify(sessions).length).toBeLessThan(MAX_MESSAGE_BYTES)
})
