import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { until } from '../../test/until.js'
import type { LuoError } from '../errors.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { nofileLimit, raiseNofile } from '../sys/limits.js'
import { createMemfd, readAt, writeAt } from '../sys/memfd.js'
import { Poller } from '../sys/poller.js'
import { send, socketPair } from '../sys/unix.js'
import { MirrorReceiver, MirrorSender, type UpMessage } from './mirror.js'
import { MAX_VAULT_BATCH, Vault } from './vault.js'

interface Heard {
  up: UpMessage[]
  down: string[]
  upClosed: (string | undefined)[]
  downClosed: (string | undefined)[]
}

let heard: Heard
let before: number
let sender: MirrorSender
let receiver: MirrorReceiver
/** What the receiver has got. */
let got: Map<string, Fd>

const into = {
  put: (key: string, fd: Fd) => {
    got.get(key)?.close()
    got.set(key, fd)
  },
  remove: (key: string) => {
    got.get(key)?.close()
    got.delete(key)
  },
}

function line(): [Fd, Fd] {
  heard = { up: [], down: [], upClosed: [], downClosed: [] }
  return socketPair('packets')
}

function receiving(fd: Fd): MirrorReceiver {
  return new MirrorReceiver(fd, {
    into,
    onHeir: (claim) => {
      heard.down.push(claim ? 'heir, with a claim' : 'heir')
      claim?.close()
    },
    onSynced: (count) => void heard.down.push(`synced ${count}`),
    onConnections: (fds, cutOff) => {
      heard.down.push(`${fds.length} connections${cutOff ? ', cut off' : ''}`)
      closeAll(fds)
    },
    onGo: ({ pausedAt }) => void heard.down.push(`go ${pausedAt}`),
    onClosed: (error?: LuoError) => void heard.downClosed.push(error?.code),
  })
}

function memory(text: string): Fd {
  const fd = createMemfd('mirror-test')
  writeAt(fd, Buffer.from(text), 0)
  return fd
}

function textOf(fd: Fd | undefined): string | undefined {
  if (!fd) return undefined
  const bytes = new Uint8Array(64)
  return Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString()
}

beforeEach(() => {
  // Made at its first use, and kept.
  Poller.shared()
  before = countOpenFds()
  got = new Map()
  const [down, up] = line()
  sender = new MirrorSender(down, {
    onMessage: (message) => void heard.up.push(message),
    onClosed: (error) => void heard.upClosed.push(error?.code),
  })
  receiver = receiving(up)
})

afterEach(() => {
  sender.close()
  receiver.close()
  closeAll(got.values())
  expect(countOpenFds()).toBe(before)
})

describe('what the vault has', () => {
  test('comes with its keys, in order, and what is put again takes the place of what was there', async () => {
    const files = [memory('a'), memory('b'), memory('c')]
    const [a, b, c] = files as [Fd, Fd, Fd]
    const vault = new Vault()
    vault.put([{ key: 'file/1', fd: a }])
    vault.addSink(sender)
    vault.put([{ key: 'file/2', fd: b }])
    vault.put([{ key: 'file/1', fd: c }])
    sender.tell({ synced: vault.size })
    await until(() => heard.down.length === 1, 'a message')
    expect([...got].map(([key, fd]) => [key, textOf(fd)])).toEqual([
      ['file/1', 'c'],
      ['file/2', 'b'],
    ])
    vault.remove(['file/2', 'file/7'])
    sender.tell({ synced: vault.size })
    await until(() => heard.down.length === 2, 'a message')
    expect(heard.down).toEqual(['synced 2', 'synced 1'])
    expect([...got].map(([key, fd]) => [key, textOf(fd)])).toEqual([['file/1', 'c']])
    closeAll(files)
  })

  test('is there when all is taken at once, whatever else has been waiting', () => {
    using file = memory('kept')
    const count = 100
    for (let key = 1; key <= count; key++) sender.put([{ key: `file/${key}`, fd: file }])
    expect(got.size).toBe(0)
    receiver.drain()
    expect(got.size).toBe(count)
    expect(receiver.closed).toBe(false)
    sender.close()
    receiver.drain()
    expect([heard.downClosed.length, receiver.closed]).toEqual([1, true])
  })

  test('is there when its sender is gone: what was sent has arrived', async () => {
    using file = memory('kept')
    sender.put([{ key: 'file/1', fd: file }])
    sender.close()
    await until(() => heard.downClosed.length === 1, 'a message')
    expect([heard.downClosed, textOf(got.get('file/1'))]).toEqual([[undefined], 'kept'])
    receiver.close()
    expect(textOf(got.get('file/1'))).toBe('kept')
  })

  test('is there also when its sender dies before it has read everything', async () => {
    using file = memory('kept')
    sender.put([{ key: 'file/1', fd: file }])
    receiver.tell({ ready: { entries: 1 } })
    sender.close()
    await until(() => heard.downClosed.length === 1, 'a message')
    expect([heard.downClosed, textOf(got.get('file/1'))]).toEqual([[undefined], 'kept'])
  })

  test('is split into messages that the kernel takes', async () => {
    const files = Array.from({ length: MAX_VAULT_BATCH + 5 }, (_, index) => memory(String(index)))
    const vault = new Vault()
    vault.put(files.map((fd, index) => ({ key: `file/${index}`, fd })))
    vault.addSink(sender)
    sender.tell({ synced: vault.size })
    await until(() => heard.down.at(-1) === `synced ${files.length}`, 'a message')
    expect(got.size).toBe(files.length)
    expect(textOf(got.get('file/257'))).toBe('257')
    closeAll(files)
  })
})

