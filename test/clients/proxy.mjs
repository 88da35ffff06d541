// Stands between clients and luod: PROXY LUOD. Passes everything on with its files; on SIGUSR2 it cuts all connections,
// at whatever point they are, and what is under way is lost.

import { closeAll } from '../../dist/sys/fd.js'
import { Poller } from '../../dist/sys/poller.js'
import { acceptUnix, connectUnix, listenUnix, receive, send } from '../../dist/sys/unix.js'

const [own = '', luod = ''] = process.argv.slice(2)
const cuts = new Set()

function pass(from, to, cut) {
  const got = receive(from)
  if (!got) return
  try {
    if (got.bytes.length === 0) return cut()
    // All of it goes at once: messages are short, and both sides read.
    for (let at = 0; at < got.bytes.length; ) at += send(to, got.bytes.subarray(at), at === 0 ? got.fds : [])
  } finally {
    closeAll(got.fds)
  }
}

function connect(client) {
  const server = connectUnix(luod)
  const registrations = []
  const cut = () => {
    if (!cuts.delete(cut)) return
    for (const registration of registrations) registration.close()
    closeAll([client, server])
  }
  cuts.add(cut)
  for (const [from, to] of [
    [client, server],
    [server, client],
  ]) {
    const forward = () => {
      try {
        if (!from.closed) pass(from, to, cut)
      } catch {
        cut()
      }
    }
    registrations.push(Poller.shared().add(from, { read: true, write: false }, forward))
  }
}

const listener = listenUnix(own)
Poller.shared().add(listener, { read: true, write: false }, () => {
  for (let client = acceptUnix(listener); client; client = acceptUnix(listener)) connect(client)
})
Poller.shared().ref()
process.on('SIGUSR2', () => {
  for (const cut of [...cuts]) cut()
})
process.stdout.write('ready\n')
