// A client that uses up everything that luod gives its user, and goes on asking: connections, sessions, files, bytes,
// watchers, workloads, requests that wait, messages that are as long as they may be or never end, files under way, and
// answers that it does not read. Says "full" when luod has refused something of each kind, and does so again for ever.
import { closeAll } from '../../dist/sys/fd.js'
import { createMemfd } from '../../dist/sys/memfd.js'
import { connectUnix, send } from '../../dist/sys/unix.js'
import { VarlinkClient } from '../../dist/wire/client.js'

const [, , socket = ''] = process.argv
const METHOD = 'org.liveupdate.Orchestrator'
const FILES = 253
const NEARLY_LONGEST = 1_000_000
const MOST_CONNECTIONS = 300
const ROUNDS_UNTIL_FULL = 100
const PAUSE_MS = 5
const request = (method, parameters, more = false) =>
  Buffer.from(`${JSON.stringify({ method: `${METHOD}.${method}`, parameters, more })}\0`)
/** Small to send, and many times as large once it is read. */
const swollen = Buffer.from(
  `{"method":"${METHOD}.Abort","parameters":{"id":"x","workload":[${'{},'.repeat(NEARLY_LONGEST / 3)}{}]}}\0`,
)
const endless = Buffer.alloc(NEARLY_LONGEST, ' ')
const space = Buffer.from(' ')
const watch = request('Watch', {}, true)
const files = Array.from({ length: FILES }, () => createMemfd('greedy'))
const withFiles = request('Preserve', { id: 'f', session: 'none', files: [], fds: FILES })

let mine = ''
const again = (count, ...messages) => Array.from({ length: count }, () => messages).flat()

/** What each connection sends, for as long as luod reads it; nobody reads the answers. */
const WAYS = [
  // A stream, and behind it what waits for its end.
  () => [watch, ...again(40, swollen)],
  () => [watch, ...again(8, withFiles)],
  // A message that never ends, byte by byte in part.
  () => [endless, ...again(5_000, space)],
  () => again(400, request('History', {})),
  () => again(200, request('Retrieve', { session: mine, offset: 0 })),
  // Requests as fast as it goes.
  () => again(1_000, request('List', {})),
]

/** Connections, and how far each has come: message, byte. */
const open = new Map()
let next = 0

/** As much as goes. */
function push(fd, to) {
  for (; to.message < to.messages.length; to.message += 1, to.byte = 0) {
    const message = to.messages[to.message]
    while (to.byte < message.length) {
      const sent = send(fd, message.subarray(to.byte), to.byte === 0 && message === withFiles ? files : [])
      if (sent === 0) return
      to.byte += sent
    }
  }
}

/** As many connections as luod lets there be. Those that it has ended are made again. */
function connections() {
  for (const [fd, to] of open) {
    try {
      push(fd, to)
    } catch {
      fd.close()
      open.delete(fd)
    }
  }
  while (open.size < MOST_CONNECTIONS) {
    let fd
    try {
      fd = connectUnix(socket)
      const to = { messages: WAYS[next++ % WAYS.length](), message: 0, byte: 0 }
      push(fd, to)
      open.set(fd, to)
    } catch {
      fd?.close()
      return
    }
  }
}

async function until(limit, ask) {
  for (let n = 0; ; n++) {
    try {
      await ask(n)
    } catch (error) {
      if (error.code === 'LUO_LIMIT') return
      throw new Error(`${limit}: ${error.code} ${error.message}`)
    }
  }
}

const client = await VarlinkClient.connect(socket)
const held = []
await until('sessions', async (n) =>
  held.push(...(await client.call('CreateSession', { id: `s${n}`, name: `s${n}` })).fds),
)
const [first] = (await client.call('Sessions', {})).parameters.sessions
mine = first.session
await until('bytes', async (n) => {
  const large = createMemfd('large', { size: 2 ** 50 })
  try {
    await client.call(
      'Preserve',
      { id: `b${n}`, session: first.session, files: [{ token: String(10 ** 9 + n), fd: 0 }], fds: 1 },
      [large],
    )
  } finally {
    large.close()
  }
})
await until('files', async (n) => {
  const some = Array.from({ length: FILES }, () => createMemfd('file'))
  const described = some.map((_, fd) => ({ token: String(n * FILES + fd), fd }))
  try {
    await client.call('Preserve', { id: `p${n}`, session: first.session, files: described, fds: FILES }, some)
  } finally {
    closeAll(some)
  }
})
const streams = []
const streaming = async (method, input) => {
  const one = await VarlinkClient.connect(socket)
  streams.push(one)
  await one.stream(method, input).next()
}
await until('workloads', (n) => streaming('Supervise', { id: `w${n}`, workload: `w${n}` }))
await until('watchers', () => streaming('Watch', {}))
console.log(`limits ${held.length} sessions, ${streams.length} streams`)
for (const stream of streams.splice(40)) stream.close()
let rounds = 0
setInterval(() => {
  connections()
  rounds += 1
  if (rounds === ROUNDS_UNTIL_FULL) console.log('full')
}, PAUSE_MS)
