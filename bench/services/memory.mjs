/**
 * A service with much memory: `memory.mjs MIB LOAD_MS`. LOAD_MS is how long its code takes to load: a busy loop before
 * it joins. `GET /populate` has the kernel allocate and map every page of the memory; `GET /` reads one byte of it.
 */
import { createServer } from 'node:http'
import koffi from 'koffi'
import { join } from '../../dist/client/index.js'

const [mebibytes, loadMs] = process.argv.slice(2).map(Number)
const size = mebibytes * 2 ** 20
/** As the library makes them beforehand. */
const WINDOW_BYTES = 2 ** 31
const MADV_POPULATE_WRITE = 23
const POPULATE_BYTES = 2 ** 26

for (const end = performance.now() + loadMs; performance.now() < end; );

const live = await join({ drainMs: 1_000 })
const windows = []
const server = createServer(async (request, response) => {
  if (request.url === '/populate') await populate()
  const answer = `${process.pid} ${windows[0][0]}\n`
  response.writeHead(200, { 'content-length': answer.length })
  response.end(answer)
})

/** In steps, so that requests beside it are answered. */
async function populate() {
  const madvise = koffi.load(null).func('int madvise(void *address, size_t length, int advice)')
  for (const window of windows) {
    for (let at = 0; at < window.length; at += POPULATE_BYTES) {
      const part = window.subarray(at, at + POPULATE_BYTES)
      if (madvise(part, part.length, MADV_POPULATE_WRITE) !== 0) throw new Error(`madvise: errno ${koffi.errno()}`)
      part[0] = 1
      await new Promise(setImmediate)
    }
  }
}

process.once('SIGTERM', () => live.leave().finally(() => process.exit(0)))
const memory = await live.memory('memory', { size })
for (let at = 0; at < size; at += WINDOW_BYTES) {
  const length = Math.min(WINDOW_BYTES, size - at)
  windows.push(new Uint8Array(size <= WINDOW_BYTES ? memory.buffer : memory.window(at, length)))
}
await live.serve(server, { host: '127.0.0.1', port: Number(process.env.BENCH_PORT) })
await live.ready()
