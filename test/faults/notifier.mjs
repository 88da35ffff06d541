// An emulated machine's notifier for tests, with what a program would have: a device, and a session with a file. It
// always has a call under way. For each line that it reads it says what the session is called; it ends with its
// machine.
import { createInterface } from 'node:readline'
import { MachineChannel } from '../../dist/emulate/channel.js'
import { createMemfd } from '../../dist/sys/memfd.js'
import { ReconnectingClient } from '../../dist/wire/reconnecting.js'

const [socket, machine] = process.argv.slice(2)
const input = { id: `notifier-${process.pid}`, machine }
const client = await ReconnectingClient.connect(socket)
const events = client.stream('Emulate', input, () => {
  input.again = true
})
const first = await events.next()
const channel = new MachineChannel(first.value.fds[0])
const device = channel.ask('open')
const { inode } = channel.ask('createSession', { inode: device.inode, name: machine })
channel.ask('preserve', { inode, token: 1n }, createMemfd('held', { size: 4096 }))
;(async () => {
  for await (const _ of events);
})().catch(() => {})

const ask = () => channel.ask('getName', { inode }).name
createInterface({ input: process.stdin }).on('line', () => console.log(ask()))
console.log(ask())
setInterval(ask, 3)
