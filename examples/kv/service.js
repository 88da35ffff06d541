/**
 * What all versions of the key-value service share: HTTP over a store in preserved memory.
 *
 *     GET  /kv/KEY            the value; 404 when there is none
 *     PUT  /kv/KEY            204 when it is stored
 *     GET  /version           which version answers
 *     GET  /stats             how much there is, and the checksum over all of it
 *     GET  /check             the same by reading everything again
 *     PUT  /admin/refuse?reason=TEXT   refuse the next update
 *     PUT  /admin/late?ms=N            take N ms to prepare for the next update
 *     PUT  /admin/fill?mb=N            store N values of 1 MiB
 *     PUT  /admin/drop                 drop the connection of the next /kv request instead of answering it
 *
 * What a client was told (204) is in the preserved memory already: there is nothing to flush at an update or a crash.
 */
import { createServer } from 'node:http'
import { join, Refusal } from 'liveupdate'
import { FORMAT, Store, StoreFull } from './store.js'

export const SIZE = 256 * 2 ** 20
const MIB = 2 ** 20
/** Larger values are refused. */
const MAX_VALUE_BYTES = 4 * MIB
const KEEP_ALIVE_MS = 60_000
/** SIGTERM ends the service after this, whatever luod answers. */
const STOP_LIMIT_MS = 1_000

/**
 * Runs one version. `accepts` are the formats of the store that it can read; `beforeReady` is called when everything
 * is restored and nothing is committed.
 */
export async function run({ version, accepts = [FORMAT], beforeReady }) {
  const live = await join({ accepts })
  const next = { refuse: undefined, lateMs: 0, drop: false }
  let store

  // What needs no state is made before the state is asked for: in an update clients wait from there on.
  const server = createServer((request, response) => {
    answer({ request, response, store, version, next }).catch((error) => {
      const status = error instanceof StoreFull ? 507 : error instanceof RangeError ? 400 : 500
      reply(response, status, `${error.message}\n`)
    })
  })
  server.keepAliveTimeout = KEEP_ALIVE_MS

  live.on('prepare', async () => {
    const { refuse, lateMs } = next
    next.refuse = undefined
    next.lateMs = 0
    if (lateMs > 0) await new Promise((resolve) => setTimeout(resolve, lateMs))
    if (refuse !== undefined) throw new Refusal(refuse)
  })

  // Stopped on purpose: the state is given up, so that luod does not keep it for a restart.
  process.once('SIGTERM', async () => {
    setTimeout(() => process.exit(0), STOP_LIMIT_MS).unref()
    await live.leave().catch((error) => console.error(`kv ${version}: ${error.message}`))
    process.exit(0)
  })

  const memory = await live.memory('store', { size: SIZE, format: FORMAT })
  store = Store.open(memory.buffer)
  await live.serve(server, { host: '127.0.0.1', port: Number(process.env.KV_PORT ?? 8080) })
  await beforeReady?.({ live, memory, server })
  await live.ready()
  const how = live.successor ? `goes on (${live.origin})` : 'starts'
  console.log(`kv ${version} ${how} with ${store.stats().count} keys, pid ${process.pid}`)
}

async function answer({ request, response, store, version, next }) {
  const url = new URL(request.url, 'http://kv')
  const route = `${request.method} ${url.pathname}`
  if (url.pathname.startsWith('/kv/')) {
    const body = request.method === 'PUT' ? await readBody(request) : undefined
    if (next.drop) {
      next.drop = false
      return void request.socket.destroy()
    }
    const key = decodeURIComponent(url.pathname.slice('/kv/'.length))
    if (body) {
      store.put(key, body)
      return reply(response, 204)
    }
    if (request.method !== 'GET') return reply(response, 405, 'GET or PUT\n')
    const value = store.get(key)
    return value ? reply(response, 200, value) : reply(response, 404, 'no such key\n')
  }
  request.resume()
  switch (route) {
    case 'GET /version':
      return json(response, { version, pid: process.pid })
    case 'GET /stats':
      return json(response, { version, ...store.stats() })
    case 'GET /check':
      return json(response, { version, ...store.check() })
    case 'PUT /admin/refuse':
      next.refuse = url.searchParams.get('reason') ?? 'not now'
      return reply(response, 204)
    case 'PUT /admin/late':
      next.lateMs = Number(url.searchParams.get('ms') ?? 0)
      return reply(response, 204)
    case 'PUT /admin/drop':
      next.drop = true
      return reply(response, 204)
    case 'PUT /admin/fill':
      fill(store, Number(url.searchParams.get('mb') ?? 1))
      return reply(response, 204)
    default:
      return reply(response, 404, 'no such page\n')
  }
}

async function readBody(request) {
  const chunks = []
  let length = 0
  for await (const chunk of request) {
    length += chunk.length
    if (length > MAX_VALUE_BYTES) throw new RangeError(`the value has more than ${MAX_VALUE_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function json(response, value) {
  reply(response, 200, `${JSON.stringify(value)}\n`)
}

function reply(response, status, body = '') {
  response.writeHead(status, status === 204 ? {} : { 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

/** Values that no compression and no lucky zero page can stand in for. */
function fill(store, mebibytes) {
  const value = Buffer.alloc(MIB)
  const words = new Uint32Array(value.buffer, value.byteOffset, MIB / 4)
  let state = 0x9e3779b9
  for (let i = 0; i < mebibytes; i++) {
    for (let at = 0; at < words.length; at++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      words[at] = state
    }
    store.put(`fill-${i}`, value)
  }
}
