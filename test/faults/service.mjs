// A service for tests: counts requests in preserved memory. SERVICE_VERSION is what it answers with.
import { createServer } from 'node:http'
import { join } from 'liveupdate'

const live = await join({ accepts: ['hits/1'] })
let hits
const server = createServer((request, response) => {
  request.resume()
  hits[0] += 1
  response.end(JSON.stringify({ version: process.argv[3], pid: process.pid, hits: hits[0], origin: live.origin }))
})
server.keepAliveTimeout = 60_000
const memory = await live.memory('hits', { size: 65_536, format: 'hits/1' })
hits = new Uint32Array(memory.buffer)
await live.serve(server, { host: '127.0.0.1', port: Number(process.argv[2]) })
await live.ready()
