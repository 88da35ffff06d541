import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { until } from '../../test/until.js'
import { LuoError } from '../errors.js'
import { Decoder, encodeMessage } from '../protocol/messages.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { nofileLimit, raiseNofile } from '../sys/limits.js'
import { createMemfd, fileSize } from '../sys/memfd.js'
import { Poller } from '../sys/poller.js'
import { receive, send, socketPair } from '../sys/unix.js'
import { Connection, type ConnectionOptions, MAX_QUEUE_BYTES } from './connection.js'

let openBefore: number
let peer: Fd
let connection: Connection
let messages: Record<string, unknown>[]
let sizes: number[][]
let ends: (LuoError | undefined)[]

beforeAll(() => {
  // Made once in the life of a process, and kept.
  Poller.shared()
})
beforeEach(() => {
  openBefore = countOpenFds()
  messages = []
  sizes = []
  ends = []
})
afterEach(() => {
  connection.close()
  peer.close()
  expect(countOpenFds()).toBe(openBefore)
})

function open(options: Partial<ConnectionOptions> = {}): void {
  const [here, there] = socketPair()
  peer = there
  connection = new Connection(here, {
    onMessage: (message, fds) => {
      messages.push(message)
      sizes.push(fds.map(fileSize))
      closeAll(fds)
    },
    onClose: (error) => ends.push(error),
    ...options,
  })
}

const codes = () => ends.map((error) => error?.code)
const give = (message: object, fds: readonly Fd[] = []) => send(peer, encodeMessage(message), fds)

/** What is there for the other side, until it has so many messages. */
async function take(count: number): Promise<{ messages: Record<string, unknown>[]; sizes: number[] }> {
  const decoder = new Decoder()
  const found: Record<string, unknown>[] = []
  const files: number[] = []
  const takeSome = () => {
    for (let got = receive(peer); got && got.bytes.length > 0; got = receive(peer)) {
      found.push(...decoder.push(got.bytes))
      files.push(...got.fds.map(fileSize))
      closeAll(got.fds)
      if (found.length >= count) return true
    }
    return false
  }
  await until(takeSome, `${count} messages`)
  return { messages: found, sizes: files }
}

describe('what is sent', () => {
  test('arrives at once when there is room, with its files, which stay the sender’s', () => {
    open()
    const fds = [createMemfd('a', { size: 5 }), createMemfd('b', { size: 6 })]
    connection.send({ a: 1, parameters: { fds: 2 } }, fds)
    const got = receive(peer)
    expect(Buffer.from(got?.bytes ?? []).toString()).toBe('{"a":1,"parameters":{"fds":2}}\0')
    expect(got?.fds.map(fileSize)).toEqual([5, 6])
    expect(fds.map(({ closed }) => closed)).toEqual([false, false])
    closeAll([...fds, ...(got?.fds ?? [])])
  })

  test('waits when there is none, and arrives in order, each with its files', async () => {
    open()
    const text = 'x'.repeat(50_000)
    for (let index = 0; index < 60; index++) {
      using fd = createMemfd('file', { size: index + 1 })
      connection.send({ index, text }, index % 2 === 0 ? [fd] : [])
    }
    const got = await take(60)
    expect(got.messages.map(({ index }) => index)).toEqual(Array.from({ length: 60 }, (_, index) => index))
    expect(got.sizes).toEqual(Array.from({ length: 30 }, (_, index) => 2 * index + 1))
    // The queue is empty: what is sent now goes at once.
    connection.send({ last: true })
    expect(Buffer.from(receive(peer)?.bytes ?? []).toString()).toContain('last')
  })

  test('ends the connection with LUO_SLOW_PEER when too much waits, and its files are closed', () => {
    open()
    using fd = createMemfd('file')
    const text = 'x'.repeat(100_000)
    let sent = 0
    const fill = () => {
      for (; sent < 1000; sent++) connection.send({ text }, [fd])
    }
    expect(codeOf(fill)).toBe('LUO_SLOW_PEER')
    expect(sent * text.length).toBeGreaterThan(MAX_QUEUE_BYTES - text.length)
    expect(sent * text.length).toBeLessThan(MAX_QUEUE_BYTES + 1_000_000)
    expect(codes()).toEqual(['LUO_SLOW_PEER'])
    expect(connection.closed).toBe(true)
    expect(codeOf(() => connection.send({}))).toBe('LUO_GONE')
    expect(codes()).toEqual(['LUO_SLOW_PEER'])
  })

  test('may wait only as much as its owner wants', () => {
    open({ maxQueueBytes: 10 })
    const fill = () => {
      for (let count = 0; count < 1000; count++) connection.send({ text: 'x'.repeat(10_000) })
    }
    expect(codeOf(fill)).toBe('LUO_SLOW_PEER')
  })

  test('while no more files may be opened is refused with EMFILE when it has to wait, and leaks none', async () => {
    open()
    const fds = [1, 2, 3, 4].map((size) => createMemfd('file', { size }))
    const text = 'x'.repeat(60_000)
    for (let index = 0; index < 20; index++) connection.send({ index, text })
    const before = countOpenFds()
    const { soft } = nofileLimit()
    const fillers: Fd[] = [createMemfd('filler')]
    try {
      while ((fillers.at(-1)?.number ?? 0) < 200) fillers.push((fillers[0] as Fd).dup())
      raiseNofile((fillers.at(-1)?.number ?? 0) + 1)
      closeAll(fillers.splice(fillers.length - 2))
      expect(codeOf(() => connection.send({ index: 20, text }, fds))).toBe('EMFILE')
    } finally {
      raiseNofile(soft)
      closeAll(fillers)
    }
    expect(countOpenFds()).toBe(before)
    // Nothing of it was sent: what comes next is whole.
    connection.send({ index: 21, text }, fds)
    const got = await take(21)
    expect(got.messages.map(({ index }) => index)).toEqual([...Array.from({ length: 20 }, (_, index) => index), 21])
    expect(got.sizes).toEqual([1, 2, 3, 4])
    closeAll(fds)
  })

  test('to a peer that is gone is lost, and the end is no error', async () => {
    open()
    peer.close()
    connection.send({ a: 1 })
    await until(() => ends.length > 0, 'the end')
    expect(codes()).toEqual([undefined])
  })
})

