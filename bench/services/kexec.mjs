/** A service whose memory crosses a kexec. */
import { createServer } from 'node:http'
import { join } from '../../dist/client/index.js'

const live = await join()
const server = createServer((_, response) => response.end(`${bytes[0]}\n`))
const { buffer } = await live.memory('store', { size: 16 * 2 ** 20 })
const bytes = new Uint8Array(buffer)
await live.serve(server, { host: '127.0.0.1', port: Number(process.env.BENCH_PORT) })
bytes[0] = 42
await live.ready()
