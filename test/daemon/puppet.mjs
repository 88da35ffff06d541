// A process that does what a test tells it, over a socket whose path is its argument: it talks to luod as a member of a
// workload would, right or wrong. One JSON object a line in both directions.
import { mkdtempSync, rmSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { inheritedFd } from '../../dist/sys/fd.js'
import { createMemfd } from '../../dist/sys/memfd.js'
import { openPidfd } from '../../dist/sys/pidfd.js'
import { acceptUnix, connectUnix, listenUnix, receive, send, socketPair } from '../../dist/sys/unix.js'
import { VarlinkClient } from '../../dist/wire/client.js'

const { LUO_TICKET, LUO_SOCKET, LUO_WORKLOAD } = process.env
const clients = new Map()
const files = new Map()
let listener
if (LUO_TICKET) files.set('ticket', inheritedFd(Number(LUO_TICKET)))

async function client(name) {
  if (!clients.has(name)) clients.set(name, await VarlinkClient.connect(LUO_SOCKET))
  return clients.get(name)
}

function keepFiles(fds, names) {
  fds.forEach((fd, index) => {
    if (names[index]) files.set(names[index], fd)
    else fd.close()
  })
}

const operations = {
  /** Calls luod; `send` are names of files to send, `keep` names for those that come back. */
  async call({ on = 'control', method, input, send = [], keep = [] }) {
    const { parameters, fds } = await (await client(on)).call(
      method,
      input,
      send.map((name) => files.get(name)),
    )
    keepFiles(fds, keep)
    return parameters
  },
  /** Answers the first reply; the others are reported as events, with `as`. `keep` names files of any of them. */
  async stream({ on, method, input, keep = [], as }) {
    const replies = (await client(on)).stream(method, input)[Symbol.asyncIterator]()
    const first = await replies.next()
    keepFiles(first.value.fds, keep)
    const follow = async () => {
      for (let next = await replies.next(); !next.done; next = await replies.next()) {
        keepFiles(next.value.fds, keep)
        say({ event: { ...next.value.parameters, as } })
      }
    }
    follow().catch((error) => say({ event: { event: 'ended', code: error.code, as } }))
    return first.value.parameters
  },
  async connect({ on, path }) {
    clients.set(on, await VarlinkClient.connect(path))
  },
  memfd({ name, size }) {
    files.set(name, createMemfd(name, { size }))
  },
  pair({ name }) {
    files.set(name, socketPair()[0])
  },
  /** Where another puppet may pass a file to. */
  listen() {
    const folder = mkdtempSync(join(tmpdir(), 'luo-pass-'))
    const path = join(folder, 's')
    listener = listenUnix(path, 0o666)
    process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
    return path
  },
  pass({ name, path }) {
    const socket = connectUnix(path)
    send(socket, Buffer.of(1), [files.get(name)])
    socket.close()
  },
  /** Takes what was passed. */
  take({ name }) {
    const socket = acceptUnix(listener)
    files.set(name, receive(socket).fds[0])
    socket.close()
  },
  /** Puts a copy of a file into a socket that nobody reads. */
  enqueue({ name, into }) {
    const [read, write] = socketPair()
    send(write, Buffer.of(1), [files.get(name)])
    files.set(into, read)
    write.close()
  },
  dequeue({ from, name }) {
    files.set(name, receive(files.get(from)).fds[0])
  },
  /** Preserves memory files at tokens from 0 on. */
  async preserveMany({ session, count }) {
    for (let at = 0; at < count; at += 253) {
      const fds = Array.from({ length: Math.min(253, count - at) }, () => createMemfd('many', { size: 1 }))
      const described = fds.map((_, fd) => ({ token: String(at + fd), fd }))
      await (await client('control')).call(
        'Preserve',
        { id: `many ${session} ${at}`, session, files: described, fds: fds.length },
        fds,
      )
      for (const fd of fds) fd.close()
    }
  },
  pidfd({ name, pid }) {
    files.set(name, openPidfd(pid))
  },
  close({ name }) {
    files.get(name).close()
  },
  disconnect({ on }) {
    clients.get(on).close()
    clients.delete(on)
  },
  exit() {
    process.exit(0)
  },
}

const socket = createConnection(process.argv[2])
const say = (value) => socket.write(`${JSON.stringify(value)}\n`)
say({ hello: { pid: process.pid, ticket: LUO_TICKET !== undefined, workload: LUO_WORKLOAD } })
createInterface({ input: socket }).on('line', async (line) => {
  const { n, op, ...args } = JSON.parse(line)
  try {
    say({ n, result: (await operations[op](args)) ?? null })
  } catch (error) {
    say({ n, error: { code: error.code, message: error.message } })
  }
})
socket.on('close', () => process.exit(0))
