/** A service whose memory crosses a kexec. */
import { createServer } from 'node:http'
import { join } from '../../dist/client/index.js'

const live = await join()
const server = createServer((_, response) => response.end(`${memory.buffer[0]}\n`))
const memory = await live.memory('store', { size: 16 * 2 ** 20 })
await live.serve(server, { host: '127.0.0.1', port: Number(process.env.BENCH_PORT) })
memory.buffer[0] = 42
await live.ready()
