/**
 * Where metrics are served, if anywhere: a Unix socket of luod's user only, or a port of the loopback interface. They
 * tell how many workloads there are and how updates go, which is nobody's business outside of this machine, and a port
 * that is open to others is one more way into a daemon of root: any other address is LUO_INVALID_PARAMETER.
 *
 * Only `GET /metrics` is answered. Clients have limits on headers, connections and time.
 */
import type { Server } from 'node:http'
import { isIPv4 } from 'node:net'
import { asLuoError, LuoError } from '../errors.js'
import { listenOn } from '../sys/node.js'
import { prepareSocketDirectory, socketPath } from '../wire/socket-path.js'
import { listenAlone } from './listen-alone.js'

export type MetricsAddress = { path: string } | { host: string; port: number }

const SOCKET_MODE = 0o600
const MAX_PORT = 65_535
const MAX_HEADER_BYTES = 8 * 1024
const MAX_CONNECTIONS = 16
/** For a request to come, for its answer to be taken, and for a connection without one. */
const TIMEOUT_MS = 5_000

/** `unix:/PATH`, `127.0.0.1:PORT` or `[::1]:PORT`. */
export function parseMetricsAddress(text: string): MetricsAddress {
  const invalid = (why: string) => new LuoError('LUO_INVALID_PARAMETER', `--metrics ${text}: ${why}`)
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length)
    if (!path.startsWith('/') || path.includes('\0')) throw invalid('write unix: and an absolute path')
    return { path: socketPath(path) }
  }
  const [, host = '', digits = ''] = /^(.*):(\d{1,5})$/s.exec(text) ?? []
  const port = Number(digits)
  if (host === '' || port < 1 || port > MAX_PORT) throw invalid('write unix:/PATH, 127.0.0.1:PORT or [::1]:PORT')
  if (host === '[::1]') return { host: '::1', port }
  if (isIPv4(host) && host.startsWith('127.')) return { host, port }
  throw invalid('metrics are for this machine only: 127.0.0.1 and [::1] go, and what forwards them can ask who reads')
}

export interface Content {
  readonly contentType: string
  metrics(): Promise<string>
}

/** Answers when it listens. */
export async function serveMetrics(
  address: MetricsAddress,
  content: Content,
  onDefect: (error: unknown) => void,
): Promise<Server> {
  // A luod without metrics starts sooner when this is not loaded.
  const { createServer } = await import('node:http')
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: TIMEOUT_MS,
      requestTimeout: TIMEOUT_MS,
      keepAliveTimeout: TIMEOUT_MS,
      connectionsCheckingInterval: TIMEOUT_MS,
    },
    (request, response) => {
      const end = (status: number, text: string, headers: Record<string, string> = {}) => {
        // What else such a client may send is not waited for.
        response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', connection: 'close', ...headers })
        response.end(text)
      }
      if (request.url !== '/metrics') return end(404, 'There is only /metrics.\n')
      if (request.method !== 'GET') return end(405, 'Only GET is answered.\n', { allow: 'GET' })
      content.metrics().then(
        (text) => end(200, text, { 'content-type': content.contentType, connection: 'keep-alive' }),
        (error: unknown) => {
          onDefect(error)
          end(500, 'luod failed, see its log.\n')
        },
      )
    },
  )
  server.maxConnections = MAX_CONNECTIONS
  // A client that does not take its answer.
  server.setTimeout(TIMEOUT_MS)
  if ('path' in address) {
    prepareSocketDirectory(address.path)
    await listenOn(server, listenAlone(address.path, SOCKET_MODE).listener)
  } else {
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(asLuoError(error, 'EIO', `listen at ${address.host}:${address.port}`)))
      server.listen(address.port, address.host, resolve)
    })
  }
  server.on('error', onDefect)
  return server
}
