/** The benchmark's side of the load's process. */
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { start } from './cleanup.mjs'

const LOAD = fileURLToPath(new URL('../services/load.mjs', import.meta.url))

export class Load {
  #child
  #calls = 0
  #waiting = new Map()

  static async start({ port, connections, rate }) {
    const load = new Load()
    const args = [LOAD, ...[port, connections, rate].map(String)]
    load.#child = start(process.execPath, args, { stdio: ['ignore', 2, 2, 'ipc'] })
    load.#child.on('message', ({ id, result }) => {
      load.#waiting.get(id)?.resolve(result)
      load.#waiting.delete(id)
    })
    load.#child.once('exit', () => {
      for (const { reject } of load.#waiting.values()) reject(new Error('the load has ended'))
    })
    await load.call('start')
    return load
  }

  call(method) {
    const id = ++this.#calls
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#child.send({ id, method })
    })
  }

  end() {
    this.#child.kill('SIGKILL')
  }
}

export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}