describe('connections', () => {
  const few = () => Array.from({ length: 3 }, () => memory('as good as a connection'))

  test('come beside everything else, for whoever takes them', async () => {
    const files = few()
    expect(sender.tryConnections(files)).toBe(true)
    sender.put([{ key: 'file/1', fd: files[0] as Fd }])
    sender.tell({ synced: 1 })
    await until(() => heard.down.length === 2, 'a message')
    expect([heard.down, got.size]).toEqual([['3 connections', 'synced 1'], 1])
    closeAll(files)
  })

  test('are left out when there is no room for them', () => {
    const [down, up] = socketPair('packets')
    const stuck = new MirrorSender(down, { onMessage: () => {}, onClosed: () => {} })
    const files = few()
    const sent = () => stuck.tryConnections(files)
    let count = 0
    while (count < 10_000 && sent()) count++
    expect(count).toBeGreaterThan(0)
    expect(sent()).toBe(false)
    closeAll(files)
    stuck.close()
    up.close()
  })

  test('that this process may not have open are no reason to give the rest up', async () => {
    const files = few()
    const { soft } = nofileLimit()
    // The lowest number that is free: the next descriptor gets it, and one after it none.
    const next = createMemfd('next')
    const room = next.number + 1
    next.close()
    raiseNofile(room)
    try {
      expect(sender.tryConnections(files)).toBe(true)
      await until(() => heard.down.length === 1, 'a message')
    } finally {
      raiseNofile(soft)
    }
    expect(heard.down).toEqual(['1 connections, cut off'])
    sender.put([{ key: 'file/1', fd: files[0] as Fd }])
    sender.tell({ synced: 1 })
    await until(() => heard.down.length === 2, 'a message')
    expect([heard.down[1], heard.downClosed]).toEqual(['synced 1', []])
    closeAll(files)
  })
})

test('words go both ways; after the last one of luod the end of the line is no news', async () => {
  const hello = { version: '1.2.3', pid: 7, records: [3], machines: [1], connections: true, claims: true }
  receiver.tell({ hello })
  receiver.tell({ ready: { entries: 0 } })
  sender.tell({ go: { pausedAt: '123' } })
  await until(() => heard.up.length === 2 && heard.down.length === 1, 'a message')
  expect(heard.up).toEqual([{ hello }, { ready: { entries: 0 } }])
  expect(heard.down).toEqual(['go 123'])
  sender.close()
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(heard.downClosed).toEqual([])
})

test('whoever is next has what it claims then, or nothing: so an older luod says it', async () => {
  using claim = memory('as good as a claim')
  sender.tell({ heir: true }, [claim])
  sender.tell({ heir: true })
  await until(() => heard.down.length === 2, 'a message')
  expect(heard.down).toEqual(['heir, with a claim', 'heir'])
})

test('an older build says less of itself', async () => {
  receiver.tell({ hello: { version: '0', pid: 7, records: [3] } } as UpMessage)
  await until(() => heard.up.length === 1, 'a message')
  const rest = { machines: [], connections: false, claims: false }
  expect(heard.up).toEqual([{ hello: { version: '0', pid: 7, records: [3], ...rest } }])
})

test('a reader that does not read is given up, and the file is not lost with it', () => {
  const [down, up] = socketPair('packets')
  const stuck = new MirrorSender(down, { onMessage: () => {}, onClosed: () => {} })
  using file = memory('x')
  const flood = () => {
    for (let count = 0; count < 10_000; count++) stuck.put([{ key: `file/${count}`, fd: file }])
  }
  expect(codeOf(flood)).toBe('LUO_SLOW_PEER')
  expect(textOf(file)).toBe('x')
  stuck.close()
  up.close()
})

describe('what is no message', () => {
  test.each([
    ['no JSON', 'x'],
    ['no object', '7'],
    ['unknown', '{"what":1}'],
    ['no word', '{}'],
    ['connections that did not come', '{"connections":1}'],
    ['no heir', '{"heir":7}'],
    ['a key too many', '{"put":["file/1","file/2"]}'],
    ['no key', '{"put":[""]}'],
    ['no keys', '{"remove":[7]}'],
    ['no time', '{"go":{"pausedAt":"now"}}'],
  ])('closes the line that it came down: %s', async (_, text) => {
    const [down, up] = line()
    const other = receiving(up)
    using file = memory('x')
    send(down, Buffer.from(text), text.includes('file/1') ? [file] : [])
    await until(() => heard.downClosed.length === 1, 'a message')
    expect([heard.downClosed, heard.down, got.size]).toEqual([['LUO_PROTOCOL'], [], 0])
    other.close()
    down.close()
  })

  test.each(['x', '[]', '{"hello":{"version":1}}', '{"ready":{}}', '{"serving":1}'])(
    'closes the line that it came up: %s',
    async (text) => {
      const [down, up] = line()
      const other = new MirrorSender(down, {
        onMessage: (message) => void heard.up.push(message),
        onClosed: (error) => void heard.upClosed.push(error?.code),
      })
      using file = memory('x')
      send(up, Buffer.from(text), [file])
      await until(() => heard.upClosed.length === 1, 'a message')
      expect([heard.upClosed, heard.up]).toEqual([['LUO_PROTOCOL'], []])
      other.close()
      up.close()
    },
  )
})
