// A service for tests of groups: `db` keeps what is PUT in preserved memory; `web` asks db for every answer.
// Arguments: the role, its port, and for web the port of db. It does not start while ROLE.broken is there.
import { existsSync } from 'node:fs'
import { Agent, createServer, request } from 'node:http'
import { join } from 'liveupdate'

const [, , role, port, dbPort] = process.argv
if (existsSync(`${role}.broken`)) process.exit(1)
const host = '127.0.0.1'
const LENGTH_BYTES = 4

async function bodyOf(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

const live = await join(role === 'web' ? { after: ['db'] } : {})
let store
const agent = new Agent({ keepAlive: true })

async function ask({ method, url }, body) {
  const asked = request({ host, port: dbPort, agent, method, path: url })
  asked.end(body)
  const answer = await new Promise((resolve, reject) => asked.once('response', resolve).once('error', reject))
  return { status: answer.statusCode, body: await bodyOf(answer) }
}

function look({ method, url }, body) {
  const bytes = Buffer.from(store.buffer)
  const length = bytes.readUInt32LE(0)
  const table = length === 0 ? {} : JSON.parse(bytes.toString('utf8', LENGTH_BYTES, LENGTH_BYTES + length))
  if (method === 'GET') return { status: table[url] === undefined ? 404 : 200, body: table[url] ?? '' }
  table[url] = body.toString()
  bytes.writeUInt32LE(bytes.write(JSON.stringify(table), LENGTH_BYTES))
  return { status: 204, body: '' }
}

const server = createServer(async (req, response) => {
  try {
    const body = await bodyOf(req)
    const answer = role === 'web' ? await ask(req, body) : look(req, body)
    response.writeHead(answer.status, answer.status === 204 ? {} : { 'content-length': answer.body.length })
    response.end(answer.body)
  } catch (error) {
    response.writeHead(502)
    response.end(String(error))
  }
})
server.keepAliveTimeout = 60_000
store = await live.memory('store', { size: 65_536, format: `${role}/1` })
await live.serve(server, { host, port: Number(port) })
await live.ready()
