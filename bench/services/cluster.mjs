/**
 * The app under Node's cluster, its workers replaced one after the other on SIGHUP: a new worker first, and when it
 * listens, the old one is told to close and is disconnected, as Node's documentation has it. Says "updated" when done.
 */
import cluster from 'node:cluster'
import { once } from 'node:events'
import { closeGracefully, createApp, port } from './app.mjs'

const WORKERS = 2
const STOP_LIMIT_MS = 2_000

async function replaceWorkers() {
  for (const old of Object.values(cluster.workers)) {
    await once(cluster.fork(), 'listening')
    const ended = once(old, 'exit')
    old.send('shutdown')
    old.disconnect()
    const limit = setTimeout(() => old.kill(), STOP_LIMIT_MS)
    await ended
    clearTimeout(limit)
  }
  process.send('updated')
}

if (cluster.isPrimary) {
  for (let count = 0; count < WORKERS; count++) await once(cluster.fork(), 'listening')
  process.on('SIGHUP', replaceWorkers)
  const end = () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGKILL')
    process.exit(0)
  }
  process.on('SIGTERM', end)
  process.on('disconnect', end)
  process.send('ready')
} else {
  const server = createApp()
  process.on('message', (message) => {
    if (message === 'shutdown') closeGracefully(server, STOP_LIMIT_MS)
  })
  process.on('SIGHUP', () => {})
  server.listen(port, '127.0.0.1')
}
