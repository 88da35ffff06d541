// A bad version: it restores everything, scribbles over the whole store, reads from whatever connection it is given,
// and ends before it is ready; with --throw by an exception that nobody catches. Nobody must notice.
import { run, SIZE } from './service.js'

await run({
  version: 'crash',
  beforeReady: ({ memory, server }) => {
    server.prependListener('connection', (socket) => socket.on('data', () => {}))
    new Uint8Array(memory.buffer).fill(0xdb)
    if (new Uint8Array(memory.buffer)[SIZE - 1] !== 0xdb) throw new Error('the scribble was not even seen here')
    // Two turns of the loop, so that anything readable is read.
    setTimeout(() => {
      if (process.argv.includes('--throw')) throw new Error('this version cannot work')
      process.exit(1)
    }, 50)
    return new Promise(() => {})
  },
})
