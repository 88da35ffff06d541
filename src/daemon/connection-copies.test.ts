import { afterEach, beforeEach, expect, test } from 'vitest'
import { until } from '../../test/until.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { Poller } from '../sys/poller.js'
import { endConnection, peerHasClosed, receive, send, socketPair } from '../sys/unix.js'
import { ConnectionCopies } from './connection-copies.js'

let before: number
let copies: ConnectionCopies
/** The two ends of a connection, of whose first one there is a copy. */
let luods: Fd
let client: Fd

beforeEach(() => {
  Poller.shared()
  before = countOpenFds()
  copies = new ConnectionCopies()
  const [ours, theirs] = socketPair()
  luods = ours
  client = theirs
  copies.add([ours.dup()], false)
})

afterEach(() => {
  copies.close()
  luods.close()
  client.close()
  expect(countOpenFds()).toBe(before)
})

test('a copy goes when the client closes its connection', async () => {
  client.close()
  await until(() => copies.size === 0, 'the copy is gone')
})

test('a copy goes when luod ends the connection, and the client sees the end', async () => {
  send(luods, Buffer.from('last words'))
  endConnection(luods)
  luods.close()
  await until(() => copies.size === 0, 'the copy is gone')
  expect(receive(client)?.bytes.length).toBe(10)
  expect(peerHasClosed(client)).toBe(true)
})

test('a copy stays while the connection is used, and nothing is read from it', async () => {
  send(client, Buffer.from('request'))
  expect(receive(luods)?.bytes.length).toBe(7)
  send(client, Buffer.from('another one'))
  await new Promise((resolve) => setImmediate(resolve))
  expect([copies.size, peerHasClosed(client)]).toEqual([1, false])
  expect(receive(luods)?.bytes.length).toBe(11)
})

test('with the copies a connection is ended whose other holder does nothing', async () => {
  copies.end()
  expect(peerHasClosed(client)).toBe(true)
  await until(() => copies.size === 0, 'the copy is gone')
})

test('without it a connection goes on when its copy is closed', () => {
  copies.close()
  expect([copies.size, peerHasClosed(client)]).toEqual([0, false])
})

test('all go when there is no room for some', () => {
  copies.add([luods.dup()], true)
  expect([copies.size, peerHasClosed(client)]).toEqual([0, false])
})
