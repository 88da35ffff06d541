import { afterEach, beforeEach, expect, test } from 'vitest'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { Poller } from '../sys/poller.js'
import { receive, send, socketPair } from '../sys/unix.js'
import { Lifetimes } from './lifetime.js'

let lifetimes: Lifetimes
let before: number
beforeEach(() => {
  // There from the first use on, for all of this process.
  Poller.shared()
  before = countOpenFds()
  lifetimes = new Lifetimes()
})
afterEach(() => {
  lifetimes.close()
  expect(countOpenFds()).toBe(before)
})

function make(session: string) {
  const ended: string[] = []
  const { lifetime, fd } = lifetimes.create({ session, pid: 1, onEnded: () => ended.push(session) })
  return { lifetime, fd, ended }
}

test('what was closed is seen at once, after the last copy and not before', () => {
  const { lifetime, fd, ended } = make('1')
  const copy = fd.dup()
  fd.close()
  lifetimes.drain()
  expect([lifetime.ended, ended]).toEqual([false, []])
  copy.close()
  lifetimes.drain()
  expect([lifetime.ended, ended]).toEqual([true, ['1']])
  lifetimes.drain()
  expect(ended).toEqual(['1'])
})

test('what was closed is seen without asking, too', async () => {
  const { fd, ended } = make('1')
  Poller.shared().ref()
  try {
    fd.close()
    while (ended.length === 0) await new Promise((resolve) => setImmediate(resolve))
  } finally {
    Poller.shared().unref()
  }
})

test('a copy that is under way counts', () => {
  const { fd, ended } = make('1')
  const [a, b] = socketPair()
  send(a, Uint8Array.of(1), [fd])
  fd.close()
  lifetimes.drain()
  expect(ended).toEqual([])
  const [copy] = receive(b)?.fds ?? []
  lifetimes.drain()
  expect(ended).toEqual([])
  copy?.close()
  lifetimes.drain()
  expect(ended).toEqual(['1'])
  a.close()
  b.close()
})

test('many that end at once are all seen by one look', () => {
  const many = Array.from({ length: 300 }, (_, index) => make(String(index)))
  for (const { fd } of many) fd.close()
  lifetimes.drain()
  expect(many.filter(({ ended }) => ended.length === 1)).toHaveLength(300)
})

test('a descriptor is known for as long as it lives, by each copy, and nothing else is', () => {
  const { lifetime, fd } = make('1')
  const other = make('2')
  const [a, b] = socketPair()
  const found = (file: Fd) => lifetimes.find(file)?.session
  using copy = fd.dup()
  expect([found(fd), found(copy), found(other.fd), found(a), found(b)]).toEqual(['1', '1', '2', undefined, undefined])
  lifetime.close()
  expect(found(copy)).toBeUndefined()
  for (const file of [fd, other.fd, a, b]) file.close()
})

test('one that was given up says nothing when it ends', () => {
  const { lifetime, fd, ended } = make('1')
  lifetime.close()
  fd.close()
  lifetimes.drain()
  expect([lifetime.ended, ended]).toEqual([false, []])
})

test('what a holder writes into its descriptor, or shuts down of it, is not its end', () => {
  const { fd, ended } = make('1')
  const [a, b] = socketPair()
  send(fd, Uint8Array.of(1, 2, 3), [a])
  a.close()
  b.close()
  lifetimes.drain()
  expect(ended).toEqual([])
  fd.close()
  lifetimes.drain()
  expect(ended).toEqual(['1'])
})
