/** The service that all peers run, and the same work for each request: a small answer after a little computing. */
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

export const port = Number(process.env.BENCH_PORT)
const KEEP_ALIVE_MS = 60_000

export function createApp() {
  const server = createServer((request, response) => {
    request.resume()
    const answer = `${createHash('sha256').update(request.url).digest('hex')} ${process.pid}\n`
    response.writeHead(200, { 'content-length': answer.length })
    response.end(answer)
  })
  server.keepAliveTimeout = KEEP_ALIVE_MS
  return server
}

/** As Node's and pm2's documentation have it: take no more, let what is under way end, then exit. */
export function closeGracefully(server, limitMs = 2_000) {
  server.close(() => process.exit(0))
  server.closeIdleConnections()
  setTimeout(() => process.exit(0), limitMs).unref()
}
