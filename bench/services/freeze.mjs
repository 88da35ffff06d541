/**
 * `freeze.mjs SOCKET FILES`: supervisor, old version and successor of one workload in one process, by luod's protocol.
 * The old version holds FILES memory files. Measured is the time between its Ready and the answer to the successor's
 * Claim: the freeze, and the description of all files. Sends `{ claimMs }` and ends.
 */
import { randomUUID } from 'node:crypto'
import { closeAll } from '../../dist/sys/fd.js'
import { raiseNofile } from '../../dist/sys/limits.js'
import { createMemfd } from '../../dist/sys/memfd.js'
import { openPidfd } from '../../dist/sys/pidfd.js'
import { VarlinkClient } from '../../dist/wire/client.js'
import { MAX_FDS, preserve } from '../tools/luod.mjs'

const [socket, count] = process.argv.slice(2)
const workload = 'bench'
const id = () => randomUUID()
raiseNofile()
const connect = () => VarlinkClient.connect(socket)

async function next(stream, event) {
  for (;;) {
    const { value, done } = await stream.next()
    if (done) throw new Error(`no ${event}`)
    if (value.parameters.event === event) return value
  }
}

const supervisor = (await connect()).stream('Supervise', { id: id(), workload })
await next(supervisor, 'supervising')
const old = await connect()
const { parameters: joined } = await old.call('Join', { id: id(), workload, accepts: ['*'] })
for (let at = 0; at < Number(count); at += MAX_FDS) {
  const fds = Array.from({ length: Math.min(MAX_FDS, count - at) }, () => createMemfd('bench', { size: 4096 }))
  await preserve(old, joined.session, fds, at)
  closeAll(fds)
}
await old.call('Commit', { id: id(), member: joined.member })
const events = (await connect()).stream('Subscribe', { member: joined.member })
await next(events, 'subscribed')

const update = (await connect()).stream('Update', { id: id(), workload, deadline_ms: 30_000 })
update.next().catch(() => {})
const started = await next(supervisor, 'start')
const pidfd = openPidfd(process.pid)
const spawned = { id: id(), workload, update: started.parameters.update, pid: process.pid, fds: 1 }
await (await connect()).call('Spawned', spawned, [pidfd])
const successor = await connect()
const ticket = { id: id(), workload, accepts: ['*'], fds: 1 }
const { parameters: second } = await successor.call('Join', ticket, started.fds)
let claimedAt
const claim = successor.call('Claim', { id: id(), member: second.member }).then(() => {
  claimedAt = performance.now()
})
const { parameters: prepare } = await next(events, 'prepare')
const readyAt = performance.now()
await old.call('Ready', { id: id(), member: joined.member, update: prepare.update, held_ms: 0 })
await claim
process.send({ claimMs: claimedAt - readyAt }, () => process.exit(0))