describe('what is received', () => {
  test('is given out with the files that it declares', async () => {
    open()
    const fds = [createMemfd('a', { size: 5 }), createMemfd('b', { size: 6 })]
    give({ parameters: { fds: 2 } }, fds)
    give({ parameters: {} })
    give({ parameters: { fds: 1 } }, fds.slice(1))
    closeAll(fds)
    await until(() => messages.length === 3, 'all')
    expect(sizes).toEqual([[5, 6], [], [6]])
  })

  test('waits while the connection is paused, and comes when it goes on', async () => {
    open()
    connection.pause()
    connection.pause()
    give({ a: 1 })
    await sleep(5)
    expect(messages).toEqual([])
    connection.resume()
    connection.resume()
    await until(() => messages.length === 1, 'the message')
  })

  test('is nothing any more when its owner closes the connection at the first of several messages', async () => {
    const kept: Record<string, unknown>[] = []
    open({
      onMessage: (message, fds) => {
        kept.push(message)
        closeAll(fds)
        connection.close()
      },
    })
    const fds = [createMemfd('a'), createMemfd('b')]
    const one = encodeMessage({ parameters: { fds: 1 } })
    send(peer, Buffer.concat([one, one]), fds)
    closeAll(fds)
    await until(() => ends.length > 0, 'the end')
    expect(kept).toHaveLength(1)
    expect(codes()).toEqual([undefined])
  })

  test('ends the connection with the error that its owner throws, whose last words the peer hears', async () => {
    open({
      onMessage: () => {
        throw new LuoError('LUO_LIMIT', 'too much')
      },
      lastWords: ({ code }) => ({ bye: code }),
    })
    give({})
    await until(() => ends.length > 0, 'the end')
    expect(codes()).toEqual(['LUO_LIMIT'])
    expect((await take(1)).messages).toEqual([{ bye: 'LUO_LIMIT' }])
  })

  test('ends the connection with EIO when its owner has a defect', async () => {
    open({
      onMessage: () => {
        throw new TypeError('oops')
      },
    })
    give({})
    await until(() => ends.length > 0, 'the end')
    expect(codes()).toEqual(['EIO'])
  })

  test('ends the connection even when there are no words for it', async () => {
    open({
      lastWords: () => {
        throw new TypeError('oops')
      },
    })
    send(peer, Buffer.from('nonsense\0'))
    await until(() => ends.length > 0, 'the end')
    expect(codes()).toEqual(['LUO_PROTOCOL'])
  })
})

describe('the end', () => {
  test('comes once, however often it is closed', () => {
    open()
    connection.close()
    connection.close()
    expect(codes()).toEqual([undefined])
    expect(connection.closed).toBe(true)
  })

  test('comes when the peer closes, after all that it sent', async () => {
    open()
    give({ a: 1 })
    peer.close()
    await until(() => ends.length > 0, 'the end')
    expect(messages).toEqual([{ a: 1 }])
    expect(codes()).toEqual([undefined])
  })

  test('is no error when the peer closes without reading what it was sent', async () => {
    open()
    connection.send({ a: 1 })
    peer.close()
    await until(() => ends.length > 0, 'the end')
    expect(codes()).toEqual([undefined])
  })

  test('comes also to a connection that is paused, and what is unread is lost', async () => {
    open()
    connection.pause()
    give({ a: 1 })
    peer.close()
    await until(() => ends.length > 0, 'the end')
    expect(messages).toEqual([])
    expect(codes()).toEqual([undefined])
  })

  test('closes the files that wait to be sent, and those of a message that is not whole', async () => {
    open()
    const fds = [createMemfd('a'), createMemfd('b')]
    send(peer, Buffer.from('{'), fds)
    for (let count = 0; count < 10; count++) connection.send({ text: 'x'.repeat(100_000) }, fds)
    closeAll(fds)
    await sleep(5)
    expect(countOpenFds()).toBeGreaterThan(openBefore + 4)
    connection.close()
    // Those on their way in the kernel go with the socket.
    expect(countOpenFds()).toBe(openBefore + 1)
  })

  test('leaves the process free to go: references are given back, whoever took them', () => {
    open()
    connection.setReferenced(false)
    connection.setReferenced(false)
    connection.setReferenced(true)
    connection.close()
    connection.setReferenced(true)
    connection.setReferenced(false)
    expect(codes()).toEqual([undefined])
  })
})
