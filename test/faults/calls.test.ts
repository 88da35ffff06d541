/**
 * What the kernel may answer to luod: each call of libc that luod makes for a session's life fails once, for want of
 * descriptors, memory or space, or does half of what it was asked for. The request is answered, whoever asked can go
 * on, and nothing is left of it: no descriptor, no file, no damage in the records.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyRecords } from '../../src/abi/records-verify.js'
import { isLuoError } from '../../src/errors.js'
import { closeAll } from '../../src/sys/fd.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { luodOfOurOwn } from '../daemon/in-process.js'
import { eventually, type Puppet, type Stage } from '../daemon/stage.js'
import { FAILURES, failEach } from './interference.js'

const log: string[] = []
let stage: Stage
let puppet: Puppet
let round = 0

beforeAll(async () => {
  stage = (await luodOfOurOwn((_, message) => log.push(message))).stage
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
  let codes: string[] = []
  const struck = await failEach({
    ...{ calls, instead },
    work: async () => {
      codes = await live()
    },
    after: async ({ call, where }) => {
      if (call === undefined) expect(codes).toEqual([])
      expect(await live(), where).toEqual([])
      expect(await descriptors(), where).toBeLessThanOrEqual(before)
    },
  })
  expect(struck).toBeGreaterThan(0)
  expect(log.filter((line) => /defect|TypeError/.test(line))).toEqual([])
})
