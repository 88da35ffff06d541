// A service that does what a test tells it with the client library (see puppet.mjs, which does without).
import { spawn } from 'node:child_process'
import { closeSync, fstatSync, openSync, readFileSync, writeSync } from 'node:fs'
import { createServer } from 'node:http'
import { createConnection } from 'node:net'
import { createInterface } from 'node:readline'
import { adoptSession, join, openSession, Refusal } from 'liveupdate'
import { cut, cutNow } from './cut.mjs'

let live
const memory = new Map()
const servers = []
const sessions = new Map()

const operations = {
  async join(options) {
    live = await join(options)
    for (const event of ['prepare', 'freeze', 'resume', 'released']) {
      live.on(event, (argument) =>
        say({ event: { event, reason: typeof argument === 'string' ? argument : undefined } }),
      )
    }
    return operations.state()
  },
  state() {
    const { active, successor, origin, workload } = live
    return { active, successor, origin, workload }
  },
  async memory({ name, ...options }) {
    memory.set(name, await live.memory(name, options))
    return operations.look({ name })
  },
  async replace({ name, ...options }) {
    memory.set(`${name}.new`, await live.replace(name, options))
    return operations.look({ name: `${name}.new` })
  },
  look({ name }) {
    const { size, format, buffer } = memory.get(name)
    return { size, format, first: new Uint8Array(buffer)[0] }
  },
  write({ name, value, at = 0 }) {
    new Uint8Array(memory.get(name).buffer)[at] = value
  },
  read({ name, at = 0 }) {
    return new Uint8Array(memory.get(name).buffer)[at]
  },
  grow({ name, size }) {
    const { buffer: before } = memory.get(name)
    const after = memory.get(name).grow(size)
    return { size: after.byteLength, before: before.byteLength }
  },
  async file({ name, path }) {
    const own = path === undefined ? undefined : openSync(path, 'a+')
    const number = await live.file(name, own)
    if (number === undefined) return undefined
    const { ino } = fstatSync(number)
    if (own !== undefined && number !== own) closeSync(own)
    return { ino, number, own }
  },
  async session({ name, ...options }) {
    sessions.set(name, await live.session(name, options))
    return sessions.get(name).fd !== undefined
  },
  async openSession({ name, ...options }) {
    sessions.set(name, await openSession(name, options))
  },
  async adoptSession({ as, ...which }) {
    const session = await adoptSession(which)
    sessions.set(as, session)
    return session.name
  },
  /** Preserves the file at `path`. */
  async preserve({ name, token, path, format }) {
    const file = openSync(path, 'a+')
    await sessions.get(name).preserve(token, file, format)
    closeSync(file)
  },
  async retrieve({ name, token }) {
    const number = await sessions.get(name).retrieve(token)
    const content = readFileSync(number, 'utf8')
    closeSync(number)
    return content
  },
  unpreserve: ({ name, tokens }) => sessions.get(name).unpreserve(...tokens),
  tokens: async ({ name }) => (await sessions.get(name).tokens()).map(String),
  closeSession: ({ name }) => sessions.get(name).close(),
  /** Another puppet, as a child that gets the session's descriptor as number 3. */
  spawn: ({ name, args }) => {
    const [program, ...rest] = args
    spawn(program, rest, { stdio: ['ignore', 'ignore', 'inherit', sessions.get(name).fd] }).unref()
  },
  append({ number, text }) {
    writeSync(number, text)
  },
  async serve({ says, ...options }) {
    const server = createServer((request, response) => {
      request.resume()
      response.end(says)
    })
    servers.push(server)
    await live.serve(server, options)
    return server.listening
  },
  ready: () => live.ready(),
  leave: () => live.leave(),
  close: () => live.close(),
  refuse({ reason, at }) {
    live.on(at, () => {
      throw new Refusal(reason)
    })
  },
  /** The next request of this method is cut; see cut.mjs. */
  cut,
  cutNow,
  maps: () => readFileSync('/proc/self/maps', 'utf8').includes('koffi'),
  hang: () => {
    for (;;);
  },
}

const socket = createConnection(process.argv[2])
const say = (value) => socket.write(`${JSON.stringify(value)}\n`)
say({ hello: { pid: process.pid, ticket: process.env.LUO_TICKET !== undefined } })
createInterface({ input: socket }).on('line', async (line) => {
  const { n, op, ...args } = JSON.parse(line)
  try {
    say({ n, result: (await operations[op](args)) ?? null })
  } catch (error) {
    say({ n, error: { code: error.code ?? 'none', message: error.message } })
  }
})
socket.on('close', () => process.exit(0))
